package hbone

import (
	"crypto/tls"

	"github.com/ambit-mesh/ambit/internal/hbone/tls13"
)

// layer turns the records of a recordConn into plaintext and back. The reader of
// a connection calls read, ready, wait and updates, its writer the rest.
type layer interface {
	// read gives what can be had without waiting; full says that p has no room
	// for what else there is. Without anything it returns errWouldBlock.
	read(p []byte) (n int, full bool, err error)
	// ready bounds what read can give now.
	ready() int
	// wait returns when more bytes have come from the peer. Meanwhile it holds
	// at most the part of a record.
	wait() error
	// updates is how often the peer has changed its keys.
	updates() int
	// seal gathers records with p, the first of total bytes that follow one
	// another. It flushes when it must. p may have capacity for one byte more,
	// which is then used meanwhile.
	seal(p []byte, total int) error
	// alert gathers what tells the peer of err, if it is to be told.
	alert(err error)
	// closeNotify gathers the end of our direction.
	closeNotify()
	// wipe clears the keys. Neither the reader nor a writer may be at work.
	wipe()
}

// newLayer returns our own layer for a connection whose handshake is done, or
// that of crypto/tls where we may not have the keys.
func newLayer(rec *recordConn, tc *tls.Conn, keys *tls13.KeyLog, state *tls.ConnectionState, client bool) layer {
	rec.gather, rec.polling = true, true
	if keys != nil {
		if r, w, ok := keys.Take(state, client); ok {
			return &ownLayer{rec: rec, r: r, w: w}
		}
	}
	return &stdLayer{rec: rec, tc: tc}
}

// ownLayer opens records from where they were read into the buffer of the
// parser, and seals frames into the buffer that is written.
type ownLayer struct {
	rec *recordConn

	// Owned by the reader.
	r    *tls13.Reader
	rest []byte // opened where it lay, since the parser had no room

	// Owned by the writer.
	w   *tls13.Writer
	tmp [tls13.UpdateLen]byte
}

func (l *ownLayer) ready() int   { return len(l.rest) + l.rec.in.len() }
func (l *ownLayer) wait() error  { return l.rec.wait() }
func (l *ownLayer) updates() int { return l.r.Updates() }

func (l *ownLayer) read(p []byte) (n int, full bool, err error) {
	for {
		k := copy(p[n:], l.rest)
		if n, l.rest = n+k, l.rest[k:]; len(l.rest) == 0 {
			l.rest = nil // not even an empty slice: it would keep the buffer alive
		}
		rec, err := l.next()
		switch {
		case err != nil:
			return n, false, err
		case len(l.rest) > 0 || rec != nil && n > 0 && len(p)-n < len(rec):
			return n, true, nil
		case rec == nil && n == 0:
			return 0, false, errWouldBlock{}
		case rec == nil:
			return n, false, nil
		}
		if len(p)-n >= len(rec) {
			data, err := l.r.Open(p[n:n], rec)
			if err != nil {
				return n, false, err
			}
			n += len(data)
		} else if l.rest, err = l.r.Open(rec[tls13.HeadLen:tls13.HeadLen], rec); err != nil {
			return n, false, err
		}
		l.rec.in.r += len(rec)
	}
}

// next is the next whole record; nil when it has not come.
func (l *ownLayer) next() ([]byte, error) {
	b := l.rec.in
	if b.len() < tls13.HeadLen {
		return nil, nil
	}
	n, err := l.r.Len(b.bytes())
	if err != nil || n > b.len() {
		return nil, err
	}
	return b.bytes()[:n], nil
}

func (l *ownLayer) seal(p []byte, total int) error {
	if l.w.Due() {
		rec, err := l.w.Update(l.tmp[:0])
		if err != nil {
			return err
		}
		if _, err := l.rec.Write(rec); err != nil {
			return err
		}
	}
	for len(p) > 0 {
		fits, err := l.rec.fit(len(p), total)
		if err != nil {
			return err
		}
		for n := 0; fits > 0; fits -= n {
			n = min(fits, tls13.MaxPlain)
			out := l.rec.out
			sealed, err := l.w.Seal(out.b[:out.w], p[:n])
			if err != nil {
				return err
			}
			out.w = len(sealed)
			p, total = p[n:], total-n
		}
	}
	return nil
}

func (l *ownLayer) alert(err error) {
	if a, ok := tls13.AlertFor(err); ok {
		l.rec.Write(l.w.Alert(l.tmp[:0], a))
	}
}

func (l *ownLayer) closeNotify() { l.rec.Write(l.w.CloseNotify(l.tmp[:0])) }

func (l *ownLayer) wipe() {
	l.r.Wipe()
	l.w.Wipe()
}

// stdLayer leaves the records to crypto/tls.
type stdLayer struct {
	rec *recordConn
	tc  *tls.Conn
}

func (l *stdLayer) ready() int   { return l.rec.in.len() }
func (l *stdLayer) updates() int { return 0 } // it bounds those that carry nothing
func (l *stdLayer) closeNotify() { l.tc.CloseWrite() }
func (l *stdLayer) wipe()        {}

func (l *stdLayer) wait() error {
	if l.rec.in != nil { // crypto/tls takes from it what it wants
		return nil
	}
	return l.rec.wait()
}

// alert: crypto/tls has gathered it when it found the error.
func (l *stdLayer) alert(error) {}

func (l *stdLayer) read(p []byte) (n int, full bool, err error) {
	for n < len(p) {
		k, err := l.tc.Read(p[n:])
		n += k
		if err != nil {
			if n > 0 && err == error(errWouldBlock{}) {
				err = nil
			}
			return n, false, err
		}
	}
	return n, true, nil
}

func (l *stdLayer) seal(p []byte, total int) error {
	for len(p) > 0 {
		fits, err := l.rec.fit(len(p), total)
		if err != nil {
			return err
		}
		if _, err := l.tc.Write(p[:fits]); err != nil {
			return err
		}
		p, total = p[fits:], total-fits
	}
	return nil
}
