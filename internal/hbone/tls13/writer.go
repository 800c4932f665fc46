package tls13

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"sync/atomic"
)

// maxRecords is how many records are sealed with the same keys: fewer than the
// 2^24.5 that AES-GCM bears. Source: RFC 8446, section 5.5.
const maxRecords = 1 << 24

// UpdateLen is the size of the record that [Writer.Update] appends, in bytes.
const UpdateLen = Overhead + msgHeadLen + 1

// AlertLen is the size of the record that [Writer.Alert] appends, in bytes.
const AlertLen = Overhead + 2

// errWorn means that the caller has not asked Due.
var errWorn = errors.New("too many records under one key")

// Writer seals the records of one connection. One goroutine at a time uses it.
type Writer struct {
	keys
	most  uint64      // records under the same keys
	asked atomic.Bool // for an update, by the Reader
}

// Wipe clears the keys. Nothing can be sealed any more.
func (w *Writer) Wipe() { w.wipe() }

// Due reports whether Update must come before the next Seal: the peer has asked
// for new keys, or ours are worn.
func (w *Writer) Due() bool { return w.seq >= w.most || w.asked.Load() }

// Update appends a record that tells the peer of new keys, and goes on to them.
// Source: RFC 8446, section 4.6.3.
func (w *Writer) Update(dst []byte) ([]byte, error) {
	w.asked.Store(false)
	dst = w.small(dst, typeHandshake, msgKeyUpdate, 0, 0, 1, 0)
	return dst, w.update()
}

// Alert appends a record with an alert.
func (w *Writer) Alert(dst []byte, alert tls.AlertError) []byte {
	level := byte(2)
	if alert == alertCloseNotify {
		level = 1
	}
	return w.small(dst, typeAlert, level, byte(alert))
}

// CloseNotify appends the alert that ends our direction.
func (w *Writer) CloseNotify(dst []byte) []byte { return w.Alert(dst, alertCloseNotify) }

// small appends a record of another kind than data.
func (w *Writer) small(dst []byte, kind byte, p ...byte) []byte {
	head := len(dst)
	dst = appendHead(dst, len(p))
	dst = append(append(dst, p...), kind)
	return w.seal(dst, head, dst[head+HeadLen:])
}

// Seal appends a record with p, of 1 to MaxPlain bytes, to dst, whose capacity
// must exceed its length by Overhead and that of p. They must not overlap. When
// p has capacity for one byte more, that byte is used and restored: the type
// stands behind the data, and so p need not be copied.
func (w *Writer) Seal(dst, p []byte) ([]byte, error) {
	switch {
	case w.aead == nil:
		return dst, io.ErrClosedPipe
	case w.seq >= w.most:
		return dst, errWorn
	}
	head := len(dst)
	dst = appendHead(dst, len(p))
	if cap(p) == len(p) {
		dst = append(append(dst, p...), typeData)
		return w.seal(dst, head, dst[head+HeadLen:]), nil
	}
	inner := p[:len(p)+1]
	old := inner[len(p)]
	inner[len(p)] = typeData
	dst = w.seal(dst, head, inner)
	inner[len(p)] = old
	return dst, nil
}

// seal seals inner behind the header at head of dst. inner may be what already
// stands there.
func (w *Writer) seal(dst []byte, head int, inner []byte) []byte {
	h := dst[head : head+HeadLen]
	body := w.aead.Seal(dst[head+HeadLen:head+HeadLen], w.number(), inner, h)
	w.seq++
	return dst[:head+HeadLen+len(body)]
}

// appendHead appends the header of a record with n bytes.
func appendHead(dst []byte, n int) []byte {
	dst = append(dst, typeData)
	dst = binary.BigEndian.AppendUint16(dst, versionTLS12)
	return binary.BigEndian.AppendUint16(dst, uint16(n+1+tagLen))
}
