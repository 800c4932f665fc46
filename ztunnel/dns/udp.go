package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Socket takes datagrams and can leave its port to another socket.
type Socket interface {
	ReadFromUDPAddrPort(b []byte) (n int, addr netip.AddrPort, err error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (n int, err error)
	SetReadDeadline(t time.Time) error
	LocalAddr() net.Addr
	// Leave makes it take nothing new; what waits can still be read.
	Leave() error
	Close() error
}

// readAgain is the pause after an error of the socket, so that one which comes
// again and again does not keep a core busy.
const readAgain = time.Millisecond

// leaveTime is how long a socket that has left its port is still read: what
// waits in it is there already.
const leaveTime = 20 * time.Millisecond

// ServeUDP answers what arrives at sock, which it closes in the end. The end of
// ctx means "take no more"; questions under way are answered until life ends. It
// returns nil when ctx has ended, else why there are no more questions.
func (s *Server) ServeUDP(ctx, life context.Context, sock Socket) error {
	defer sock.Close()
	stop := context.AfterFunc(ctx, func() {
		_ = sock.Leave() // a socket that cannot leave loses what comes now
		_ = sock.SetReadDeadline(time.Now().Add(leaveTime))
	})
	defer stop()
	self := netip.AddrPort{}
	if ua, ok := sock.LocalAddr().(*net.UDPAddr); ok {
		self = ua.AddrPort()
	}
	var waiting lifecycle.Group
	defer waiting.Wait()
	buf := make([]byte, largestQuestion+1)
	for {
		n, from, err := sock.ReadFromUDPAddrPort(buf)
		switch {
		case err == nil:
			s.datagram(life, &waiting, sock, self, from, buf[:n])
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return errors.New("DNS socket of a pod was closed")
		case !transient(err):
			return err
		default:
			_ = lifecycle.Sleep(ctx, readAgain) // ctx is looked at by the next read
		}
	}
}

// transient reports whether a socket can be read again after err: an answer of
// ours found nobody.
func transient(err error) bool {
	oe, ok := errors.AsType[*net.OpError](err)
	return ok && oe.Op == "read" && !oe.Timeout()
}

// datagram answers raw at once if the picture knows the answer, else on a
// goroutine of its own.
func (s *Server) datagram(life context.Context, waiting *lifecycle.Group, sock Socket, self, from netip.AddrPort, raw []byte) {
	q, ok := parseQuestion(raw)
	if !ok {
		return // not a question: silence
	}
	if len(raw) > largestQuestion {
		s.reply(sock, from, q.failure(dns.RcodeFormatError))
		return
	}
	var a asker
	known := s.ready()
	if known {
		var out []byte
		var done bool
		if out, a, done = s.own(&q, "udp"); done {
			s.reply(sock, from, out)
			return
		}
	}
	leave, err := s.enter()
	if err != nil {
		s.reply(sock, from, s.refuse(&q, a, err))
		return
	}
	q.raw = append([]byte(nil), raw...) // the buffer is used again
	waiting.Go(life, "dns-udp", func(life context.Context) {
		defer leave()
		s.reply(sock, from, s.wait(life, &q, a, known, self, from))
	})
}

// wait finds the answer to q that takes time.
func (s *Server) wait(ctx context.Context, q *question, a asker, known bool, self, from netip.AddrPort) []byte {
	if !known {
		s.waitReady(ctx)
		var out []byte
		var done bool
		if out, a, done = s.own(q, "udp"); done {
			return out
		}
	}
	asked, err := s.pod.Asked(from, self)
	to, err := s.whom(asked, err, self)
	if err != nil {
		return s.refuse(q, a, err)
	}
	return s.upstream(ctx, q, a, "udp", to)
}

// reply sends out, if there is something to send. An asker that is gone needs no
// answer.
func (s *Server) reply(sock Socket, to netip.AddrPort, out []byte) {
	if len(out) > 0 {
		_, _ = sock.WriteToUDPAddrPort(out, to)
	}
}
