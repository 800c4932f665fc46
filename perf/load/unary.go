package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/waypoint/http2"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// grpcPrefix is what stands before a message of gRPC: not compressed, and its
// length in four bytes. Source: the gRPC protocol over HTTP/2, Length-Prefixed-Message.
const grpcPrefix = 5

// grpcMessage is a message of a size, all zeros, with its prefix.
func grpcMessage(size int) []byte {
	m := make([]byte, grpcPrefix+size)
	m[3], m[4] = byte(size>>8), byte(size)
	return m
}

// questionSize is what a call asks with, in bytes; it is answered with bodySize.
const questionSize = 64

// serveUnary answers calls of gRPC on c until the client ends.
func serveUnary(_ context.Context, c net.Conn) error {
	body := grpcMessage(bodySize)
	return http2.NewServer(c, func(s *http2.Stream) {
		if readWhole(s.Request().Body) != nil {
			return
		}
		head := &message.Response{Status: 200, Length: message.Unknown, Fields: message.Fields{{Name: "content-type", Value: "application/grpc"}}}
		err := s.Respond(head, false)
		if err == nil {
			err = s.Write(body, false)
		}
		if err == nil {
			err = s.Trailers(message.Fields{{Name: "grpc-status", Value: "0"}})
		}
		s.Flush()
		if err != nil {
			s.Break()
		}
	}).Serve(nil)
}

// readWhole reads a body to its end.
func readWhole(body message.Body) error {
	var p [2 << 10]byte
	for body != nil {
		if _, err := body.Read(p[:]); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
	return nil
}

// runUnary makes calls of gRPC: on each connection as many at a time as the order
// says, the next one as soon as an answer is there.
func (g *generator) runUnary(ctx context.Context, conns []net.Conn) error {
	var readers lifecycle.Group
	defer readers.Wait()
	defer closeAll(conns)
	clients := make([]*http2.Conn, len(conns))
	for i, c := range conns {
		clients[i] = http2.NewClient(c)
		readers.Go(ctx, "read", func(context.Context) { _ = clients[i].Serve(nil) }) // whoever calls sees why it ended
	}
	if err := call(ctx, clients[0]); err != nil { // all of the way stands
		return fmt.Errorf("first call: %w", err)
	}
	g.running()
	start := time.Now()
	end := start.Add(g.order.Warm + g.order.Window)
	count := g.countOf(g.order.Connections*g.order.Streams, start)
	err := eachIndex(ctx, len(count.each), func(ctx context.Context, i int) error {
		for {
			begun := time.Now()
			if begun.After(end) {
				return nil
			}
			if err := call(ctx, clients[i%len(clients)]); err != nil {
				return err
			}
			g.programs.answers.Add(1)
			count.add(i, begun, time.Now())
		}
	})
	g.result.Latency = count.encode()
	return err
}

// question is what every call asks with.
var question = grpcMessage(questionSize)

// call makes one call and wants its answer whole.
func call(ctx context.Context, c *http2.Conn) error {
	if !c.Reserve(maxStreams) {
		return errors.New("the connection takes no more calls")
	}
	s, err := c.Open(&message.Request{
		Version: message.HTTP2, Method: "POST", Scheme: "http", Authority: "perf", Target: message.Target{Path: "/perf.Load/Unary"},
		Length: message.Unknown, Trailers: true, Fields: message.Fields{{Name: "content-type", Value: "application/grpc"}},
	}, false)
	if err != nil {
		return err
	}
	if err := s.Write(question, true); err != nil {
		return err
	}
	s.Flush()
	answer, err := s.Response(ctx)
	if err != nil {
		return err
	}
	if answer.Body == nil || answer.Status != 200 {
		return fmt.Errorf("status %d", answer.Status)
	}
	if err := readWhole(answer.Body); err != nil {
		return err
	}
	if status := strings.TrimSpace(answer.Body.Trailer().Get("grpc-status")); status != "0" {
		return fmt.Errorf("grpc-status %q", status)
	}
	return nil
}

// maxStreams is the most calls on one connection that an order may ask for.
const maxStreams = 100
