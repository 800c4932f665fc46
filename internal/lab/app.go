package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// Session is a client at work in a pod.
type Session struct {
	conn net.Conn
	in   *bufio.Reader
}

// Begin starts a client in the pod and returns while it works.
func (p *Pod) Begin(ctx context.Context, req labapp.Request) (*Session, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", p.control)
	if err != nil {
		return nil, fmt.Errorf("programs of %v: %w", p, err)
	}
	raw, err := json.Marshal(req)
	if err == nil {
		_, err = conn.Write(append(raw, '\n'))
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("programs of %v: %w", p, err)
	}
	return &Session{conn: conn, in: bufio.NewReader(conn)}, nil
}

// Next waits for the client's next line.
func (s *Session) Next(ctx context.Context) (labapp.Reply, error) {
	cut := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer cut()
	line, err := s.in.ReadBytes('\n')
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return labapp.Reply{}, fmt.Errorf("client in the pod: %w", err)
	}
	var r labapp.Reply
	return r, json.Unmarshal(line, &r)
}

// Stop asks the client to end in good order.
func (s *Session) Stop() error {
	_, err := io.WriteString(s.conn, "stop\n")
	return err
}

// Close ends the client at once.
func (s *Session) Close() error { return s.conn.Close() }

// Do runs a client in the pod to its end. The error says only that the client
// could not be run; how its work ended stands in the reply.
func (p *Pod) Do(ctx context.Context, req labapp.Request) (labapp.Reply, error) {
	s, err := p.Begin(ctx, req)
	if err != nil {
		return labapp.Reply{}, err
	}
	defer s.Close()
	for {
		r, err := s.Next(ctx)
		if err != nil || r.Done {
			return r, err
		}
	}
}

// Hello asks the HTTP server at dst once, from the pod. Unlike with Do an answer
// that did not come is an error.
func (p *Pod) Hello(ctx context.Context, dst netip.AddrPort) (labapp.Hello, error) {
	r, err := p.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: dst.String()})
	if err != nil {
		return labapp.Hello{}, err
	}
	if r.Error != "" {
		return labapp.Hello{}, fmt.Errorf("%v to %v: %s", p, dst, r.Error)
	}
	return r.Hellos[0], nil
}
