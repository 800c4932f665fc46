package tracing

import (
	"context"
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContext(t *testing.T) {
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for _, tt := range []struct {
		name, in    string
		ok, sampled bool
	}{
		{"sampled", "00-" + trace + "-" + span + "-01", true, true},
		{"not sampled", "00-" + trace + "-" + span + "-00", true, false},
		{"a later version with more", "cc-" + trace + "-" + span + "-01-what-the-future-will-be", true, true},
		{"version 00 with more", "00-" + trace + "-" + span + "-01-x", false, false},
		{"version ff", "ff-" + trace + "-" + span + "-01", false, false},
		{"a trace of zeros", "00-" + strings.Repeat("0", 32) + "-" + span + "-01", false, false},
		{"a span of zeros", "00-" + trace + "-" + strings.Repeat("0", 16) + "-01", false, false},
		{"capital letters", "00-" + strings.ToUpper(trace) + "-" + span + "-01", false, false},
		{"no hex", "00-" + strings.Repeat("g", 32) + "-" + span + "-01", false, false},
		{"too short", "00-" + trace, false, false},
		{"nothing", "", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ParseContext(tt.in)
			if (err == nil) != tt.ok || c.Sampled() != tt.sampled {
				t.Fatalf("%+v, %v", c, err)
			}
			if tt.ok && tt.in[:2] == "00" && c.String() != tt.in {
				t.Errorf("it is written as %q", c)
			}
		})
	}
	if n := testing.AllocsPerRun(100, func() { _ = NewContext().String() }); n > 1 {
		t.Errorf("a header value takes %v allocations, want 1", n)
	}
	if a, b := NewContext(), NewContext(); a.Trace == b.Trace || a.Span == b.Span || a.Sampled() {
		t.Errorf("%v and %v: want two that differ and are not sampled", a, b)
	}
}

// What is read is written as something that is read the same.
func FuzzContext(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff-x")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseContext(s)
		if err != nil {
			return
		}
		if again, err := ParseContext(c.String()); err != nil || again != c || c.Trace == ([16]byte{}) || c.Span == ([8]byte{}) {
			t.Errorf("%q is %v, and read again %v, %v", s, c, again, err)
		}
	})
}

// receiver is a collector.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	got  chan *otlp.ResourceSpans
	fail error
}

// Export takes spans.
func (r *receiver) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	if r.fail != nil {
		return nil, r.fail
	}
	for _, rs := range req.GetResourceSpans() {
		r.got <- rs
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// startReceiver runs one and returns where it is.
func startReceiver(t *testing.T, r *receiver) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	collector.RegisterTraceServiceServer(s, r)
	var group lifecycle.Group
	group.Go(t.Context(), "collector", func(context.Context) { s.Serve(ln) })
	t.Cleanup(func() { s.Stop(); group.Wait() })
	return "http://" + ln.Addr().String()
}

// A collector of the types that are generated from OpenTelemetry's definitions reads
// what we have written, field by field.
func TestSpansArrive(t *testing.T) {
	r := &receiver{got: make(chan *otlp.ResourceSpans, 10)}
	e, err := NewExporter(Config{Endpoint: startReceiver(t, r), Share: 1, Resource: []Attr{{Key: "service.name", Text: "waypoint.bank"}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group lifecycle.Group
	group.Go(ctx, "exporter", func(ctx context.Context) { e.Run(ctx) })
	defer group.Wait()
	defer cancel()
	root := e.Root()
	child := e.Child(root.Context)
	begun := time.Unix(1700000000, 5)
	e.Add(Span{Link: root, Name: "outbound", Kind: Client, Start: begun, End: begun.Add(time.Second)})
	e.Add(Span{
		Link: child, Name: "GET /x", Kind: Server, Start: begun, End: begun.Add(time.Second), Also: NewContext(), Error: "no healthy upstream",
		Attrs: []Attr{{Key: "http.request.method", Text: "GET"}, {Key: "http.response.status_code", Number: 503}, {Key: "nothing"}, {Key: "bad", Text: "\xff" + strings.Repeat("y", 2000)}},
	})
	cancel() // what was added before is sent
	rs := <-r.got
	if got := rs.GetResource().GetAttributes()[0]; got.GetKey() != "service.name" || got.GetValue().GetStringValue() != "waypoint.bank" {
		t.Errorf("resource %v", got)
	}
	spans := rs.GetScopeSpans()[0].GetSpans()
	if len(spans) != 2 {
		t.Fatalf("%d spans: %v", len(spans), rs)
	}
	first, second := spans[0], spans[1]
	if string(first.GetTraceId()) != string(second.GetTraceId()) || string(second.GetParentSpanId()) != string(first.GetSpanId()) || len(first.GetParentSpanId()) != 0 {
		t.Errorf("they are not joined: %v, %v", first, second)
	}
	attrs := map[string]string{}
	for _, a := range second.GetAttributes() {
		attrs[a.GetKey()] = a.GetValue().GetStringValue()
	}
	if second.GetAttributes()[1].GetValue().GetIntValue() != 503 {
		t.Errorf("attributes %v", second.GetAttributes())
	}
	if len(attrs["bad"]) != maxText || !strings.HasPrefix(attrs["bad"], "?y") {
		t.Errorf("a value of %d bytes", len(attrs["bad"]))
	}
	delete(attrs, "bad")
	if want := map[string]string{"http.request.method": "GET", "http.response.status_code": ""}; !maps.Equal(attrs, want) {
		t.Errorf("attributes %v", attrs)
	}
	type facts struct {
		Name, Error string
		Kind        otlp.Span_SpanKind
		Start, End  uint64
		Links       int
		Flags       uint32
	}
	got := facts{second.GetName(), second.GetStatus().GetMessage(), second.GetKind(), second.GetStartTimeUnixNano(), second.GetEndTimeUnixNano(), len(second.GetLinks()), second.GetFlags()}
	want := facts{"GET /x", "no healthy upstream", otlp.Span_SPAN_KIND_SERVER, 1700000000000000005, 1700000001000000005, 1, 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(rs.ProtoReflect().GetUnknown())+len(second.ProtoReflect().GetUnknown()) > 0 {
		t.Error("fields that nobody knows")
	}
	group.Wait()
	if e.Sent() != 2 || e.Dropped() != 0 {
		t.Errorf("%d sent, %d dropped", e.Sent(), e.Dropped())
	}
}

// Whatever is in a span, the collector's types read it.
func FuzzSpan(f *testing.F) {
	f.Add("GET /", "http.route", "orders", int64(200))
	f.Add("\xff", "", "\x00", int64(-1))
	f.Fuzz(func(t *testing.T, name, key, text string, n int64) {
		s := Span{Link: Link{Context: NewContext()}, Name: name, Error: text, Attrs: []Attr{{Key: key, Text: text}, {Key: key, Number: n}}}
		var req collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(appendBatch(nil, s.Attrs, []Span{s, s}), &req); err != nil {
			t.Fatal(err)
		}
		if got := req.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans(); len(got) != 2 || got[1].GetName() != valid(name) {
			t.Errorf("read %v", got)
		}
	})
}

// A collector that refuses, or is away, costs spans and nothing else.
func TestSpansThatAreLost(t *testing.T) {
	failed := make(chan error, 1)
	e, err := NewExporter(Config{
		Endpoint: startReceiver(t, &receiver{fail: status.Error(codes.PermissionDenied, "no")}), Share: 1,
		Failed: func(err error) { failed <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	e.Add(Span{Link: e.Root()})
	for range maxQueue {
		e.Add(Span{Link: e.Root()})
	}
	if e.Dropped() != 1 {
		t.Errorf("%d dropped, want the one that has no room", e.Dropped())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Run(ctx); err != nil {
		t.Error(err)
	}
	if err := <-failed; !strings.Contains(err.Error(), "no") {
		t.Error(err)
	}
	if e.Sent() != 0 || e.Dropped() != maxQueue+1 {
		t.Errorf("%d sent, %d dropped", e.Sent(), e.Dropped())
	}
}

// Nobody asked for spans: nothing is sampled, and nothing costs memory.
func TestNoExporter(t *testing.T) {
	e, err := NewExporter(Config{})
	if err != nil || e != nil {
		t.Fatalf("%v, %v", e, err)
	}
	if e.Root().Sampled() {
		t.Error("sampled for nobody")
	}
	theirs, err := ParseContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { e.Add(Span{Link: e.Child(theirs)}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

func TestFromEnvironment(t *testing.T) {
	const at = "http://collector:4317"
	for _, tt := range []struct {
		name  string
		env   map[string]string
		want  Config
		wrong string // what the error names
	}{
		{"nothing", nil, Config{}, ""},
		{"a collector", map[string]string{EnvEndpoint: at}, Config{Endpoint: at, Share: 0.01}, ""},
		{"one for traces", map[string]string{EnvEndpoint: "http://other", EnvTraces: at}, Config{Endpoint: at, Share: 0.01}, ""},
		{"a share", map[string]string{EnvEndpoint: at, EnvSamplerArg: "0.5"}, Config{Endpoint: at, Share: 0.5}, ""},
		{"all", map[string]string{EnvEndpoint: at, EnvSampler: "parentbased_always_on"}, Config{Endpoint: at, Share: 1}, ""},
		{"only what others sample", map[string]string{EnvEndpoint: at, EnvSampler: "parentbased_always_off"}, Config{Endpoint: at}, ""},
		{"off", map[string]string{EnvEndpoint: at, EnvDisabled: "true"}, Config{}, ""},
		{"a share beyond all", map[string]string{EnvEndpoint: at, EnvSamplerArg: "2"}, Config{}, EnvSamplerArg},
		{"a share that is none", map[string]string{EnvEndpoint: at, EnvSamplerArg: "NaN"}, Config{}, EnvSamplerArg},
		{"another sampler", map[string]string{EnvEndpoint: at, EnvSampler: "jaeger_remote"}, Config{}, EnvSampler},
		{"another protocol", map[string]string{EnvEndpoint: at, EnvProtocol: "http/protobuf"}, Config{}, EnvProtocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := FromEnvironment(func(name string) (string, bool) { v, ok := tt.env[name]; return v, ok }, "us")
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wrong) {
					t.Fatalf("error %v, want one about %s", err, tt.wrong)
				}
				return
			}
			if err != nil || got.Endpoint != tt.want.Endpoint || got.Share != tt.want.Share {
				t.Fatalf("%+v, %v", got, err)
			}
		})
	}
	for name, cfg := range map[string]Config{
		"no scheme": {Endpoint: "collector:4317"}, "another scheme": {Endpoint: "ftp://x"}, "more than all": {Endpoint: at, Share: 2},
		"no roots": {Endpoint: "https://x", RootCA: "/no/such/file"},
	} {
		if _, err := NewExporter(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
