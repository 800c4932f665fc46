package telemetry

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// afterTime cuts the time, which zap takes itself, off a plain line, and checks
// its layout.
func afterTime(t *testing.T, line string) string {
	t.Helper()
	stamp, rest, ok := strings.Cut(line, "\t")
	if _, err := time.Parse("2006-01-02T15:04:05.000000Z", stamp); !ok || err != nil {
		t.Fatalf("line %q does not begin with RFC 3339 in microseconds, UTC, and a tab", line)
	}
	return rest
}

func TestAccessLineOfAGoodConnection(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{})
	rec := b.Open(webToCart())
	rec.Counters().Sent.Add(120)
	rec.Counters().Received.Add(3400)
	rec.SetPolicy("shop/allow-web")
	b.time = b.time.Add(12*time.Millisecond + 600*time.Microsecond)
	rec.Close(nil)

	want := "info\taccess\tconnection complete\t" +
		`src.addr=10.0.0.1:40000 src.workload="web-1" src.namespace="shop" ` +
		`src.identity="spiffe://cluster.local/ns/shop/sa/web" src.cluster="Kubernetes" ` +
		`dst.addr=10.0.1.2:15008 dst.hbone_addr=10.0.1.2:8080 dst.service="cart.shop.svc.cluster.local" ` +
		`dst.workload="cart-1" dst.namespace="shop" dst.identity="spiffe://cluster.local/ns/shop/sa/cart" ` +
		`dst.cluster="Kubernetes" direction="outbound" bytes_sent=120 bytes_recv=3400 duration="12ms" ` +
		`policy="shop/allow-web" hop="tunnel"`
	lines := b.out.lines()
	if len(lines) != 1 {
		t.Fatalf("%d lines, want exactly one: %q", len(lines), lines)
	}
	if got := afterTime(t, lines[0]); got != want {
		t.Errorf("access line\n got %s\nwant %s", got, want)
	}
}

func TestAccessLineLeavesOutWhatIsUnknown(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{})
	c := Conn{Direction: Outbound}
	c.Source.Addr = netip.MustParseAddrPort("10.0.0.1:40000")
	c.Destination.Addr = netip.MustParseAddrPort("93.184.216.34:443")
	c.Source.Workload.CanonicalService = "web" // stands in for the pod's name
	b.Open(c).Close(nil)
	want := "info\taccess\tconnection complete\t" +
		`src.addr=10.0.0.1:40000 src.workload="web" dst.addr=93.184.216.34:443 ` +
		`direction="outbound" bytes_sent=0 bytes_recv=0 duration="0ms" hop="direct"`
	if got := afterTime(t, b.out.lines()[0]); got != want {
		t.Errorf("access line\n got %s\nwant %s", got, want)
	}
}

func TestAccessLineOfAnInboundConnectionCountsAsThePodSeesIt(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{})
	c := webToCart()
	c.Direction = Inbound
	rec := b.Open(c)
	rec.Counters().Sent.Add(120)      // client to server
	rec.Counters().Received.Add(3400) // server to client
	rec.Close(nil)
	if got := b.out.lines()[0]; !strings.Contains(got, ` direction="inbound" bytes_sent=3400 bytes_recv=120 `) {
		t.Errorf("line %s, want the pod's 3400 sent and 120 received", got)
	}
}

func TestAccessLineOfAFailureIsAnErrorWithItsReason(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{})
	rec := b.Open(webToCart())
	rec.Close(ExplainDial(netip.MustParseAddrPort("10.0.1.2:15008"), syscall.ECONNREFUSED))
	line := afterTime(t, b.out.lines()[0])
	if !strings.HasPrefix(line, "error\taccess\tconnection complete\t") {
		t.Errorf("line %q, want level error and the same message", line)
	}
	want := `duration="0ms" error="dial: connection refused; nothing listens on 10.0.1.2:15008: ` +
		`is the pod still in the mesh, and is ztunnel up on its node?" stage="dial" fault="peer" hop="tunnel"`
	if !strings.HasSuffix(line, want) {
		t.Errorf("line %q, want it to end with %q", line, want)
	}
}

func TestAccessLineOfAnEarlyRefusal(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{})
	b.Refuse(Inbound, netip.MustParseAddrPort("10.0.0.1:4"), netip.MustParseAddrPort("[fd00::2]:15008"), errors.New("no workload"))
	want := "warn\taccess\tconnection failed\t" +
		`src.addr=10.0.0.1:4 dst.addr=[fd00::2]:15008 direction="inbound" error="no workload" stage="unknown" fault="unknown"`
	if got := afterTime(t, b.out.lines()[0]); got != want {
		t.Errorf("access line\n got %s\nwant %s", got, want)
	}
}

func TestOpeningIsLoggedAtDebugOnly(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{})
	b.Open(webToCart())
	if lines := b.out.lines(); lines != nil {
		t.Errorf("at info an opening wrote %q", lines)
	}
	if err := b.log.Levels().Set("access:debug"); err != nil {
		t.Fatal(err)
	}
	b.Open(webToCart())
	lines := b.out.lines()
	if len(lines) != 1 || !strings.HasPrefix(afterTime(t, lines[0]), "debug\taccess\tconnection opened\tsrc.addr=") ||
		strings.Contains(lines[0], "bytes_sent") {
		t.Errorf("at debug an opening wrote %q, want one line without counts", lines)
	}
}

func TestAccessLineAsJSON(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{JSON: true})
	rec := b.Open(webToCart())
	rec.Counters().Sent.Add(5)
	rec.Close(nil)
	line := b.out.lines()[0]
	head, tail, ok := strings.Cut(line, `","scope":`)
	if !ok || !strings.HasPrefix(head, `{"level":"info","time":"20`) {
		t.Fatalf("line %s does not begin with level and time", line)
	}
	want := `"access","message":"connection complete","src.addr":"10.0.0.1:40000","src.workload":"web-1",` +
		`"src.namespace":"shop","src.identity":"spiffe://cluster.local/ns/shop/sa/web","src.cluster":"Kubernetes",` +
		`"dst.addr":"10.0.1.2:15008","dst.hbone_addr":"10.0.1.2:8080","dst.service":"cart.shop.svc.cluster.local",` +
		`"dst.workload":"cart-1","dst.namespace":"shop","dst.identity":"spiffe://cluster.local/ns/shop/sa/cart",` +
		`"dst.cluster":"Kubernetes","direction":"outbound","bytes_sent":5,"bytes_recv":0,"duration":"0ms","hop":"tunnel"}`
	if tail != want {
		t.Errorf("line\n got %s\nwant %s", tail, want)
	}
}
