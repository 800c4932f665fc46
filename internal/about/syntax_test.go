package about

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/internal/workload"
)

func TestBuildForwarded(t *testing.T) {
	tests := []struct {
		name string
		in   Forwarded
		want string
	}{
		{"without host", Forwarded{For: netip.MustParseAddrPort("10.0.0.1:1234")}, `for="10.0.0.1:1234"`},
		{"with host", Forwarded{For: netip.MustParseAddrPort("10.0.0.1:1234"), Host: "s.ns.svc"}, `for="10.0.0.1:1234";host=s.ns.svc`},
		{"IPv6", Forwarded{For: netip.MustParseAddrPort("[2001:db8::1]:1234")}, `for="[2001:db8::1]:1234"`},
		{"a host that cannot stand in a header is left out", Forwarded{For: netip.MustParseAddrPort("10.0.0.1:1"), Host: "a;b"}, `for="10.0.0.1:1"`},
		{"nothing", Forwarded{}, ""},
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
		want     Forwarded
	}{
		{"as we write it", `for="10.0.0.1:1234";host=s.ns.svc`, Forwarded{For: client, Host: "s.ns.svc"}},
		{"any order", `host=s.ns.svc;for="10.0.0.1:1234"`, Forwarded{For: client, Host: "s.ns.svc"}},
		{"without quotes, with spaces and others between", `by=x; FOR=10.0.0.1:1234 ; proto=http; Host="s.ns.svc"`, Forwarded{For: client, Host: "s.ns.svc"}},
		{"without host", `for="10.0.0.1:1234"`, Forwarded{For: client}},
		{"host only", `host=s`, Forwarded{Host: "s"}},
		{"the first element counts", `host=a, host=b`, Forwarded{Host: "a"}},
		{"separators between quotes are part of the value", `by="a;host=x,b";host=s`, Forwarded{Host: "s"}},
		{"an address without a port says nothing", `for=10.0.0.1;host=s`, Forwarded{Host: "s"}},
		{"empty host", `host=;for="10.0.0.1:1234"`, Forwarded{For: client}},
		{"IPv4 in IPv6", `for="[::ffff:10.0.0.1]:1234"`, Forwarded{For: client}},
		{"garbage", `;;=,"`, Forwarded{}},
		{"empty", ``, Forwarded{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := ParseForwarded(tt.in); got != tt.want {
				t.Errorf("parsed = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestBaggage(t *testing.T) {
	full := Baggage{Cluster: "c1", Namespace: "shop", WorkloadType: workload.TypeDeployment, WorkloadName: "web", ServiceName: "web", ServiceVersion: "v1", Region: "r", Zone: "z"}
	const text = "k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v1,cloud.region=r,cloud.availability_zone=z"
	if got := full.String(); got != text {
		t.Errorf("header = %s\nwant   = %s", got, text)
	}
	job := Baggage{WorkloadType: workload.TypeJob, WorkloadName: "nightly"}
	if got := job.String(); got != "k8s.job.name=nightly" {
		t.Errorf("empty values: header = %s", got)
	}
	if got := (Baggage{Namespace: "a,b", Cluster: "c\n"}).String(); got != "" {
		t.Errorf("values that cannot stand in a header: %q", got)
	}
	tests := []struct {
		name  string
		lines []string
		want  Baggage
	}{
		{"as we write it", []string{text}, full},
		{"several lines", strings.Split(text, ","), full},
		{"spaces", []string{strings.ReplaceAll(text, ",", " , ")}, full},
		{"unknown keys are ignored", []string{"a=b,k8s.job.name=n,k8s.thing.name=x"}, job2("n")},
		{"only the second piece counts", []string{"k8s.job.name=n=m"}, job2("n")},
		{"properties are cut off", []string{"k8s.job.name=n;ttl=3"}, job2("n")},
		{"no value", []string{"k8s.job.name,k8s.namespace.name="}, Baggage{}},
		{"nothing", nil, Baggage{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := ParseBaggage(tt.lines...); got != tt.want {
				t.Errorf("parsed = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func job2(name string) Baggage {
	return Baggage{WorkloadType: workload.TypeJob, WorkloadName: name}
}

func TestBaggageOfAWorkload(t *testing.T) {
	w := &workload.Workload{}
	w.Namespace, w.ClusterID, w.Type, w.WorkloadName = "shop", "c1", workload.TypePod, "web-1"
	w.CanonicalName, w.CanonicalRevision, w.Locality = "web", "v1", workload.Locality{Region: "r", Zone: "z"}
	want := "k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.pod.name=web-1,service.name=web,service.version=v1,cloud.region=r,cloud.availability_zone=z"
	if got := BaggageOf(w).String(); got != want {
		t.Errorf("baggage = %s\nwant    = %s", got, want)
	}
}

// What is read can be written, and reads the same again.
func FuzzHeaders(f *testing.F) {
	for _, s := range []string{
		`for="10.0.0.1:1234";host=s.ns.svc`, `host="a\"b";for=[::1]:1`, `for="10.0.0.1:1`, "k8s.cluster.name=c1,k8s.job.name=n=m;x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fw := ParseForwarded(s)
		if again := ParseForwarded(fw.String()); again != fw {
			t.Errorf("forwarded %q = %+v, written and read again %+v", s, fw, again)
		}
		b := ParseBaggage(s)
		if again := ParseBaggage(b.String()); again != b {
			t.Errorf("baggage %q = %+v, written and read again %+v", s, b, again)
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
	b := Baggage{Cluster: "Kubernetes", Namespace: "shop", WorkloadName: "web", ServiceName: "web", ServiceVersion: "v1", Region: "r", Zone: "z"}
	f := Forwarded{For: netip.MustParseAddrPort("[2001:db8:1:2:3:4:5:6]:65535"), Host: "cart.shop.svc.cluster.local"}
	for name, text := range map[string]func() string{"baggage": b.String, "forwarded": f.String} {
		if n := testing.AllocsPerRun(100, func() { _ = text() }); n > 1 {
			t.Errorf("%s takes %.0f allocations, want 1", name, n)
		}
	}
}
