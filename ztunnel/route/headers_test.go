package route_test

import (
	"crypto/rand"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

func TestBuildForwarded(t *testing.T) {
	tests := []struct {
		name string
		in   route.Forwarded
		want string
	}{
		{"without host", route.Forwarded{For: netip.MustParseAddrPort("10.0.0.1:1234")}, `for="10.0.0.1:1234"`},
		{"with host", route.Forwarded{For: netip.MustParseAddrPort("10.0.0.1:1234"), Host: "s.ns.svc"}, `for="10.0.0.1:1234";host=s.ns.svc`},
		{"IPv6", route.Forwarded{For: netip.MustParseAddrPort("[2001:db8::1]:1234")}, `for="[2001:db8::1]:1234"`},
		{"a host that cannot stand in a header is left out", route.Forwarded{For: netip.MustParseAddrPort("10.0.0.1:1"), Host: "a;b"}, `for="10.0.0.1:1"`},
		{"nothing", route.Forwarded{}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.in.String(); got != tt.want {
				t.Errorf("header = %s, want %s", got, tt.want)
			}
		})
	}
}

func TestParseForwarded(t *testing.T) {
	client := netip.MustParseAddrPort("10.0.0.1:1234")
	tests := []struct {
		name, in string
		want     route.Forwarded
	}{
		{"as we write it", `for="10.0.0.1:1234";host=s.ns.svc`, route.Forwarded{For: client, Host: "s.ns.svc"}},
		{"any order", `host=s.ns.svc;for="10.0.0.1:1234"`, route.Forwarded{For: client, Host: "s.ns.svc"}},
		{"without quotes, with spaces and others between", `by=x; FOR=10.0.0.1:1234 ; proto=http; Host="s.ns.svc"`, route.Forwarded{For: client, Host: "s.ns.svc"}},
		{"without host", `for="10.0.0.1:1234"`, route.Forwarded{For: client}},
		{"host only", `host=s`, route.Forwarded{Host: "s"}},
		{"the first element counts", `host=a, host=b`, route.Forwarded{Host: "a"}},
		{"separators between quotes are part of the value", `by="a;host=x,b";host=s`, route.Forwarded{Host: "s"}},
		{"an address without a port says nothing", `for=10.0.0.1;host=s`, route.Forwarded{Host: "s"}},
		{"empty host", `host=;for="10.0.0.1:1234"`, route.Forwarded{For: client}},
		{"IPv4 in IPv6", `for="[::ffff:10.0.0.1]:1234"`, route.Forwarded{For: client}},
		{"garbage", `;;=,"`, route.Forwarded{}},
		{"empty", ``, route.Forwarded{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := route.ParseForwarded(tt.in); got != tt.want {
				t.Errorf("parsed = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestBaggage(t *testing.T) {
	full := route.Baggage{Cluster: "c1", Namespace: "shop", WorkloadType: workload.TypeDeployment, WorkloadName: "web", ServiceName: "web", ServiceVersion: "v1", Region: "r", Zone: "z"}
	const text = "k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v1,cloud.region=r,cloud.availability_zone=z"
	if got := full.String(); got != text {
		t.Errorf("header = %s\nwant   = %s", got, text)
	}
	job := route.Baggage{WorkloadType: workload.TypeJob, WorkloadName: "nightly"}
	if got := job.String(); got != "k8s.job.name=nightly" {
		t.Errorf("empty values: header = %s", got)
	}
	if got := (route.Baggage{Namespace: "a,b", Cluster: "c\n"}).String(); got != "" {
		t.Errorf("values that cannot stand in a header: %q", got)
	}
	tests := []struct {
		name  string
		lines []string
		want  route.Baggage
	}{
		{"as we write it", []string{text}, full},
		{"several lines", strings.Split(text, ","), full},
		{"spaces", []string{strings.ReplaceAll(text, ",", " , ")}, full},
		{"unknown keys are ignored", []string{"a=b,k8s.job.name=n,k8s.thing.name=x"}, job2("n")},
		{"only the second piece counts", []string{"k8s.job.name=n=m"}, job2("n")},
		{"properties are cut off", []string{"k8s.job.name=n;ttl=3"}, job2("n")},
		{"no value", []string{"k8s.job.name,k8s.namespace.name="}, route.Baggage{}},
		{"nothing", nil, route.Baggage{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := route.ParseBaggage(tt.lines...); got != tt.want {
				t.Errorf("parsed = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func job2(name string) route.Baggage {
	return route.Baggage{WorkloadType: workload.TypeJob, WorkloadName: name}
}

func TestBaggageOfAWorkload(t *testing.T) {
	w := &workload.Workload{}
	w.Namespace, w.ClusterID, w.Type, w.WorkloadName = "shop", "c1", workload.TypePod, "web-1"
	w.CanonicalName, w.CanonicalRevision, w.Locality = "web", "v1", workload.Locality{Region: "r", Zone: "z"}
	want := "k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.pod.name=web-1,service.name=web,service.version=v1,cloud.region=r,cloud.availability_zone=z"
	if got := route.BaggageOf(w).String(); got != want {
		t.Errorf("baggage = %s\nwant    = %s", got, want)
	}
}

func TestTraceparent(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	tests := []struct {
		name, in string
		ok       bool
	}{
		{"good", good, true},
		{"later version with more", "01" + good[2:] + "-extra", true},
		{"version 00 with more", good + "-extra", false},
		{"later version, no separator", "01" + good[2:] + "extra", false},
		{"version ff", "ff" + good[2:], false},
		{"upper case", strings.ToUpper(good), false},
		{"too short", good[:54], false},
		{"no hex", strings.Replace(good, "0af7", "0xf7", 1), false},
		{"trace of zeros", "00-00000000000000000000000000000000-b7ad6b7169203331-01", false},
		{"span of zeros", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false},
		{"separators", strings.ReplaceAll(good, "-", "_"), false},
		{"empty", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tp, err := route.ParseTraceparent(tt.in)
			if (err == nil) != tt.ok {
				t.Fatalf("ParseTraceparent = %v, %v; want ok = %v", tp, err, tt.ok)
			}
			if tt.ok && tp.String() != good {
				t.Errorf("text = %s, want %s", tp, good)
			}
		})
	}
	a, err := route.NewTraceparent(rand.Read)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := route.ParseTraceparent(a.String()); err != nil || again != a || !strings.HasSuffix(a.String(), "-00") {
		t.Errorf("a new traceparent %v parses to %v, %v", a, again, err)
	}
	empty := errors.New("no randomness")
	if _, err := route.NewTraceparent(func([]byte) (int, error) { return 0, empty }); !errors.Is(err, empty) {
		t.Errorf("NewTraceparent = %v, want %v", err, empty)
	}
}

// What is read can be written, and reads the same again.
func FuzzHeaders(f *testing.F) {
	for _, s := range []string{
		`for="10.0.0.1:1234";host=s.ns.svc`, `host="a\"b";for=[::1]:1`, `for="10.0.0.1:1`, "k8s.cluster.name=c1,k8s.job.name=n=m;x",
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fw := route.ParseForwarded(s)
		if again := route.ParseForwarded(fw.String()); again != fw {
			t.Errorf("forwarded %q = %+v, written and read again %+v", s, fw, again)
		}
		b := route.ParseBaggage(s)
		if again := route.ParseBaggage(b.String()); again != b {
			t.Errorf("baggage %q = %+v, written and read again %+v", s, b, again)
		}
		if tp, err := route.ParseTraceparent(s); err == nil {
			if again, err := route.ParseTraceparent(tp.String()); err != nil || again != tp {
				t.Errorf("traceparent %q = %v, written and read again %v, %v", s, tp, again, err)
			}
		}
		for _, text := range []string{fw.String(), b.String()} {
			for _, c := range []byte(text) {
				if c < ' ' || c >= 0x7f {
					t.Errorf("%q would put the byte %#x into a header", text, c)
				}
			}
		}
	})
}

// Each connection writes these: one piece of memory each.
func TestHeaderTextsTakeOneAllocation(t *testing.T) {
	b := route.Baggage{Cluster: "Kubernetes", Namespace: "shop", WorkloadName: "web", ServiceName: "web", ServiceVersion: "v1", Region: "r", Zone: "z"}
	f := route.Forwarded{For: netip.MustParseAddrPort("[2001:db8:1:2:3:4:5:6]:65535"), Host: "cart.shop.svc.cluster.local"}
	tp := route.Traceparent{Trace: [16]byte{1}, Span: [8]byte{2}}
	for name, text := range map[string]func() string{"baggage": b.String, "forwarded": f.String, "traceparent": tp.String} {
		if n := testing.AllocsPerRun(100, func() { _ = text() }); n > 1 {
			t.Errorf("%s takes %.0f allocations, want 1", name, n)
		}
	}
}
