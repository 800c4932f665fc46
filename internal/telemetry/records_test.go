package telemetry

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
)

// allLabels are the labels of webToCart, with %s for response_flags.
const allLabels = `{connection_security_policy="mutual_tls",` +
	`destination_app="cart",destination_canonical_revision="v2",destination_canonical_service="cart",` +
	`destination_cluster="Kubernetes",destination_principal="spiffe://cluster.local/ns/shop/sa/cart",` +
	`destination_region="r2",destination_service="cart.shop.svc.cluster.local",destination_service_name="cart",` +
	`destination_service_namespace="shop",destination_version="v2",destination_workload="cart",` +
	`destination_workload_namespace="shop",destination_zone="z2",reporter="source",request_protocol="tcp",` +
	`response_flags="%s",source_app="web",source_canonical_revision="v1",source_canonical_service="web",` +
	`source_cluster="Kubernetes",source_principal="spiffe://cluster.local/ns/shop/sa/web",source_region="r1",` +
	`source_version="v1",source_workload="web",source_workload_namespace="shop",source_zone="z1"}`

// wantMetric checks that a scrape holds exactly these lines of the metric name.
// A line is labels and value.
func (b *bench) wantMetric(t *testing.T, name string, lines ...string) {
	t.Helper()
	text, err := testutil.CollectAndFormat(&collector{records: b.Records}, expfmt.TypeTextPlain, name)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			got = append(got, strings.TrimPrefix(strings.TrimSpace(line), name))
		}
	}
	if strings.Join(got, "\n") != strings.Join(lines, "\n") {
		t.Errorf("%s:\n got %s\nwant %s", name, strings.Join(got, "\n"), strings.Join(lines, "\n"))
	}
}

func TestConnectionMetricsWithTheFullLabelSet(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{})
	good := fmt.Sprintf(allLabels, "-")
	rec := b.Open(webToCart())
	b.wantMetric(t, "istio_tcp_connections_opened_total", good+" 1")
	b.wantMetric(t, "istio_tcp_connections_closed_total")

	rec.Counters().Sent.Add(100)
	rec.Counters().Received.Add(7)
	// Received by the proxy from the client; sent by it to the client.
	b.wantMetric(t, "istio_tcp_received_bytes_total", good+" 100")
	b.wantMetric(t, "istio_tcp_sent_bytes_total", good+" 7")

	rec.Counters().Sent.Add(1)
	b.wantMetric(t, "istio_tcp_received_bytes_total", good+" 101")
	rec.Counters().Sent.Add(1)
	rec.Close(nil)
	b.wantMetric(t, "istio_tcp_received_bytes_total", good+" 102")
	b.wantMetric(t, "istio_tcp_connections_closed_total", good+" 1")
	b.wantMetric(t, "istio_tcp_connections_failed_total")
}

func TestFailuresCloseWithTheirFlagAndCountOnTop(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{})
	deny := fmt.Sprintf(allLabels, "DENY")
	b.Open(webToCart()).Close(ExplainPolicy("shop/deny", errors.New("refused")))
	b.wantMetric(t, "istio_tcp_connections_opened_total", fmt.Sprintf(allLabels, "-")+" 1")
	b.wantMetric(t, "istio_tcp_connections_closed_total", deny+" 1")
	b.wantMetric(t, "istio_tcp_connections_failed_total", deny+" 1")
}

func TestCloseCountsOnce(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{})
	rec := b.Open(webToCart())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { rec.Close(nil) })
	}
	wg.Wait()
	b.wantMetric(t, "istio_tcp_connections_closed_total", fmt.Sprintf(allLabels, "-")+" 1")
	if n := len(b.out.lines()); n != 1 {
		t.Errorf("%d access log lines, want 1", n)
	}
	if n := len(b.Recent()); n != 1 {
		t.Errorf("%d entries, want 1", n)
	}
	if n := len(b.Live()); n != 0 {
		t.Errorf("%d living connections, want 0", n)
	}
}

func TestEarlyRefusalsChangeNoMetric(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{})
	b.Refuse(Inbound, netip.MustParseAddrPort("10.0.0.1:4"), netip.AddrPort{}, errors.New("no workload"))
	for _, name := range []string{"istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total", "istio_tcp_connections_failed_total"} {
		b.wantMetric(t, name)
	}
	if got := b.Recent(); len(got) != 1 || got[0].State() != "refused" || got[0].Error != "no workload" {
		t.Errorf("recent = %+v, want the refusal", got)
	}
}

func TestSocketsGoUpAndDown(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{})
	b.SocketOpened(Outbound)
	b.SocketOpened(Outbound)
	b.SocketOpened(Inbound)
	b.SocketClosed(Outbound)
	b.wantMetric(t, "istio_tcp_sockets_open", `{reporter="destination"} 1`, `{reporter="source"} 1`)
}

func TestPlaintextHasNoSecurityPolicy(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{})
	c := webToCart()
	c.Hop = HopDirect
	b.Open(c)
	want := strings.Replace(fmt.Sprintf(allLabels, "-"), "mutual_tls", "unknown", 1)
	b.wantMetric(t, "istio_tcp_connections_opened_total", want+" 1")
}

// Scrapes at any moment never lose or double a byte, and never go back.
func TestBytesAreConservedUnderScrapes(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{Spec: "off"})
	var want uint64
	var conns sync.WaitGroup
	var mu sync.Mutex
	for seed := range uint64(4) {
		conns.Go(func() {
			dice := rand.New(rand.NewPCG(seed, 1))
			for range 200 {
				rec := b.Open(webToCart())
				var total uint64
				for range dice.IntN(20) {
					n := dice.Uint64N(1 << 20)
					rec.Counters().Sent.Add(n)
					total += n
				}
				rec.Close(nil)
				mu.Lock()
				want += total
				mu.Unlock()
			}
		})
	}
	done := make(chan struct{})
	var scraper sync.WaitGroup
	scraper.Go(func() {
		var last float64
		for {
			got := b.sum(t, "istio_tcp_received_bytes_total")
			if got < last {
				t.Errorf("the counter went from %v to %v", last, got)
			}
			last = got
			select {
			case <-done:
				return
			default:
			}
		}
	})
	conns.Wait()
	close(done)
	scraper.Wait()
	if got := b.sum(t, "istio_tcp_received_bytes_total"); got != float64(want) {
		t.Errorf("counted %v bytes, want %v", got, want)
	}
}

// sum adds up all series of a counter.
func (b *bench) sum(t *testing.T, name string) (total float64) {
	families, err := b.reg.Gather()
	if err != nil {
		t.Error(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			total += m.GetCounter().GetValue()
		}
	}
	return total
}

// series counts the series of a counter.
func (b *bench) count(t *testing.T, name string) int {
	n, err := testutil.GatherAndCount(b.reg, name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSeriesAreBounded(t *testing.T) {
	b := newBench(t, Config{Series: 16}, LogConfig{Spec: "off"})
	conn := func(i int) Conn {
		c := webToCart()
		c.Destination.Workload.WorkloadName = fmt.Sprint("w", i)
		return c
	}
	var open []*Record
	for i := range 100 {
		open = append(open, b.Open(conn(i)))
	}
	if n := b.count(t, "istio_tcp_connections_opened_total"); n > 17 {
		t.Errorf("%d series with all connections alive, want at most 16 and one for the rest", n)
	}
	if got := b.sum(t, "istio_tcp_connections_opened_total"); got != 100 {
		t.Errorf("%v connections counted, want 100: none may be lost", got)
	}
	for _, rec := range open {
		rec.Close(nil)
	}
	b.Open(conn(1000))
	if n := b.count(t, "istio_tcp_connections_opened_total"); n > 16 {
		t.Errorf("%d series, want at most 16: idle ones make room", n)
	}
	if got := b.sum(t, "ambit_metric_series_overflow_total"); got == 0 {
		t.Error("connections that found no place are not counted")
	}
}

func TestPodsOfOneWorkloadShareASeries(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{Spec: "off"})
	for i := range 50 {
		c := webToCart()
		c.Source.Workload.Name = fmt.Sprint("web-", i)
		c.Source.Addr = netip.AddrPortFrom(c.Source.Addr.Addr(), uint16(1000+i))
		b.Open(c).Close(nil)
	}
	if n := b.count(t, "istio_tcp_connections_opened_total"); n != 1 {
		t.Errorf("%d series for 50 pods of a workload, want 1", n)
	}
}

// Names can come from the peer. Whatever they are, a scrape succeeds.
func TestHostileNamesDoNotBreakAScrape(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{Spec: "off"})
	for _, name := range []string{"", "unknown", "\xff", "_", "\xfe", strings.Repeat("x", 10000), strings.Repeat("x", 253) + "y", "a\nb", `"`} {
		c := webToCart()
		c.Source.Workload.WorkloadName = name
		b.Open(c).Close(nil)
	}
	b.Open(Conn{}).Close(nil)
	if _, err := b.reg.Gather(); err != nil {
		t.Error(err)
	}
	if got := b.sum(t, "istio_tcp_connections_closed_total"); got != 10 {
		t.Errorf("counted %v connections, want 10", got)
	}
}

func TestLiveShowsWhatIsOpenOldestFirst(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{})
	var recs []*Record
	for range 40 { // more than the list has shards
		recs = append(recs, b.Open(webToCart()))
	}
	for i, rec := range recs {
		if i%3 != 0 {
			rec.Close(nil)
		}
	}
	recs[0].Counters().Sent.Add(9)
	recs[0].SetHop(HopLocal)
	recs[0].SetPolicy("shop/allow")
	recs[0].SetActualDst(netip.MustParseAddrPort("10.0.1.2:8080"))
	live := b.Live()
	if len(live) != 14 {
		t.Fatalf("%d living connections, want 14", len(live))
	}
	for i, e := range live {
		if e.ID != recs[3*i].ID() || e.State() != "open" {
			t.Errorf("connection %d has id %d and state %s, want %d, open", i, e.ID, e.State(), recs[3*i].ID())
		}
	}
	e := live[0]
	if e.BytesSent != 9 || e.Conn.Hop != HopLocal || e.Conn.Policy != "shop/allow" || e.Conn.ActualDst.Port() != 8080 {
		t.Errorf("first connection is %+v", e)
	}
}

func TestRecentIsARingNewestFirst(t *testing.T) {
	b := newBench(t, Config{Recent: 3}, LogConfig{Spec: "off"})
	var last *Record
	for range 8 {
		last = b.Open(webToCart())
		last.Close(errors.New(strings.Repeat("é", maxText)))
	}
	got := b.Recent()
	if len(got) != 3 {
		t.Fatalf("%d entries, want 3", len(got))
	}
	for i, e := range got {
		if e.ID != last.ID()-uint64(i) {
			t.Errorf("entry %d has id %d, want %d", i, e.ID, last.ID()-uint64(i))
		}
		if len(e.Error) > maxText || !strings.HasSuffix(e.Error, "é") {
			t.Errorf("error text has %d bytes, want at most %d, cut between characters", len(e.Error), maxText)
		}
	}
	if cap(b.failed.all) > 4 {
		t.Errorf("the ring holds room for %d entries, want 3", cap(b.failed.all))
	}
}

// Who asks why does so because of what failed: a busy node does not push it out.
func TestGoodEndsDoNotPushOutBadOnes(t *testing.T) {
	b := newBench(t, Config{Recent: 3}, LogConfig{Spec: "off"})
	bad := b.Open(webToCart())
	bad.Close(errors.New("refused"))
	b.Refuse(Inbound, netip.AddrPort{}, netip.AddrPort{}, errors.New("no handshake"))
	var last *Record
	for range 8 {
		last = b.Open(webToCart())
		last.Close(nil)
	}
	var ids []uint64
	for _, e := range b.Recent() {
		ids = append(ids, e.ID)
	}
	if want := []uint64{last.ID(), last.ID() - 1, last.ID() - 2, bad.ID() + 1, bad.ID()}; !slices.Equal(ids, want) {
		t.Errorf("remembered are %v, want %v", ids, want)
	}
}

func TestEntryIsAsSmallAsItSays(t *testing.T) {
	if size := unsafe.Sizeof(Entry{}); size >= 1<<10 {
		t.Errorf("an Entry has %d bytes, its comment says less than 1 KiB", size)
	}
}

func TestEntryJSONHoldsTheVerdict(t *testing.T) {
	b := newBench(t, Config{}, LogConfig{})
	rec := b.Open(webToCart())
	rec.Close(ExplainPolicy("shop/deny", errors.New("refused")))
	text, err := json.Marshal(b.Recent()[0])
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"state": "failed", "stage": "policy", "fault": "policy", "responseFlags": "DENY", "error": "refused",
		"direction": "outbound", "hop": "tunnel", "originalDst": "10.96.0.7:80",
	} {
		if got[key] != want {
			t.Errorf("%s = %v, want %v", key, got[key], want)
		}
	}
	if hint, _ := got["hint"].(string); !strings.Contains(hint, "shop/deny") {
		t.Errorf("hint = %q, want it to name the rule", hint)
	}
}

func TestConfigRefusesNonsense(t *testing.T) {
	for _, cfg := range []Config{{Recent: -1}, {Series: -1}} {
		if _, err := cfg.withDefaults(); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
	if _, err := NewRecords(Config{}, Deps{}); err == nil {
		t.Error("NewRecords without collaborators is accepted")
	}
}

// All documented metrics exist; those without a promise are marked.
func TestScrapeHoldsEveryDocumentedMetric(t *testing.T) {
	reg, err := NewRegistry("ztunnel", "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	log, err := NewLogger(LogConfig{Spec: "off"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	records, err := NewRecords(Config{}, Deps{Log: log.Zap(), Registry: reg})
	if err != nil {
		t.Fatal(err)
	}
	records.Open(webToCart()).Close(ExplainTLS(netip.AddrPort{}, errors.New("no")))
	xds, err := NewXDSMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	xds.Terminated(Reconnect)
	xds.Received("type.googleapis.com/istio.workload.Address", 10)
	if _, err := NewPodMetrics(reg); err != nil {
		t.Fatal(err)
	}
	proxy, err := NewProxyMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	proxy.LimitHit("streams")
	proxy.PolicyMissing()
	proxy.Cut(StagePolicy)

	text := scrape(t, reg)
	stable := []string{
		"istio_tcp_connections_opened", "istio_tcp_connections_closed", "istio_tcp_received_bytes", "istio_tcp_sent_bytes",
		"istio_build",
	}
	unstable := []string{
		"istio_tcp_connections_failed", "istio_tcp_sockets_open", "istio_xds_connection_terminations",
		"istio_xds_message", "istio_xds_message_bytes", "workload_manager_active_proxy_count",
		"workload_manager_pending_proxy_count", "workload_manager_proxies_started", "workload_manager_proxies_stopped",
		"ambit_hbone_limit_hits", "ambit_policy_missing_refusals", "ambit_connections_cut",
	}
	for _, name := range stable {
		if help := helpOf(t, text, name); strings.Contains(help, "(unstable)") {
			t.Errorf("%s is marked unstable: %s", name, help)
		}
	}
	for _, name := range unstable {
		if help := helpOf(t, text, name); !strings.Contains(help, "(unstable)") {
			t.Errorf("%s is not marked unstable: %s", name, help)
		}
	}
	for _, line := range []string{
		`istio_build{component="ztunnel",tag="1.2.3"} 1`, `istio_xds_connection_terminations_total{reason="Reconnect"} 1.0`,
		"process_open_fds ", "process_max_fds ", "go_goroutines ", `response_flags="TLS_FAILURE"`, "# EOF",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("a scrape lacks %s", line)
		}
	}
}

// scrape fetches metrics as Prometheus does: OpenMetrics, compressed.
func scrape(t *testing.T, reg *prometheus.Registry) string {
	t.Helper()
	req := httptest.NewRequest("GET", "/metrics", nil)
	req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	req.Header.Set("Accept-Encoding", "gzip")
	rw := httptest.NewRecorder()
	Handler(reg).ServeHTTP(rw, req)
	if got := rw.Header().Get("Content-Type"); !strings.HasPrefix(got, "application/openmetrics-text") {
		t.Errorf("content type %q, want OpenMetrics", got)
	}
	if rw.Header().Get("Content-Encoding") != "gzip" {
		t.Fatal("the answer is not compressed")
	}
	zr, err := gzip.NewReader(rw.Body)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// helpOf returns the help text of a metric.
func helpOf(t *testing.T, text, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "# HELP "+name+" ")
	if !ok {
		t.Errorf("a scrape lacks %s", name)
	}
	help, _, _ := strings.Cut(rest, "\n")
	return help
}

// BenchmarkRecord measures all a connection costs here: opening, closing, its
// access log line.
func BenchmarkRecord(b *testing.B) {
	bench := newBench(b, Config{}, LogConfig{})
	log, err := NewLogger(LogConfig{}, io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	bench.log, bench.Records.log = log, log.Zap().Named("access")
	c := webToCart()
	b.ReportAllocs()
	for b.Loop() {
		rec := bench.Open(c)
		rec.Counters().Sent.Add(100)
		rec.Close(nil)
	}
}

// A label lives as long as its series, what it was cut from must not.
func TestLabelThatIsCutHoldsNothingElse(t *testing.T) {
	long := strings.Repeat("x", 64<<10)
	got := cleanLabel(long)
	if len(got) != maxLabel || unsafe.StringData(got) == unsafe.StringData(long) {
		t.Errorf("a label of %d bytes that shares the memory of the %d it was cut from", len(got), len(long))
	}
}
