package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lab/labapp"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// spanReceiver is a collector of spans.
type spanReceiver struct {
	collector.UnimplementedTraceServiceServer

	mu    sync.Mutex
	spans []*otlp.Span
}

// Export takes spans.
func (r *spanReceiver) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rs := range req.GetResourceSpans() {
		for _, ss := range rs.GetScopeSpans() {
			r.spans = append(r.spans, ss.GetSpans()...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// children are the spans below parent, or the first ones of their traces.
func (r *spanReceiver) children(parent *otlp.Span) (out []*otlp.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if string(s.GetParentSpanId()) == string(parent.GetSpanId()) && (parent == nil || string(s.GetTraceId()) == string(parent.GetTraceId())) {
			out = append(out, s)
		}
	}
	return out
}

// collectorAddress is that of a machine outside of the lab's cluster, which nodes
// and pods reach.
const collectorAddress = "192.168.77.200:4317"

// serve runs the collector in the lab's wire until the test ends.
func (r *spanReceiver) serve(t *testing.T, l *lab.Lab) {
	t.Helper()
	var ln net.Listener
	if err := l.Fabric().Do(func() (err error) { ln, err = net.Listen("tcp", collectorAddress); return err }); err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	collector.RegisterTraceServiceServer(s, r)
	var group lifecycle.Group
	group.Go(t.Context(), "collector", func(context.Context) { s.Serve(ln) })
	t.Cleanup(func() { s.Stop(); group.Wait() })
}

// observedLab is a lab whose proxies tell spans to a collector.
func observedLab(t *testing.T) *lab.Lab {
	t.Helper()
	if err := lab.Preflight(); err != nil {
		t.Skip(err)
	}
	env := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + collectorAddress, "OTEL_TRACES_SAMPLER=parentbased_always_on"}
	l, err := lab.Up(t.Context(), lab.Config{
		Name: labName + "-t", BinDir: programs(t), App: []string{filepath.Join(binDir, "ambit"), "lab-app"}, ZtunnelEnv: env, WaypointEnv: env,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return l
}

// boundService is a service of the ledger's pods behind a waypoint.
func boundService(t *testing.T, l *lab.Lab) (addr string, w *lab.Waypoint) {
	t.Helper()
	w, err := l.StartWaypoint(t.Context(), "bank", "waypoint", 1)
	if err != nil {
		t.Fatal(err)
	}
	err = l.Manifests().Apply("vault", fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: vault, namespace: bank, labels: {istio.io/use-waypoint: waypoint}}
spec: {clusterIP: %s, selector: {app: ledger}, ports: [{name: http, port: %d, targetPort: %d}]}
`, lab.ExtraServiceAddr(1), lab.ServicePort, lab.HTTPPort))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s:%d", lab.ExtraServiceAddr(1), lab.ServicePort), w
}

// eventually asks until fn has no complaint.
func eventually(t *testing.T, what string, fn func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		if lifecycle.Sleep(t.Context(), 100*time.Millisecond) != nil {
			t.Fatal(err)
		}
	}
}

// askOnce asks a service once.
func askOnce(ctx context.Context, from *lab.Pod, addr string) error {
	r, err := from.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: addr, Timeout: time.Second})
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	return err
}

// One request through a waypoint is one trace: the client's ztunnel, the waypoint,
// and the server's ztunnel, each below the one before, with the identities that were
// proven.
func TestOneTraceThroughTheMesh(t *testing.T) {
	l := observedLab(t)
	r := &spanReceiver{}
	r.serve(t, l)
	addr, w := boundService(t, l)
	teller, ledger := l.Pod("bank", "teller"), l.Pod("bank", "ledger")
	eventually(t, "the service answers", func() error { return askOnce(t.Context(), teller, addr) })
	// A connection is a span when it has ended, and a waypoint keeps those to endpoints.
	if err := l.StopWaypoint(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a trace of three", func() error {
		for _, out := range r.children(nil) {
			for _, through := range r.children(out) {
				for _, in := range r.children(through) {
					if out.GetName() == "outbound" && in.GetName() == "inbound" {
						return joined(out, through, in, teller, ledger)
					}
				}
			}
		}
		return fmt.Errorf("%d first spans", len(r.children(nil)))
	})
}

// joined checks what the spans of one trace say.
func joined(out, through, in *otlp.Span, client, server *lab.Pod) error {
	var errs []error
	for _, want := range []struct {
		span       *otlp.Span
		kind       otlp.Span_SpanKind
		key, value string
	}{
		{out, otlp.Span_SPAN_KIND_CLIENT, "ambit.source.identity", client.Principal()},
		{through, otlp.Span_SPAN_KIND_SERVER, "ambit.source.identity", client.Principal()},
		{through, otlp.Span_SPAN_KIND_SERVER, "ambit.destination.identity", server.Principal()},
		{through, otlp.Span_SPAN_KIND_SERVER, "http.request.method", "GET"},
		{in, otlp.Span_SPAN_KIND_SERVER, "ambit.source.identity", "spiffe://cluster.local/ns/bank/sa/waypoint"},
		{in, otlp.Span_SPAN_KIND_SERVER, "ambit.destination.identity", server.Principal()},
	} {
		got := ""
		for _, a := range want.span.GetAttributes() {
			if a.GetKey() == want.key {
				got = a.GetValue().GetStringValue()
			}
		}
		if got != want.value || want.span.GetKind() != want.kind || want.span.GetStatus().GetMessage() != "" {
			errs = append(errs, fmt.Errorf("%s is %q, want %q: %v", want.key, got, want.value, want.span))
		}
	}
	return errors.Join(errs...)
}
