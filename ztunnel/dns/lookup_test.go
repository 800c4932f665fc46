package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/workload"
)

func TestCandidates(t *testing.T) {
	for _, tt := range []struct{ name, ask, want string }{
		{"service alone", "db", "db db.shop.svc.cluster.local"},
		{"service and namespace, or pod and service", "db.bank", "db.bank db.bank.svc.cluster.local db.bank.shop.svc.cluster.local"},
		{"service, namespace, svc", "db.bank.svc", "db.bank.svc db.bank.svc.cluster.local db.bank.svc.svc.cluster.local"},
		{"pod, service, namespace", "p0.db.bank", "p0.db.bank p0.db.bank.svc.cluster.local"},
		{"pod, service, namespace, svc", "p0.db.bank.svc", "p0.db.bank.svc p0.db.bank.svc.cluster.local"},
		{"five labels mean nothing shorter", "a.b.c.d.e", "a.b.c.d.e"},
		{
			"search domain of the namespace", "api.example.com.shop.svc.cluster.local",
			"api.example.com.shop.svc.cluster.local api.example.com|api.example.com api.example.com.svc.cluster.local|api.example.com " +
				"api.example.com.shop|api.example.com.shop api.example.com.shop.svc|api.example.com.shop.svc",
		},
		{
			"search domain svc", "db.bank.svc.cluster.local",
			"db.bank.svc.cluster.local db.bank|db.bank db.bank.shop.svc.cluster.local|db.bank " +
				"db.bank.svc|db.bank.svc db.bank.svc.svc.cluster.local|db.bank.svc",
		},
		{"search domain of another namespace is no search domain", "api.com.bank.svc.other", "api.com.bank.svc.other"},
		{"nothing left of it", "cluster.local", "cluster.local cluster.local.svc.cluster.local cluster.local.shop.svc.cluster.local"},
		{"escaped", `a\.b.example.com`, ""},
		{"root", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, c := range (names{domain: "cluster.local"}).candidates(tt.ask, "shop") {
				text := c.host
				if c.rest != "" {
					text += "|" + c.rest
				}
				got = append(got, text)
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("candidates:\n%s\nwant:\n%s", s, tt.want)
			}
		})
	}
}

func TestEachPatternWalksUp(t *testing.T) {
	var got []string
	eachPattern("www.a.example.com", func(p string) bool { got = append(got, p); return p == "*.com" })
	if want := []string{"www.a.example.com", "*.a.example.com", "*.example.com", "*.com"}; !slices.Equal(got, want) {
		t.Errorf("patterns %q, want %q", got, want)
	}
}

// matrix is the picture of TestLookup.
func matrix(t *testing.T) *workload.Snapshot {
	canonical := func(s *workloadapi.Service) { s.Canonical = true }
	private := func(s *workloadapi.Service) { s.Visibility = workloadapi.Service_NAMESPACE }
	headless := "shop/nodes.shop.svc.cluster.local"
	return store(t,
		service("shop", "db.shop.svc.cluster.local", canonical, "10.96.0.1", "fd00::1"),
		service("bank", "db.bank.svc.cluster.local", canonical, "10.96.0.2"),
		service("shop", "api.example.com", nil, "240.240.0.1"),
		service("shop", "*.wild.test", nil, "240.240.0.2"),
		service("shop", "*.deep.wild.test", nil, "240.240.0.3"),
		service("shop", "exact.wild.test", nil, "240.240.0.4"),
		service("shop", "dns.example.com", nil), // a ServiceEntry without an address
		service("bank", "secret.example.com", private, "240.240.0.5"),
		service("bank", "twice.example.com", nil, "240.240.0.6"),
		service("shop", "twice.example.com", nil, "240.240.0.7"),
		service("other", "thrice.example.com", nil, "240.240.0.8"),
		service("ours", "thrice.example.com", nil, "240.240.0.9"),
		service("other", "best.example.com", nil, "240.240.0.10"),
		service("zoo", "best.example.com", canonical, "240.240.0.11"),
		service("shop", "far.example.com", func(s *workloadapi.Service) {
			s.Addresses = []*workloadapi.NetworkAddress{{Network: "away", Address: netip.MustParseAddr("10.96.0.3").AsSlice()}}
		}),
		service("shop", "range.example.com", func(s *workloadapi.Service) {
			length := uint32(24)
			s.Addresses = []*workloadapi.NetworkAddress{{Address: netip.MustParseAddr("10.97.0.0").AsSlice(), Length: &length}}
		}),
		service("shop", "v4.shop.svc.cluster.local", func(s *workloadapi.Service) { s.IpFamilies = workloadapi.IPFamilies_IPV4_ONLY }, "10.96.0.4", "fd00::4"),
		service("shop", "nodes.shop.svc.cluster.local", canonical),
		service("shop", "nobody.shop.svc.cluster.local", canonical),
		member("n1", "shop", headless, nil, "10.0.0.1", "fd00:1::1"),
		member("n2", "shop", headless, nil, "10.0.0.2"),
		member("ill", "shop", headless, func(w *workloadapi.Workload) { w.Status = workloadapi.WorkloadStatus_UNHEALTHY }, "10.0.0.3"),
		member("away", "shop", headless, func(w *workloadapi.Workload) { w.Network = "away" }, "10.0.0.4"),
	).Snapshot()
}

func TestLookup(t *testing.T) {
	snap := matrix(t)
	const forwarded = "forwarded"
	for _, tt := range []struct {
		name, ask string
		v6        bool
		names     Names
		want      string
	}{
		{name: "short", ask: "db", want: "10.96.0.1"},
		{name: "ns-qualified", ask: "db.bank", want: "10.96.0.2"},
		{name: "svc", ask: "db.bank.svc", want: "10.96.0.2"},
		{name: "FQDN", ask: "db.bank.svc.cluster.local", want: "10.96.0.2"},
		{name: "trailing dot", ask: "db.bank.svc.cluster.local.", want: "10.96.0.2"},
		{name: "capitals", ask: "DB.Bank.SVC.cluster.LOCAL.", want: "10.96.0.2"},
		{name: "search-suffixed + CNAME", ask: "api.example.com.shop.svc.cluster.local", want: "api.example.com: 240.240.0.1"},
		{name: "search-suffixed by svc", ask: "api.example.com.svc.cluster.local", want: "api.example.com: 240.240.0.1"},
		{name: "search-suffixed by the cluster's domain", ask: "api.example.com.cluster.local", want: "api.example.com: 240.240.0.1"},
		{name: "suffix of another namespace is none", ask: "api.example.com.bank.svc.cluster.local", want: forwarded},
		{name: "external", ask: "api.example.com", want: "240.240.0.1"},
		{name: "external wildcard", ask: "a.wild.test", want: "240.240.0.2"},
		{name: "wildcard: several labels", ask: "a.b.wild.test", want: "240.240.0.2"},
		{name: "wildcard: the most specific wins", ask: "a.deep.wild.test", want: "240.240.0.3"},
		{name: "wildcard: a whole name wins", ask: "exact.wild.test", want: "240.240.0.4"},
		{name: "wildcard: not the domain itself", ask: "wild.test", want: forwarded},
		{name: "wildcard, search-suffixed", ask: "a.wild.test.shop.svc.cluster.local", want: "a.wild.test: 240.240.0.2"},
		{name: "headless", ask: "nodes", want: "10.0.0.1 10.0.0.2"},
		{name: "headless IPv6", ask: "nodes", v6: true, want: "fd00:1::1"},
		{name: "headless without endpoints", ask: "nobody.shop.svc.cluster.local", want: ""},
		{name: "pod of a headless service is forwarded", ask: "n1.nodes.shop.svc.cluster.local", want: forwarded},
		{name: "VIP-less forwarded", ask: "dns.example.com", want: forwarded},
		{name: "other-network VIP hidden", ask: "far.example.com", want: ""},
		{name: "range of addresses hidden", ask: "range.example.com", want: ""},
		{name: "family restricted", ask: "v4", v6: true, want: ""},
		{name: "family restricted, the other", ask: "v4", want: "10.96.0.4"},
		{name: "IPv6", ask: "db", v6: true, want: "fd00::1"},
		{name: "no address of that family", ask: "db.bank", v6: true, want: ""},
		{name: "IPv6 switched off", ask: "db", v6: true, names: Names{IPv4Only: true}, want: ""},
		{name: "visibility: hidden", ask: "secret.example.com", want: forwarded},
		{name: "own namespace first", ask: "twice.example.com", want: "240.240.0.7"},
		{name: "canonical before others", ask: "best.example.com", want: "240.240.0.11"},
		{name: "else the first", ask: "thrice.example.com", want: "240.240.0.8"},
		{name: "preferred namespace", ask: "thrice.example.com", names: Names{PreferredNamespace: "ours"}, want: "240.240.0.9"},
		{name: "canonical before preferred", ask: "best.example.com", names: Names{PreferredNamespace: "other"}, want: "240.240.0.11"},
		{name: "unknown", ask: "www.example.org", want: forwarded},
		{name: "another cluster domain", ask: "db", names: Names{Domain: "mesh.test."}, want: forwarded},
		{name: "root", ask: ".", want: forwarded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.names.Lookup(snap, Client{Namespace: "shop"}, tt.ask, tt.v6)
			got := forwarded
			if f.Service != nil {
				slices.SortFunc(f.Addresses, netip.Addr.Compare)
				got = strings.Trim(fmt.Sprint(f.Addresses), "[]")
				if f.Alias != "" {
					got = f.Alias + ": " + got
				}
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// The order of answers is random, so that clients that take the first are
// spread.
func TestLookupShuffles(t *testing.T) {
	snap := matrix(t)
	first := map[netip.Addr]bool{}
	for range 200 {
		first[Names{}.Lookup(snap, Client{Namespace: "shop"}, "nodes", false).Addresses[0]] = true
	}
	if len(first) != 2 {
		t.Errorf("the first address was always one of %v", first)
	}
}

func TestVisibleOnlyToItsNamespace(t *testing.T) {
	snap := matrix(t)
	f := Names{}.Lookup(snap, Client{Namespace: "bank"}, "secret.example.com", false)
	if f.Service == nil || len(f.Addresses) != 1 {
		t.Errorf("its own namespace finds %+v", f)
	}
}
