package tls13

import (
	"crypto/tls"
	"encoding/binary"
	"io"
)

const (
	// HeadLen is the size of the header of a record, in bytes. Source: RFC 8446,
	// section 5.1.
	HeadLen = 5
	// MaxPlain is the most that a record carries, in bytes. Source: the same.
	MaxPlain = 1 << 14
	// MaxLen is the size of the largest record with its header, in bytes.
	// Source: RFC 8446, section 5.2.
	MaxLen = HeadLen + MaxPlain + 256
	// Overhead is what sealing adds, in bytes: header, type, tag.
	Overhead = HeadLen + 1 + tagLen
	// versionTLS12 is what every record of TLS 1.3 says. Source: RFC 8446,
	// section 5.1.
	versionTLS12 = 0x0303
	// maxUseless is how many records or messages that carry nothing may follow
	// one another. As in crypto/tls.
	maxUseless = 16
	// maxTicket bounds a session ticket, in bytes. Source: RFC 8446, section
	// 4.6.1: its parts have at most 64 KiB each; nobody sends so much.
	maxTicket = 1 << 16
)

// The messages that may come after the handshake. Source: RFC 8446, section 4.
const (
	msgTicket    = 4
	msgKeyUpdate = 24
	msgHeadLen   = 4
)

// Reader opens the records of one connection. One goroutine uses it.
type Reader struct {
	keys
	answer  *Writer // is asked for a key update when the peer wants one
	client  bool    // tickets are fine
	err     error   // ends all reading; set once
	useless int     // in a row
	updates int

	// The message under way, of which no more than this is kept.
	msg    [msgHeadLen]byte
	msgLen int // of its head
	skip   int // of a ticket
}

// Updates is how often the peer has changed its keys.
func (r *Reader) Updates() int { return r.updates }

// Wipe clears the keys. Nothing can be opened any more.
func (r *Reader) Wipe() {
	if r.err == nil {
		r.err = io.ErrClosedPipe
	}
	r.wipe()
}

// Len is the size of the record that begins with head, of at least HeadLen
// bytes, its header included. Errors are final: see [AlertFor].
func (r *Reader) Len(head []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if binary.BigEndian.Uint16(head[1:]) != versionTLS12 {
		return 0, r.fail(local(alertProtocolVersion))
	}
	n := HeadLen + int(binary.BigEndian.Uint16(head[3:]))
	if n > MaxLen {
		return 0, r.fail(local(alertRecordOverflow))
	}
	return n, nil
}

// Open opens one whole record and returns the data in it, which may be none. It
// is appended to dst, whose capacity must exceed its length by that of rec. dst
// and rec must not overlap, unless dst is rec[HeadLen:HeadLen]. rec is spent
// then.
//
// Errors: io.EOF when the peer has said close_notify; a net.OpError with a
// tls.AlertError, whose Op is "remote error" when the alert was the peer's.
// All are final.
func (r *Reader) Open(dst, rec []byte) ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	body := rec[HeadLen:]
	if rec[0] == typeChangeCipherSpec { // not protected; RFC 8446, appendix D.4
		return nil, r.changeCipherSpec(body)
	}
	plain, err := r.aead.Open(dst[len(dst):], r.number(), body, rec[:HeadLen])
	switch {
	case err != nil:
		return nil, r.fail(local(alertBadRecordMAC))
	case rec[0] != typeData:
		return nil, r.fail(local(alertUnexpectedMessage))
	case len(plain) > MaxPlain+1:
		return nil, r.fail(local(alertRecordOverflow))
	}
	kind := byte(typeData)
	for i := len(plain) - 1; i >= 0; i-- { // zeros behind the type are padding
		if kind, plain = plain[i], plain[:i]; kind != 0 {
			break
		}
	}
	if len(plain) > MaxPlain {
		return nil, r.fail(local(alertRecordOverflow))
	}
	r.seq++
	if kind == typeData && len(plain) > 0 && !r.inMessage() {
		r.useless = 0
		return plain, nil
	}
	return nil, r.control(kind, plain)
}

// fail ends all reading for err.
func (r *Reader) fail(err error) error {
	r.err = err
	return err
}

// inMessage reports whether a message has begun and not ended.
func (r *Reader) inMessage() bool { return r.msgLen > 0 || r.skip > 0 }

// ignore lets a record or message that carries nothing pass, if they are few.
func (r *Reader) ignore() error {
	if r.useless++; r.useless > maxUseless {
		return r.fail(local(alertUnexpectedMessage))
	}
	return nil
}

// changeCipherSpec takes the record that some peers send for the sake of
// middleboxes.
func (r *Reader) changeCipherSpec(body []byte) error {
	switch {
	case r.inMessage():
		return r.fail(local(alertUnexpectedMessage))
	case len(body) != 1 || body[0] != 1:
		return r.fail(local(alertDecodeError))
	}
	return r.ignore()
}

// control takes the content of a record without data.
func (r *Reader) control(kind byte, p []byte) error {
	switch {
	case kind != typeHandshake && r.inMessage(): // RFC 8446, section 5.1
		return r.fail(local(alertUnexpectedMessage))
	case kind == typeData:
		return r.ignore()
	case kind == typeAlert && len(p) == 2:
		return r.alert(tls.AlertError(p[1]))
	case kind == typeHandshake && len(p) > 0:
		return r.messages(p)
	}
	return r.fail(local(alertUnexpectedMessage))
}

// alert takes an alert of the peer. All but two are fatal, whatever their level
// says. Source: RFC 8446, section 6.
func (r *Reader) alert(a tls.AlertError) error {
	switch a {
	case alertCloseNotify:
		return r.fail(io.EOF)
	case alertUserCanceled:
		return r.ignore()
	}
	return r.fail(remote(a))
}

// messages takes a piece of the stream of handshake messages.
func (r *Reader) messages(p []byte) error {
	for len(p) > 0 {
		if r.skip > 0 {
			n := min(r.skip, len(p))
			r.skip -= n
			p = p[n:]
			continue
		}
		n := copy(r.msg[r.msgLen:], p)
		r.msgLen += n
		p = p[n:]
		size := int(r.msg[1])<<16 | int(r.msg[2])<<8 | int(r.msg[3])
		if r.msgLen < msgHeadLen || r.msg[0] == msgKeyUpdate && size == 1 && len(p) == 0 {
			return nil
		}
		r.msgLen = 0
		if err := r.ignore(); err != nil {
			return err
		}
		switch {
		case r.msg[0] == msgTicket && r.client && 0 < size && size <= maxTicket:
			r.skip = size // we resume no session
		case r.msg[0] == msgKeyUpdate && size == 1:
			return r.keyUpdate(p)
		case r.msg[0] == msgKeyUpdate || r.msg[0] == msgTicket && r.client:
			return r.fail(local(alertDecodeError))
		default:
			return r.fail(local(alertUnexpectedMessage))
		}
	}
	return nil
}

// keyUpdate takes the body of a KeyUpdate, which must be the last of its
// record. Source: RFC 8446, sections 4.6.3 and 5.1.
func (r *Reader) keyUpdate(p []byte) error {
	switch {
	case p[0] > 1:
		return r.fail(local(alertDecodeError))
	case len(p) > 1:
		return r.fail(local(alertUnexpectedMessage))
	}
	if err := r.update(); err != nil {
		return r.fail(local(alertInternalError))
	}
	r.updates++
	if p[0] == 1 {
		r.answer.asked.Store(true)
	}
	return nil
}
