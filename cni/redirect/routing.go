package redirect

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// RouteTable holds the one route of ours per address family.
	RouteTable = 100

	// RulePriority is where the policy rule stands, in front of the main table.
	RulePriority = 32764
)

// errNoSupport is what the kernel says to a family or expression it lacks.
var errNoSupport error = syscall.EOPNOTSUPP

// everything is the destination of our route.
func everything(family int) *net.IPNet {
	if family == unix.AF_INET {
		return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

// routedFamilies are the address families that get a rule and a route.
func (c Config) routedFamilies() []int {
	if c.IPv6 {
		return []int{unix.AF_INET, unix.AF_INET6}
	}
	return []int{unix.AF_INET}
}

// policyRule sends packets with the return mark to our table.
func policyRule(family int) *netlink.Rule {
	mask := uint32(netns.MarkMask)
	r := netlink.NewRule()
	r.Family, r.Priority, r.Mark, r.Mask, r.Table = family, RulePriority, returnMark, &mask, RouteTable
	return r
}

// returnRoute leads everything to this machine itself.
func returnRoute(family, lo int) *netlink.Route {
	return &netlink.Route{LinkIndex: lo, Dst: everything(family), Scope: unix.RT_SCOPE_HOST, Type: unix.RTN_LOCAL, Table: RouteTable, Protocol: unix.RTPROT_STATIC}
}

// applyRouting writes the rules and routes of cfg, and takes away those of a
// family that is not wanted.
func applyRouting(ns *netns.NS, cfg Config) error {
	return withRoutes(ns, func(h *netlink.Handle) error {
		lo, err := loopback(h)
		if err != nil {
			return err
		}
		if !cfg.IPv6 {
			if err := removeFamily(h, unix.AF_INET6); err != nil {
				return err
			}
		}
		for _, family := range cfg.routedFamilies() {
			if err := h.RuleAdd(policyRule(family)); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("add policy rule of %s: %w", familyName(family), err)
			}
			if err := h.RouteReplace(returnRoute(family, lo)); err != nil {
				return fmt.Errorf("add route of %s: %w", familyName(family), err)
			}
		}
		return nil
	})
}

// loopback returns the index of lo, and brings it up: a runtime has its plugin
// "loopback" do the same, but not always before the pod's own network is made.
// containerd begins both at once.
func loopback(h *netlink.Handle) (int, error) {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return 0, fmt.Errorf("find interface lo: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(lo); err != nil {
			return 0, fmt.Errorf("bring interface lo up: %w", err)
		}
	}
	return lo.Attrs().Index, nil
}

// removeRouting takes our rules and routes away.
func removeRouting(ns *netns.NS) error {
	return withRoutes(ns, func(h *netlink.Handle) error {
		return errors.Join(removeFamily(h, unix.AF_INET), removeFamily(h, unix.AF_INET6))
	})
}

// removeFamily takes our rules and routes of one family away, and leaves those
// of others alone.
func removeFamily(h *netlink.Handle, family int) error {
	rules, routes, err := ours(h, family)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range rules {
		if err := h.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("delete policy rule of %s: %w", familyName(family), err))
		}
	}
	for _, r := range routes {
		if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("delete route of %s: %w", familyName(family), err))
		}
	}
	return errors.Join(errs...)
}

// ours returns the rules and routes of one family that Apply could have written.
func ours(h *netlink.Handle, family int) (rules []netlink.Rule, routes []netlink.Route, err error) {
	all, err := h.RuleList(family)
	if err != nil {
		if family == unix.AF_INET6 && errors.Is(err, errNoSupport) {
			return nil, nil, nil // a kernel without IPv6
		}
		return nil, nil, fmt.Errorf("list policy rules of %s: %w", familyName(family), err)
	}
	for _, r := range all {
		if r.Priority == RulePriority && r.Mark == returnMark && r.Table == RouteTable {
			r.Family = family
			rules = append(rules, r)
		}
	}
	inTable, err := h.RouteListFiltered(family, &netlink.Route{Table: RouteTable}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, nil, fmt.Errorf("list routes of %s: %w", familyName(family), err)
	}
	for _, r := range inTable {
		if r.Type == unix.RTN_LOCAL && isEverything(r.Dst) {
			routes = append(routes, r)
		}
	}
	return rules, routes, nil
}

// isEverything says whether a route is a default route.
func isEverything(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	ones, _ := dst.Mask.Size()
	return ones == 0
}

// readRouting renders our rules and routes as the kernel gives them back.
func readRouting(ns *netns.NS) (string, error) {
	var b strings.Builder
	err := withRoutes(ns, func(h *netlink.Handle) error {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			rules, routes, err := ours(h, family)
			if err != nil {
				return err
			}
			for _, r := range rules {
				b.WriteString(renderPolicy(family, r))
			}
			for _, r := range routes {
				link, err := h.LinkByIndex(r.LinkIndex)
				if err != nil {
					return fmt.Errorf("interface %d of a route: %w", r.LinkIndex, err)
				}
				b.WriteString(renderRoute(family, link.Attrs().Name))
			}
		}
		return nil
	})
	return b.String(), err
}

// renderRouting is what readRouting gives for cfg.
func renderRouting(cfg Config) string {
	var b strings.Builder
	for _, family := range cfg.routedFamilies() {
		b.WriteString(renderPolicy(family, *policyRule(family)))
		b.WriteString(renderRoute(family, "lo"))
	}
	return b.String()
}

// renderPolicy is a policy rule as text.
func renderPolicy(family int, r netlink.Rule) string {
	mask := ^uint32(0)
	if r.Mask != nil {
		mask = *r.Mask
	}
	return fmt.Sprintf("rule %s %d: fwmark %#x/%#x lookup %d\n", familyName(family), r.Priority, r.Mark, mask, r.Table)
}

// renderRoute is our route as text.
func renderRoute(family int, link string) string {
	return fmt.Sprintf("route %s table %d: local %v dev %s\n", familyName(family), RouteTable, everything(family), link)
}

// familyName is an address family as text.
func familyName(family int) string {
	if family == unix.AF_INET {
		return "ipv4"
	}
	return "ipv6"
}

// withRoutes calls fn with rtnetlink of ns.
func withRoutes(ns *netns.NS, fn func(*netlink.Handle) error) error {
	return ns.WithFD(func(fd int) error {
		h, err := netlink.NewHandleAt(vns.NsHandle(fd), unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open rtnetlink in %v: %w", ns, err)
		}
		defer h.Close()
		if err := h.SetSocketTimeout(answerTimeout); err != nil {
			return err
		}
		if err := fn(h); err != nil {
			return fmt.Errorf("routes in %v: %w", ns, err)
		}
		return nil
	})
}

// HasIPv6 says whether ns has IPv6: the kernel knows it, and it is not disabled
// on lo. A namespace that uses IPv6 elsewhere, but not on lo, is an error: what
// it sends could not be captured and would leave in plaintext.
func HasIPv6(ns *netns.NS) (bool, error) {
	var value []byte
	err := ns.Do(func() (err error) {
		value, err = os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
		return err
	})
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil || strings.TrimSpace(string(value)) == "0" {
		return err == nil, err
	}
	addrs, err := ns.Addrs()
	if err != nil {
		return false, err
	}
	for _, a := range addrs {
		if a.Is6() && !a.IsLoopback() { // link-local ones too: neighbours reach the pod by them
			return false, fmt.Errorf("%v has the address %v but no IPv6 on lo, so it could not be captured: set net.ipv6.conf.lo.disable_ipv6 to 0", ns, a)
		}
	}
	return false, nil
}
