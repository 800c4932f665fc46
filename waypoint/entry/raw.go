package entry

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// Raw is a stream of bytes whose sending side can end by itself. *hbone.Stream
// and *net.TCPConn are the real ones.
type Raw interface {
	net.Conn
	CloseWrite() error
}

// resetter is a stream that can say that it broke off.
type resetter interface{ Reset() }

// Early is a stream of which some bytes have been read already.
type Early struct {
	Raw
	First []byte // what was read
}

// Read gives what was read first.
func (e *Early) Read(p []byte) (int, error) {
	if len(e.First) > 0 {
		n := copy(p, e.First)
		e.First = e.First[n:]
		return n, nil
	}
	return e.Raw.Read(p)
}

// Reset breaks the stream off.
func (e *Early) Reset() { Break(e.Raw) }

// Break ends a stream so that its peer does not take it for complete.
func Break(c net.Conn) {
	if r, ok := c.(resetter); ok {
		r.Reset()
		return
	}
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}

// pieces are buffers for streams of bytes.
var pieces = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// Join carries bytes both ways until both directions have ended, and counts
// them: sent are those from a to b. An end is passed on as an end; what breaks
// one side breaks the other. The end of ctx breaks both, and its cause is
// returned.
func Join(ctx context.Context, a, b Raw, sent, received *atomic.Uint64) error {
	breakBoth := func() { Break(a); Break(b) }
	stop := context.AfterFunc(ctx, breakBoth)
	defer stop()
	var wg sync.WaitGroup
	var back error
	wg.Go(func() {
		if back = oneWay(a, b, received); back != nil {
			breakBoth()
		}
	})
	err := oneWay(b, a, sent)
	if err != nil {
		breakBoth()
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil || errors.Is(err, net.ErrClosed) && back != nil {
		err = back
	}
	return err
}

// oneWay copies until src ends and passes the end on.
func oneWay(dst, src Raw, count *atomic.Uint64) error {
	buf := pieces.Get().(*[64 << 10]byte)
	defer pieces.Put(buf)
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				return werr
			}
			count.Add(uint64(n))
		}
		if err == io.EOF {
			return dst.CloseWrite()
		}
		if err != nil {
			return err
		}
	}
}
