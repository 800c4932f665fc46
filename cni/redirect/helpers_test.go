package redirect_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func apply(t testing.TB, ns *netns.NS, cfg redirect.Config) {
	t.Helper()
	if err := redirect.Apply(ns, cfg); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, ns *netns.NS) string {
	t.Helper()
	got, err := redirect.Read(ns)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// nft runs one transaction inside ns.
func nft(t testing.TB, ns *netns.NS, fn func(c *nftables.Conn)) {
	t.Helper()
	err := ns.WithFD(func(fd int) error {
		c, err := nftables.New(nftables.WithNetNSFd(fd))
		if err != nil {
			return err
		}
		fn(c)
		return c.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// handles lists the kernel's numbers of our rules, which are new ones when rules
// are written again.
func handles(t testing.TB, ns *netns.NS) (all []uint64) {
	t.Helper()
	err := ns.WithFD(func(fd int) error {
		c, err := nftables.New(nftables.WithNetNSFd(fd))
		if err != nil {
			return err
		}
		chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
		if err != nil {
			return err
		}
		for _, ch := range chains {
			rules, err := c.GetRules(ch.Table, ch)
			if err != nil {
				return err
			}
			for _, r := range rules {
				all = append(all, r.Handle)
			}
		}
		return nil
	})
	if err != nil || len(all) == 0 {
		t.Fatalf("handles: %v, %v", all, err)
	}
	return all
}

// everything lists all tables, policy rules and routes of ns, whosever they are.
func everything(t testing.TB, ns *netns.NS) string {
	t.Helper()
	var b strings.Builder
	err := ns.WithFD(func(fd int) error {
		c, err := nftables.New(nftables.WithNetNSFd(fd))
		if err != nil {
			return err
		}
		tables, err := c.ListTables()
		for _, table := range tables {
			fmt.Fprintln(&b, "table", table.Family, table.Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h := netnstest.Handle(t, ns)
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := h.RuleList(family)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			fmt.Fprintln(&b, "rule", family, r.Priority, r.Mark, r.Table)
		}
		routes, err := h.RouteListFiltered(family, &netlink.Route{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			fmt.Fprintln(&b, "route", family, r)
		}
		routes, err = h.RouteListFiltered(family, &netlink.Route{Table: redirect.RouteTable}, netlink.RT_FILTER_TABLE)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			fmt.Fprintln(&b, "route of table 100", family, r)
		}
	}
	return b.String()
}
