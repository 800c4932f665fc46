package labapp

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"time"
)

// Session is a client at work in a pod.
type Session struct {
	conn net.Conn
	in   *bufio.Reader
}

// Begin starts a client by the control socket of a pod's programs and returns while
// it works.
func Begin(ctx context.Context, socket string, req Request) (*Session, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(req)
	if err == nil {
		_, err = conn.Write(append(raw, '\n'))
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &Session{conn: conn, in: bufio.NewReader(conn)}, nil
}

// Do runs a client to its end. The error says only that the client could not be run;
// how its work ended stands in the reply.
func Do(ctx context.Context, socket string, req Request) (Reply, error) {
	s, err := Begin(ctx, socket, req)
	if err != nil {
		return Reply{}, err
	}
	defer s.Close()
	return s.Wait(ctx)
}

// Wait waits for the client's result.
func (s *Session) Wait(ctx context.Context) (Reply, error) {
	for {
		r, err := s.Next(ctx)
		if err != nil || r.Done {
			return r, err
		}
	}
}

// Next waits for the client's next line.
func (s *Session) Next(ctx context.Context) (Reply, error) {
	cut := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer cut()
	line, err := s.in.ReadBytes('\n')
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return Reply{}, fmt.Errorf("client in the pod: %w", err)
	}
	var r Reply
	return r, json.Unmarshal(line, &r)
}

// Stop asks the client to end in good order.
func (s *Session) Stop() error {
	_, err := io.WriteString(s.conn, "stop\n")
	return err
}

// Close ends the client at once.
func (s *Session) Close() error { return s.conn.Close() }
