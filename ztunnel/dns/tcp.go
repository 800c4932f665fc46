package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// ServeTCP answers the questions on c, one after the other, until the asker ends
// it, is quiet for too long, or ctx ends. target is where the asker was going.
// The connection is closed in the end.
func (s *Server) ServeTCP(ctx context.Context, c net.Conn, target netip.AddrPort) {
	defer c.Close()
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		return // too many: an end, after which a resolver asks again
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	for {
		if err := c.SetDeadline(time.Now().Add(streamIdle)); err != nil {
			return
		}
		raw, err := readMessage(c)
		if err != nil {
			return // the asker has ended it, or there is nothing to wait for
		}
		q, ok := parseQuestion(raw)
		if !ok {
			return
		}
		if q.transfer() {
			s.relay(ctx, &q, c, target)
			return
		}
		out := s.stream(ctx, &q, target)
		if err := c.SetDeadline(time.Now().Add(streamIdle)); err != nil {
			return
		}
		if out == nil || writeMessage(c, out) != nil {
			return
		}
	}
}

// stream finds the answer to q, which came over TCP.
func (s *Server) stream(ctx context.Context, q *question, target netip.AddrPort) []byte {
	s.waitReady(ctx)
	out, a, done := s.own(q, "tcp")
	if done {
		return out
	}
	leave, err := s.enter()
	if err != nil {
		return s.refuse(q, a, err)
	}
	defer leave()
	to, err := s.whom(target, nil, netip.AddrPort{})
	if err != nil {
		return s.refuse(q, a, err)
	}
	return s.upstream(ctx, q, a, "tcp", to)
}

// relay hands a question on whose answer is a stream of messages, and then
// everything both ways until one side ends it.
func (s *Server) relay(ctx context.Context, q *question, c net.Conn, target netip.AddrPort) {
	_, a, done := s.own(q, "tcp")
	if done {
		return
	}
	leave, err := s.enter()
	if err != nil {
		return
	}
	defer leave()
	start := time.Now()
	err = func() error {
		up, err := s.pod.Dial(ctx, "tcp", target)
		if err != nil {
			return err
		}
		defer up.Close()
		stop := context.AfterFunc(ctx, func() { up.Close() })
		defer stop()
		if err := writeMessage(up, q.raw); err != nil {
			return err
		}
		var back lifecycle.Group
		back.Go(ctx, "dns-relay", func(context.Context) {
			pump(up, c)
			up.Close()
		})
		pump(c, up)
		c.Close()
		back.Wait()
		return nil
	}()
	s.deps.Metrics.Forwarded(a.labels, time.Since(start), err)
	s.note(q, a, "zone transfer", 0, err)
}

// pump copies from src to dst until either ends or pauses for too long.
func pump(dst, src net.Conn) {
	buf := make([]byte, 16<<10)
	for {
		_ = src.SetReadDeadline(time.Now().Add(relayIdle))
		n, err := src.Read(buf)
		if n > 0 {
			_ = dst.SetWriteDeadline(time.Now().Add(relayIdle))
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// readMessage reads one message with its length in front. Source: RFC 1035,
// section 4.2.2.
func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	raw := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, raw)
	return raw, err
}

// writeMessage writes one message with its length in front.
func writeMessage(w io.Writer, raw []byte) error {
	if len(raw) > 1<<16-1 {
		return errors.New("message is longer than TCP can carry")
	}
	out := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(raw)), uint16(len(raw)))
	_, err := w.Write(append(out, raw...))
	return err
}
