package labapp

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

const (
	// talkMessages is how many messages a conversation has, each way.
	talkMessages = 30
	// talkRate is how many messages a second a conversation has, unless it is said.
	talkRate = 10
	// afterRefusal is how long a client that was refused waits before it talks again.
	afterRefusal = time.Second

	talkService, talkMethod = "labapp.Talk", "Talk"
)

// talker answers each message of a conversation with a [Hello]. It may be asked by
// many at once.
type talker struct {
	pod  string
	busy atomic.Int64 // conversations that go on
}

// register adds the service to a server.
func (s *talker) register(server *grpc.Server) {
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: talkService, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: talkMethod, ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error { return s.talk(stream) },
		}},
	}, s)
}

// talk serves one conversation: it ends when the client has ended its side.
func (s *talker) talk(stream grpc.ServerStream) error {
	hello := Hello{Pod: s.pod, Busy: int(s.busy.Add(1))}
	defer s.busy.Add(-1)
	for {
		var in wrapperspb.StringValue
		if err := stream.RecvMsg(&in); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		text, err := json.Marshal(hello)
		if err != nil {
			return err
		}
		if err := stream.SendMsg(wrapperspb.String(string(text))); err != nil {
			return err
		}
	}
}

// talk holds Count conversations at once, one after the other each, until it is told
// to stop, and then ends those that go on in good order. A conversation counts as a
// request that was sent; it failed unless every message was answered and its end was
// OK. What the server has not taken at all gRPC sends again by itself, as the
// protocol allows (RFC 9113, section 8.7); nothing else is.
func (c *client) talk(ctx context.Context) (Reply, error) {
	l := newLoad(c.req)
	conns := make([]*grpc.ClientConn, min(keptConns, max(c.req.Count, 1)))
	for i := range conns {
		conn, err := grpc.NewClient("passthrough:///"+c.req.Address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
		if err != nil {
			return Reply{}, err
		}
		defer conn.Close()
		conns[i] = conn
	}
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	var group lifecycle.Group
	for i := range max(c.req.Count, 1) {
		group.Go(work, "talk", func(ctx context.Context) {
			for ctx.Err() == nil && !c.stopped() {
				if !c.converse(ctx, l, conns[i%len(conns)]) && lifecycle.Sleep(ctx, afterRefusal) != nil {
					return
				}
			}
		})
	}
	telling, told := context.WithCancel(ctx)
	var teller lifecycle.Group
	teller.Go(telling, "tell", func(ctx context.Context) {
		for lifecycle.Sleep(ctx, tellEvery) == nil {
			c.tell(Reply{Load: l.report()})
		}
	})
	group.Wait()
	told()
	teller.Wait()
	return Reply{Load: l.report()}, nil
}

// stopped reports whether the client was told to stop.
func (c *client) stopped() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

// converse holds one conversation, counts it, and reports whether it went well. One
// that ends because its client was taken away is not counted.
func (c *client) converse(ctx context.Context, l *loader, conn *grpc.ClientConn) bool {
	start := time.Now()
	every := time.Duration(int64(time.Second) / cmp.Or(c.req.Rate, talkRate))
	hello, messages, err := c.messages(ctx, conn, every)
	if ctx.Err() != nil {
		return false
	}
	l.mu.Lock()
	l.numbers.Busy = max(l.numbers.Busy, hello.Busy)
	l.mu.Unlock()
	if err != nil {
		l.failed(start, false, "", fmt.Errorf("after %d messages: %w", messages, err))
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.numbers.Sent++
	l.numbers.OK++
	l.numbers.Servers[hello.Pod]++
	return true
}

// messages exchanges the messages of one conversation.
func (c *client) messages(ctx context.Context, conn *grpc.ClientConn, every time.Duration) (hello Hello, n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, talkMessages*every+cmp.Or(c.req.Timeout, defaultTimeout))
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/"+talkService+"/"+talkMethod)
	if err != nil {
		return hello, 0, err
	}
	for ; n < talkMessages && !c.stopped(); n++ {
		if err := stream.SendMsg(wrapperspb.String(c.req.Text)); err != nil && !errors.Is(err, io.EOF) { // EOF: receiving says why
			return hello, n, err
		}
		var out wrapperspb.StringValue
		if err := stream.RecvMsg(&out); err != nil {
			return hello, n, err
		}
		if err := json.Unmarshal([]byte(out.GetValue()), &hello); err != nil {
			return hello, n, err
		}
		if err := lifecycle.Sleep(ctx, every); err != nil {
			return hello, n, err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return hello, n, err
	}
	if err := stream.RecvMsg(&wrapperspb.StringValue{}); !errors.Is(err, io.EOF) {
		return hello, n, fmt.Errorf("its end: %w", cmp.Or(err, errors.New("one more message")))
	}
	return hello, n, nil
}
