package dns

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// errStrangers is why a question is given up: somebody floods it with answers.
var errStrangers = errors.New("too many answers to something else: somebody guesses")

// forward hands q on to the first resolver of to that answers. Each gets a share
// of the time.
func (s *Server) forward(ctx context.Context, q *question, network string, to []netip.AddrPort) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Patience, fmt.Errorf("no answer within %v", s.cfg.Patience))
	defer cancel()
	deadline, _ := ctx.Deadline()
	var errs []error
	for i, server := range to {
		share := time.Until(deadline) / time.Duration(len(to)-i)
		out, err := s.ask(ctx, q, network, server, time.Now().Add(share))
		if err == nil {
			return out, nil
		}
		errs = append(errs, fmt.Errorf("%s %v: %w", network, server, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// ask puts q to one resolver, and returns its answer with the id that the pod
// has given.
func (s *Server) ask(ctx context.Context, q *question, network string, server netip.AddrPort, deadline time.Time) ([]byte, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	c, err := s.pod.Dial(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	id := uint16(rand.Uint32())
	var out []byte
	if network == "tcp" {
		out, err = askStream(c, q, id)
	} else {
		out, err = askDatagram(c, q, id)
	}
	if err != nil {
		return nil, errors.Join(err, context.Cause(ctx))
	}
	return withID(out, q.id), nil
}

// askDatagram sends q and waits for the answer to it. What is not that is passed
// over: it may come from somebody who guesses.
func askDatagram(c net.Conn, q *question, id uint16) ([]byte, error) {
	if _, err := c.Write(withID(q.raw, id)); err != nil {
		return nil, err
	}
	buf := make([]byte, q.most())
	for range mostStrangers {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		if q.answers(buf[:n], id) {
			return buf[:n], nil
		}
	}
	return nil, errStrangers
}

// askStream is askDatagram over TCP, where nobody else can answer.
func askStream(c net.Conn, q *question, id uint16) ([]byte, error) {
	if err := writeMessage(c, withID(q.raw, id)); err != nil {
		return nil, err
	}
	out, err := readMessage(c)
	if err == nil && !q.answers(out, id) {
		err = errors.New("the answer is not to the question")
	}
	return out, err
}

// most is the largest answer to q that may come over UDP: what its asker has
// room for.
func (q *question) most() int {
	most := largestAnswer
	if m, _, err := q.understand(); err == nil {
		if opt := m.IsEdns0(); opt != nil {
			most = max(most, int(opt.UDPSize()))
		}
	}
	return most
}

// Resolvers reads whom a resolv.conf names. Source: resolv.conf(5).
func Resolvers(path string) ([]netip.AddrPort, error) {
	conf, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	for _, text := range conf.Servers {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("%s: nameserver %q: %w", path, text, err)
		}
		out = append(out, netip.AddrPortFrom(a, resolverPort))
	}
	return out, nil
}

// resolverPort is where resolvers listen.
const resolverPort = 53
