package telemetry

import (
	"bytes"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// output is a log that tests read. Any goroutine may use it.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// lines returns what was written and forgets it.
func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := strings.TrimSuffix(o.buf.String(), "\n")
	o.buf.Reset()
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// bench is a Records with what it writes to, and a clock of the test's.
type bench struct {
	*Records
	reg  *prometheus.Registry
	log  *Logger
	out  *output
	time time.Time
}

func newBench(tb testing.TB, cfg Config, log LogConfig) *bench {
	tb.Helper()
	b := &bench{out: new(output), reg: prometheus.NewRegistry(), time: time.Unix(1700000000, 0)}
	var err error
	if b.log, err = NewLogger(log, b.out); err != nil {
		tb.Fatal(err)
	}
	if b.Records, err = NewRecords(cfg, Deps{Log: b.log.Zap(), Registry: b.reg}); err != nil {
		tb.Fatal(err)
	}
	b.Records.now = func() time.Time { return b.time }
	return b
}

// webToCart is an outbound connection with everything known.
func webToCart() Conn {
	return Conn{
		Direction: Outbound, Hop: HopTunnel,
		Source: Peer{
			Addr: netip.MustParseAddrPort("10.0.0.1:40000"),
			Workload: Workload{
				Name: "web-1", Namespace: "shop", WorkloadName: "web", CanonicalService: "web",
				CanonicalRevision: "v1", Cluster: "Kubernetes", Region: "r1", Zone: "z1",
			},
			Identity: id("web"),
		},
		Destination: Peer{
			Addr: netip.MustParseAddrPort("10.0.1.2:15008"),
			Workload: Workload{
				Name: "cart-1", Namespace: "shop", WorkloadName: "cart", CanonicalService: "cart",
				CanonicalRevision: "v2", Cluster: "Kubernetes", Region: "r2", Zone: "z2",
			},
			Identity: id("cart"),
		},
		Service:     Service{Host: "cart.shop.svc.cluster.local", Namespace: "shop", Name: "cart"},
		Pod:         "pod-uid",
		Authority:   "10.0.1.2:8080",
		OriginalDst: netip.MustParseAddrPort("10.96.0.7:80"),
		ActualDst:   netip.MustParseAddrPort("10.0.1.2:15008"),
	}
}

// id is the identity of a service account of the shop.
func id(account string) identity.ID {
	return identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: account}
}
