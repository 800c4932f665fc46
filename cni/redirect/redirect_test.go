package redirect_test

import (
	"errors"
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) {
	flag.Parse()
	netnstest.Main(m)
}

// cases are the configurations whose effect on a namespace is kept in testdata.
var cases = []struct {
	name string
	cfg  redirect.Config
}{
	{name: "default"},
	{name: "dns", cfg: redirect.Config{DNS: true}},
	{name: "ingress", cfg: redirect.Config{BypassInbound: true}},
	{name: "ingress dns", cfg: redirect.Config{BypassInbound: true, DNS: true}},
	{name: "virtual interfaces", cfg: redirect.Config{VirtualInterfaces: []string{"fake1s0f0", "fake1s0f1"}}},
	{name: "ingress and virtual interfaces", cfg: redirect.Config{BypassInbound: true, VirtualInterfaces: []string{"fake1s0f0"}}},
	{name: "refuse closed", cfg: redirect.Config{RefuseClosed: true}},
	{name: "refuse closed dns", cfg: redirect.Config{RefuseClosed: true, DNS: true}},
	{name: "refuse closed ingress", cfg: redirect.Config{RefuseClosed: true, BypassInbound: true}},
	{name: "refuse closed virtual interfaces", cfg: redirect.Config{RefuseClosed: true, VirtualInterfaces: []string{"fake1s0f0"}}},
	{name: "releasing", cfg: redirect.Config{RefuseClosed: true, DNS: true, Releasing: true}},
	{name: "host probe", cfg: redirect.Config{ProbeV4: probe4, ProbeV6: probe6}},
	{name: "host probe ingress", cfg: redirect.Config{BypassInbound: true, ProbeV4: probe4, ProbeV6: probe6}},
}

var (
	probe4 = netip.MustParseAddr("169.254.7.127")
	probe6 = netip.MustParseAddr("fd16:9254:7127:1337:ffff:ffff:ffff:ffff")
)

// withFamilies calls fn for each case with IPv4 alone and with both.
func withFamilies(t *testing.T, fn func(t *testing.T, golden string, cfg redirect.Config)) {
	for _, tt := range cases {
		for _, v6 := range []bool{false, true} {
			name, cfg := tt.name+" ipv4", tt.cfg
			if cfg.IPv6 = v6; v6 {
				name += " ipv6"
			}
			t.Run(name, func(t *testing.T) {
				fn(t, filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".golden"), cfg)
			})
		}
	}
}

func TestKernelGivesBack(t *testing.T) {
	withFamilies(t, func(t *testing.T, golden string, cfg redirect.Config) {
		ns := netnstest.New(t)
		apply(t, ns, cfg)
		got := read(t, ns)
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
			t.Errorf("the kernel holds something else than %s (- golden, + kernel; -update rewrites it):\n%s", golden, diff)
		}
	})
}

func TestApplyAgainChangesNothing(t *testing.T) {
	withFamilies(t, func(t *testing.T, _ string, cfg redirect.Config) {
		ns := netnstest.New(t)
		apply(t, ns, cfg)
		before := handles(t, ns)
		apply(t, ns, cfg)
		if diff := cmp.Diff(before, handles(t, ns)); diff != "" {
			t.Errorf("rules were written again though nothing differed:\n%s", diff)
		}
	})
}

func TestRemoveLeavesNothing(t *testing.T) {
	withFamilies(t, func(t *testing.T, _ string, cfg redirect.Config) {
		ns := netnstest.New(t)
		empty := everything(t, ns)
		apply(t, ns, cfg)
		if everything(t, ns) == empty {
			t.Fatal("Apply left no trace to remove")
		}
		for range 2 { // the second finds nothing to do
			if err := redirect.Remove(ns); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(empty, everything(t, ns)); diff != "" {
			t.Errorf("Remove left something behind:\n%s", diff)
		}
	})
}

func TestChangeOfConfigReplacesAll(t *testing.T) {
	ns := netnstest.New(t)
	for _, tt := range cases {
		for _, v6 := range []bool{true, false} {
			cfg := tt.cfg
			cfg.IPv6 = v6
			apply(t, ns, cfg)
			if got := read(t, ns); got != redirect.Text(cfg) {
				t.Errorf("%s: holds\n%s\nwant\n%s", tt.name, got, redirect.Text(cfg))
			}
		}
	}
}

func TestStrangersAreLeftAlone(t *testing.T) {
	ns := netnstest.New(t)
	h := netnstest.Handle(t, ns)
	lo, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	other := netlink.NewRule()
	other.Family, other.Priority, other.Mark, other.Table = unix.AF_INET, 100, 7, redirect.RouteTable
	if err := h.RuleAdd(other); err != nil {
		t.Fatal(err)
	}
	_, dst, _ := net.ParseCIDR("192.0.2.0/24")
	if err := h.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Table: redirect.RouteTable}); err != nil {
		t.Fatal(err)
	}
	nft(t, ns, func(c *nftables.Conn) {
		c.AddTable(&nftables.Table{Name: "somebody", Family: nftables.TableFamilyINet})
		c.AddTable(&nftables.Table{Name: redirect.TableName, Family: nftables.TableFamilyIPv4})
	})
	before := everything(t, ns)
	apply(t, ns, redirect.Config{IPv6: true, DNS: true})
	if err := redirect.Remove(ns); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, everything(t, ns)); diff != "" {
		t.Errorf("what others had written is not as before:\n%s", diff)
	}
}

func TestVerifyNamesTheDifference(t *testing.T) {
	table := &nftables.Table{Name: redirect.TableName, Family: nftables.TableFamilyINet}
	natOutput := &nftables.Chain{Name: "nat-output", Table: table}
	cfg := redirect.Config{IPv6: true}
	for _, tt := range []struct {
		name     string
		sabotage func(t *testing.T, ns *netns.NS)
		want     string
	}{
		{"the table is deleted", func(t *testing.T, ns *netns.NS) {
			nft(t, ns, func(c *nftables.Conn) { c.DelTable(table) })
		}, "table inet ambit"},
		{"a chain is flushed", func(t *testing.T, ns *netns.NS) {
			nft(t, ns, func(c *nftables.Conn) { c.FlushChain(natOutput) })
		}, "5 missing"},
		{"a rule is added", func(t *testing.T, ns *netns.NS) {
			nft(t, ns, func(c *nftables.Conn) { c.InsertRule(&nftables.Rule{Table: table, Chain: natOutput}) })
		}, "1 too many"},
		{"a chain is added", func(t *testing.T, ns *netns.NS) {
			nft(t, ns, func(c *nftables.Conn) { c.AddChain(&nftables.Chain{Name: "stranger", Table: table}) })
		}, "stranger"},
		{"the policy rule is deleted", func(t *testing.T, ns *netns.NS) {
			r := netlink.NewRule()
			r.Family, r.Priority = unix.AF_INET, redirect.RulePriority
			if err := netnstest.Handle(t, ns).RuleDel(r); err != nil {
				t.Fatal(err)
			}
		}, "rule ipv4 32764"},
		{"the IPv6 route is deleted", func(t *testing.T, ns *netns.NS) {
			h := netnstest.Handle(t, ns)
			routes, err := h.RouteListFiltered(unix.AF_INET6, &netlink.Route{Table: redirect.RouteTable}, netlink.RT_FILTER_TABLE)
			if err != nil || len(routes) != 1 {
				t.Fatal(routes, err)
			}
			if err := h.RouteDel(&routes[0]); err != nil {
				t.Fatal(err)
			}
		}, "route ipv6 table 100"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := netnstest.New(t)
			apply(t, ns, cfg)
			tt.sabotage(t, ns)
			err := redirect.Verify(ns, cfg)
			var drift *redirect.DriftError
			if !errors.As(err, &drift) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Verify = %v, want a drift that names %q", err, tt.want)
			}
			apply(t, ns, cfg)
		})
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]redirect.Config{
		"interface name too long":   {VirtualInterfaces: []string{"an-interface-with-a-long-name"}},
		"interface without a name":  {VirtualInterfaces: []string{""}},
		"IPv6 where IPv4 belongs":   {ProbeV4: probe6},
		"IPv4 in the place of IPv6": {ProbeV6: probe4},
	} {
		if err := cfg.Check(); err == nil {
			t.Errorf("%s: Check finds nothing wrong with %+v", name, cfg)
		}
	}
}

// The runtime may have brought up the pod's network before its loopback.
func TestApplyBringsLoUp(t *testing.T) {
	ns := netnstest.New(t)
	h := netnstest.Handle(t, ns)
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetDown(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	apply(t, ns, redirect.Config{})
	if lo, err = h.LinkByName("lo"); err != nil || lo.Attrs().Flags&net.FlagUp == 0 {
		t.Errorf("lo has flags %v after Apply, %v", lo.Attrs().Flags, err)
	}
	if got, want := read(t, ns), redirect.Text(redirect.Config{}); got != want {
		t.Errorf("holds\n%s\nwant\n%s", got, want)
	}
}

func TestHasIPv6(t *testing.T) {
	ns := netnstest.New(t)
	for value, want := range map[string]bool{"0": true, "1": false} {
		netnstest.Sysctl(t, ns, "net/ipv6/conf/lo/disable_ipv6", value)
		if got, err := redirect.HasIPv6(ns); err != nil || got != want {
			t.Errorf("HasIPv6 with disable_ipv6=%s is %v, %v, want %v", value, got, err, want)
		}
	}
}

func TestIPv6ThatCannotBeCapturedIsAnError(t *testing.T) {
	w := newWorld(t)
	netnstest.Sysctl(t, w.pod, "net/ipv6/conf/lo/disable_ipv6", "1")
	if has, err := redirect.HasIPv6(w.pod); err == nil {
		t.Errorf("HasIPv6 = %v where eth0 has IPv6 and lo has not, want an error", has)
	}
}

// Neighbours reach a pod by its link-local address.
func TestLinkLocalIPv6ThatCannotBeCapturedIsAnError(t *testing.T) {
	ns, peer := netnstest.New(t), netnstest.New(t)
	netnstest.Sysctl(t, ns, "net/ipv6/conf/lo/disable_ipv6", "1")
	netnstest.Veth(t,
		netnstest.End{NS: ns, Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("fe80::1/64")}},
		netnstest.End{NS: peer, Name: "eth0"})
	if has, err := redirect.HasIPv6(ns); err == nil {
		t.Errorf("HasIPv6 = %v where eth0 has a link-local address and lo has no IPv6, want an error", has)
	}
}

func TestPrepare(t *testing.T) {
	ns := netnstest.New(t)
	for _, s := range []struct{ key, before, after string }{
		{"net/ipv4/tcp_migrate_req", "0", "1"},
		{"net/netfilter/nf_conntrack_tcp_loose", "1", "0"},
	} {
		netnstest.Sysctl(t, ns, s.key, s.before)
		for range 2 {
			if err := redirect.Prepare(ns); err != nil {
				t.Fatal(err)
			}
			netnstest.Do(t, ns, func() error {
				got, err := os.ReadFile(filepath.Join("/proc/sys", s.key))
				if err == nil && strings.TrimSpace(string(got)) != s.after {
					t.Errorf("%s = %q, want %s", s.key, got, s.after)
				}
				return err
			})
		}
	}
}
