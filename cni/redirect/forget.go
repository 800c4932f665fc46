package redirect

import (
	"errors"
	"fmt"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// forgetTries is how often conntrack is read when it changes while it is read.
const forgetTries = 3

// ForgetDNS has conntrack of ns forget the DNS questions over UDP that were led to the
// proxy. It remembers them for 30 s and more. Once the rules are gone it no longer
// translates them, and while it still follows connections, as rules of the pod's own may
// have it do for good, the answer to a question from the same port is dropped: it contradicts
// what is remembered. Call it when nothing new is led to the proxy ([Config.Releasing]),
// before [Remove] and before the proxy leaves: then no question is lost but one that is
// just being answered. TCP needs no such help: what begins is judged anew.
func ForgetDNS(ns *netns.NS) error {
	return ns.WithFD(func(fd int) error {
		h, err := netlink.NewHandleAt(vns.NsHandle(fd), unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("open conntrack in %v: %w", ns, err)
		}
		defer h.Close()
		if err := h.SetSocketTimeout(answerTimeout); err != nil {
			return err
		}
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			if err := forgetFamily(h, family); err != nil {
				return fmt.Errorf("conntrack in %v: forget the DNS questions of %s that were led to the proxy: %w", ns, familyName(int(family)), err)
			}
		}
		return nil
	})
}

// forgetFamily is ForgetDNS for one address family.
func forgetFamily(h *netlink.Handle, family netlink.InetFamily) (err error) {
	for range forgetTries {
		if _, err = h.ConntrackDeleteFilters(netlink.ConntrackTable, family, ledToProxy{}); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
	}
	return err
}

// ledToProxy finds the questions that our rules have led to the proxy.
type ledToProxy struct{}

// MatchConntrackFlow says whether flow is one of them.
func (ledToProxy) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return flow.Forward.Protocol == udp && flow.Forward.DstPort == dnsPort && flow.Reverse.SrcPort == dnsProxyPort
}
