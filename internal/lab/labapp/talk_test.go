package labapp

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// talkWith talks with a server that the test plays until the load is enough, and
// returns the report.
func talkWith(t *testing.T, count int, register func(*grpc.Server), enough func(Load) bool) Load {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	register(server)
	var group lifecycle.Group
	defer group.Wait()
	defer server.Stop()
	group.Go(t.Context(), "server", func(context.Context) {
		if err := server.Serve(ln); err != nil {
			t.Error(err)
		}
	})
	stop := make(chan struct{})
	stopped := false
	c := &client{
		req: Request{Address: ln.Addr().String(), Count: count, Rate: 100, Text: "mark", Timeout: 5 * time.Second}, stop: stop,
		tell: func(r Reply) {
			if !stopped && enough(*r.Load) {
				stopped = true
				close(stop)
			}
		},
	}
	reply, err := c.talk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return *reply.Load
}

func TestTalk(t *testing.T) {
	got := talkWith(t, 7, (&talker{pod: "one"}).register, func(l Load) bool { return l.OK >= 14 })
	if got.Failed != 0 || got.OK != got.Sent || got.Servers["one"] != got.OK || got.Busy != 7 {
		t.Errorf("a good server: %+v", got)
	}
}

// What ends a conversation too early counts, whatever it says.
func TestTalkCountsWhatEndsTooEarly(t *testing.T) {
	for name, end := range map[string]error{"an error": errors.New("no more"), "as if it were over": nil} {
		t.Run(name, func(t *testing.T) {
			early := func(server *grpc.Server) {
				server.RegisterService(&grpc.ServiceDesc{ServiceName: talkService, HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
					StreamName: talkMethod, ServerStreams: true, ClientStreams: true,
					Handler: func(any, grpc.ServerStream) error { return end },
				}}}, 0)
			}
			got := talkWith(t, 2, early, func(l Load) bool { return l.Failed >= 3 })
			if got.OK != 0 || got.Sent != got.Failed || len(got.Failures) == 0 || got.Failures[0].Error == io.EOF.Error() {
				t.Errorf("a server that ends early: %+v", got)
			}
		})
	}
}
