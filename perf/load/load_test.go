package load

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pod is a pod on loopback: its servers, and a client for its control socket.
type pod struct {
	web, bulk, calls string
	programs         *programs
	*Client
}

// startPod runs the programs of a pod; web replaces the web server.
func startPod(t *testing.T, web func(context.Context, net.Conn) error) *pod {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var group lifecycle.Group
	p := &pod{programs: &programs{}}
	listen := func(serve func(context.Context, net.Conn) error) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		group.Go(ctx, "accept", func(ctx context.Context) { acceptEach(ctx, ln, serve) })
		return ln.Addr().String()
	}
	p.web, p.bulk, p.calls = listen(web), listen(p.programs.serveBulk), listen(serveUnary)
	socket := filepath.Join(t.TempDir(), "control")
	control, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	group.Go(ctx, "control", func(ctx context.Context) {
		if err := p.programs.takeOrders(ctx, control); err != nil {
			t.Errorf("control socket: %v", err)
		}
	})
	p.Client = NewClient(socket)
	t.Cleanup(func() {
		p.Close()
		cancel()
		group.Wait()
	})
	return p
}

// result carries out an order that has a window.
func (p *pod) result(t *testing.T, o Order) Result {
	t.Helper()
	run, err := p.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	res, err := run.Result()
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// counters asks the pod.
func (p *pod) counters(t *testing.T) Counters {
	t.Helper()
	c, err := p.Counters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRateCountsEachRequestOnce(t *testing.T) {
	p := startPod(t, serveWeb)
	res := p.result(t, Order{Kind: Rate, Address: p.web, Connections: 4, PerSecond: 500, Warm: 100 * time.Millisecond, Window: 400 * time.Millisecond})
	for what, encoded := range map[string]string{"latency": res.Latency, "lateness": res.Lateness} {
		h, err := Decode(encoded)
		if err != nil {
			t.Fatal(err)
		}
		if got := h.TotalCount(); got != 200 {
			t.Errorf("%s of %d requests, want the 200 after the warming up", what, got)
		}
	}
	if got := p.counters(t).Answers; got != 250 {
		t.Errorf("%d answers, want all 250", got)
	}
}

// A server that stands still for a while delays all requests that fall due
// meanwhile. A generator that waits for answers would see one of them.
func TestRateSeesAStallWhole(t *testing.T) {
	const stall = 200 * time.Millisecond
	started := time.Now()
	p := startPod(t, func(ctx context.Context, c net.Conn) error {
		return serveWeb(ctx, &stalling{Conn: c, from: started.Add(200 * time.Millisecond), stall: stall})
	})
	res := p.result(t, Order{Kind: Rate, Address: p.web, Connections: 1, PerSecond: 1000, Window: time.Second})
	h, err := Decode(res.Latency)
	if err != nil {
		t.Fatal(err)
	}
	// About 200 of 1000 requests were due in the stall, and waited 100 ms on average.
	if p90 := time.Duration(h.ValueAtPercentile(90)); p90 < stall/4 {
		t.Errorf("p90 = %v with a server that stood still for %v of a second", p90, stall)
	}
}

// stalling is a connection whose server reads nothing for a while.
type stalling struct {
	net.Conn
	from  time.Time
	stall time.Duration
	done  bool
}

func (s *stalling) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if !s.done && time.Now().After(s.from) {
		s.done = true
		<-time.After(s.stall)
	}
	return n, err
}

func TestMostKeepsAllConnectionsBusy(t *testing.T) {
	p := startPod(t, serveWeb)
	before := p.counters(t)
	res := p.result(t, Order{Kind: Most, Address: p.web, Connections: 8, Window: 200 * time.Millisecond})
	did := p.counters(t).Since(before)
	h, err := Decode(res.Latency)
	if err != nil {
		t.Fatal(err)
	}
	if did.Connections != 8 || did.Answers < 8 || uint64(h.TotalCount()) != did.Answers {
		t.Errorf("counters %+v, %d latencies, want 8 connections and a latency per answer", did, h.TotalCount())
	}
}

func TestChurnMakesAConnectionPerRequest(t *testing.T) {
	p := startPod(t, serveWeb)
	p.result(t, Order{Kind: Churn, Address: p.web, Connections: 4, Window: 100 * time.Millisecond})
	if c := p.counters(t); c.Connections == 0 || c.Connections != c.Answers {
		t.Errorf("%d connections for %d answers", c.Connections, c.Answers)
	}
}

func TestBulkCountsWhereBytesArrive(t *testing.T) {
	for _, d := range []Direction{Up, Down, Both} {
		t.Run(string(d), func(t *testing.T) {
			server, client := startPod(t, serveWeb), startPod(t, serveWeb)
			run, err := client.Start(t.Context(), Order{Kind: Bulk, Address: server.bulk, Connections: 2, Direction: d})
			if err != nil {
				t.Fatal(err)
			}
			defer run.Stop()
			wantGrowth := map[string]*pod{}
			if d != Down {
				wantGrowth["server"] = server
			}
			if d != Up {
				wantGrowth["client"] = client
			}
			for who, p := range wantGrowth {
				for p.counters(t).Received < 1<<20 {
					if lifecycle.Sleep(t.Context(), time.Millisecond) != nil {
						t.Fatalf("nothing arrives at the %s", who)
					}
				}
			}
			if d == Up && client.counters(t).Received > 0 || d == Down && server.counters(t).Received > 0 {
				t.Error("bytes in the other direction")
			}
		})
	}
}

func TestHoldLeavesConnectionsOpen(t *testing.T) {
	p := startPod(t, serveWeb)
	run, err := p.Start(t.Context(), Order{Kind: Hold, Address: p.web, Connections: 100})
	if err != nil {
		t.Fatal(err)
	}
	if c := p.counters(t); c.Connections != 100 {
		t.Errorf("%d connections, want 100", c.Connections)
	}
	run.Stop()
}

func TestALoadThatFailsSaysWhy(t *testing.T) {
	p := startPod(t, func(_ context.Context, c net.Conn) error {
		_, err := c.Write([]byte("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"))
		return err
	})
	for _, o := range []Order{
		{Kind: Rate, Address: p.web, Connections: 1, PerSecond: 100, Window: time.Second},
		{Kind: Churn, Address: p.web, Connections: 1, Window: time.Second},
		{Kind: Hold, Address: p.web, Connections: 1},
	} {
		_, err := p.Start(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), "503") {
			t.Errorf("%s: error = %v, want one with the status 503", o.Kind, err)
		}
	}
}

func TestOrdersThatMakeNoSense(t *testing.T) {
	tests := []struct {
		name  string
		order Order
	}{
		{"no connections", Order{Kind: Hold}},
		{"unknown kind", Order{Kind: "fast", Connections: 1}},
		{"bulk without a direction", Order{Kind: Bulk, Connections: 1}},
		{"a rate of nothing", Order{Kind: Rate, Connections: 1, Window: time.Second}},
		{"most without an end", Order{Kind: Most, Connections: 1}},
		{"hold with an end", Order{Kind: Hold, Connections: 1, Window: time.Second}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.order.check() == nil {
				t.Errorf("%+v was taken", tt.order)
			}
		})
	}
}

// Whatever an answer is cut into, it is read whole and nothing more.
func FuzzAnswerReader(f *testing.F) {
	f.Add(answer(), 7, 2)
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"), 1, 3)
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\nabc"), 5, 1)
	f.Fuzz(func(t *testing.T, one []byte, piece, times int) {
		if piece < 1 || times < 1 || times > 4 {
			return
		}
		var all []byte
		for range times {
			all = append(all, one...)
		}
		in := answerReader{c: &pieces{data: all, size: piece}}
		whole := string(one) == string(answer())
		for i := range times {
			if err := in.next(); whole && err != nil {
				t.Fatalf("answer %d in pieces of %d: %v", i, piece, err)
			} else if err != nil {
				return
			}
		}
		if whole && in.have != 0 {
			t.Errorf("%d bytes are left", in.have)
		}
	})
}

// pieces is a connection that gives its data in pieces.
type pieces struct {
	net.Conn
	data []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, errors.New("it ends")
	}
	n := copy(b, p.data[:min(p.size, len(p.data))])
	p.data = p.data[n:]
	return n, nil
}

// Calls of gRPC are answered, many at a time on a connection, and counted.
func TestUnary(t *testing.T) {
	p := startPod(t, serveWeb)
	res := p.result(t, Order{Kind: Unary, Address: p.calls, Connections: 2, Streams: 8, Warm: 10 * time.Millisecond, Window: 100 * time.Millisecond})
	h, err := Decode(res.Latency)
	if err != nil {
		t.Fatal(err)
	}
	if n := p.counters(t).Answers; n < 16 || h.TotalCount() == 0 || h.TotalCount() > int64(n) {
		t.Errorf("%d calls answered, %d timed", n, h.TotalCount())
	}
	for name, o := range map[string]Order{
		"no server of gRPC": {Kind: Unary, Address: p.web, Connections: 1, Streams: 1, Window: 50 * time.Millisecond},
		"no streams":        {Kind: Unary, Address: p.calls, Connections: 1, Window: 50 * time.Millisecond},
		"too many streams":  {Kind: Unary, Address: p.calls, Connections: 1, Streams: maxStreams + 1, Window: 50 * time.Millisecond},
	} {
		if _, err := p.Start(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
