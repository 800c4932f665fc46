package about

import (
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/tracing"
	"github.com/ambit-mesh/ambit/internal/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// web is a workload with all that is told of one.
func web() *workload.Workload {
	w := &workload.Workload{}
	w.Name, w.Namespace, w.ServiceAccount = "web-1", "shop", "web"
	w.ClusterID, w.Locality = "Kubernetes", workload.Locality{Region: "r", Zone: "z"}
	w.WorkloadName, w.CanonicalName, w.CanonicalRevision = "web", "web", "v1"
	return w
}

// What one end writes, the other end reads.
func TestRequestHeaderIsReadBack(t *testing.T) {
	client := netip.MustParseAddrPort("10.0.0.1:4711")
	svc := &workload.Service{Key: workload.Key{Namespace: "shop", Hostname: "cart.shop.svc.cluster.local"}}
	trace := tracing.NewContext()
	got := ParseCaller(RequestHeader(web(), client, svc, trace))
	want := Caller{
		Trace:     trace,
		Baggage:   BaggageOf(web()),
		Forwarded: Forwarded{For: client, Host: "cart.shop.svc.cluster.local"},
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// "x_forwarded_network only inner": what leaves this node in an ordinary tunnel
// does not name its network; what comes from another one is understood.
func TestXForwardedNetworkOnlyInner(t *testing.T) {
	w := web()
	w.Network = "n1"
	sent := RequestHeader(w, netip.MustParseAddrPort("10.0.0.1:4711"), nil, tracing.NewContext())
	if len(sent.Values(HeaderNetwork)) != 0 || ParseCaller(sent).Network != "" {
		t.Errorf("the header of an outer request has %s: %v", HeaderNetwork, sent)
	}
	inner := append(sent, hbone.Header{{Name: HeaderNetwork, Value: "n2"}}...)
	if got := ParseCaller(inner).Network; got != "n2" {
		t.Errorf("the network of an inner request is read as %q, want n2", got)
	}
}

// Who called, as the record says it.
func TestSource(t *testing.T) {
	store := workload.NewStore(workload.Config{})
	caller := ParseCaller(hbone.Header{{Name: "baggage", Value: "k8s.namespace.name=claimed,service.name=said"}})
	id, err := identity.NewID("cluster.local", "proven", "sa")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort("10.0.0.1:4711")
	tests := []struct {
		name string
		peer telemetry.Peer
		want telemetry.Workload
	}{
		{
			name: "unknown address with identity: its own words, but the namespace that it has proven",
			peer: telemetry.Peer{Addr: addr, Identity: id},
			want: telemetry.Workload{Namespace: "proven", CanonicalService: "said"},
		},
		{
			name: "unknown address in plaintext: its own words",
			peer: telemetry.Peer{Addr: addr},
			want: telemetry.Workload{Namespace: "claimed", CanonicalService: "said"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Source(store.Snapshot(), "", tt.peer, caller)
			if got.Workload != tt.want || got.Addr != tt.peer.Addr || got.Identity != tt.peer.Identity {
				t.Errorf("Source = %+v, want workload %+v", got, tt.want)
			}
		})
	}
}

// A peer may say much, and what it says is remembered in records and metrics for
// long: only names are taken, and nothing holds the rest of the header.
func TestWhatACallerSaysIsNotHeld(t *testing.T) {
	const callers, size = 200, 60 << 10
	kept := make([]Caller, callers)
	before := heap()
	for i := range kept {
		padding := strings.Repeat("x", size)
		kept[i] = ParseCaller(hbone.Header{
			{Name: HeaderBaggage, Value: "k8s.namespace.name=shop,padding=" + padding},
			{Name: HeaderForwarded, Value: "host=cart.shop;by=" + padding},
		})
	}
	if grown := heap() - before; grown > callers*size/10 {
		t.Errorf("%d callers hold %d bytes", callers, grown)
	}
	if want := (Caller{Baggage: Baggage{Namespace: "shop"}, Forwarded: Forwarded{Host: "cart.shop"}}); kept[0] != want {
		t.Errorf("caller = %+v, want %+v", kept[0], want)
	}
	long := strings.Repeat("n", 254)
	got := ParseCaller(hbone.Header{
		{Name: HeaderBaggage, Value: "k8s.namespace.name=" + long + ",service.name=" + long[1:]},
		{Name: HeaderForwarded, Value: "host=" + long},
	})
	if want := (Caller{Baggage: Baggage{ServiceName: long[1:]}}); got != want {
		t.Errorf("caller = %+v, want no name of more than 253 bytes", got)
	}
}

// heap is what is in use after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
