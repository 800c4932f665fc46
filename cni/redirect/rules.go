package redirect

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ambit-mesh/ambit/internal/netns"
)

// The numbers of the ambient ecosystem.
const (
	outboundPort = 15001 // the proxy takes what the pod sends
	inboundPort  = 15006 // the proxy takes plaintext that comes in
	tunnelPort   = 15008 // the proxy's tunnel listener, dialled as it is
	dnsProxyPort = 15053 // the proxy answers DNS questions
	dnsPort      = 53

	// returnMark marks connections that the proxy opened with a borrowed source
	// address, and the packets that go back on them.
	returnMark = 0x111

	// closedMark marks connections to ports on which nothing listened when they
	// began. It is ours; the ecosystem has no such mark.
	closedMark = 0x112

	// dnsZone keeps the proxy's own DNS questions apart in conntrack.
	dnsZone = 1
)

// TableName is the nftables table, of family inet, that is ours in a pod.
const TableName = "ambit"

// Config says what is captured in a pod. The zero Config captures TCP over IPv4
// both ways.
type Config struct {
	// IPv6 adds the rules and the route for IPv6. See [HasIPv6].
	IPv6 bool `json:"ipv6,omitempty"`

	// DNS sends DNS questions to the proxy.
	DNS bool `json:"dns,omitempty"`

	// BypassInbound leaves what comes in alone, for a pod that is itself a
	// gateway.
	BypassInbound bool `json:"bypassInbound,omitempty"`

	// VirtualInterfaces are interfaces of the pod behind which other machines
	// live; what they send is outbound.
	VirtualInterfaces []string `json:"virtualInterfaces,omitempty"`

	// RefuseClosed leaves plaintext to ports on which nothing listens to the kernel
	// of the pod, which refuses it: a probe of an application that is not up must
	// fail, and a redirected connection is always accepted. It has no effect beside
	// VirtualInterfaces, whose machines listen where we do not see it. It needs a
	// kernel with nft_socket.
	RefuseClosed bool `json:"refuseClosed,omitempty"`

	// Releasing captures nothing that is new, and keeps what connections that were
	// captured before need until they end.
	Releasing bool `json:"releasing,omitempty"`

	// ProbeV4 and ProbeV6 are source addresses that host rules give to the
	// kubelet's probes, which then pass by the proxy. Invalid means no such
	// rules.
	ProbeV4 netip.Addr `json:"probeV4,omitzero"`
	ProbeV6 netip.Addr `json:"probeV6,omitzero"`
}

// ifNameSize is the most bytes an interface name has. Source: IFNAMSIZ in
// linux/if.h, less the end mark.
const ifNameSize = 15

// Check says what is wrong with c.
func (c Config) Check() error {
	for _, name := range c.VirtualInterfaces {
		if name == "" || len(name) > ifNameSize {
			return fmt.Errorf("virtual interface %q: want a name of 1 to %d bytes", name, ifNameSize)
		}
	}
	if c.ProbeV4.IsValid() && !c.ProbeV4.Is4() {
		return fmt.Errorf("probe address %v: want IPv4", c.ProbeV4)
	}
	if c.ProbeV6.IsValid() && !c.ProbeV6.Is6() {
		return fmt.Errorf("probe address %v: want IPv6", c.ProbeV6)
	}
	return nil
}

// chain names one of our base chains.
type chain string

const (
	zonePrerouting chain = "zone-prerouting"
	zoneOutput     chain = "zone-output"
	markPrerouting chain = "mark-prerouting"
	markOutput     chain = "mark-output"
	natPrerouting  chain = "nat-prerouting"
	natOutput      chain = "nat-output"
	guardInput     chain = "guard-input"
	guardOutput    chain = "guard-output"
)

// key is what a match looks at.
type key int

const (
	mark     key = iota // of the packet, without the bits that are not ours
	connMark            // of the connection, likewise
	proto               // transport protocol
	family              // of the address: IPv4 or IPv6
	srcAddr
	dstAddr
	srcPort
	dstPort
	inIface
	outIface
	anySocket // the packet has a socket in the pod, be it a listener
	begins    // the packet begins a TCP connection: SYN without ACK
)

// match is one condition. Of the values only the one that fits the key is set.
type match struct {
	key    key
	not    bool
	number uint32
	addr   netip.Addr
	name   string
}

// action is what becomes of a packet that matches.
type action struct {
	kind   actionKind
	number uint32
}

// actionKind tells actions apart.
type actionKind int

const (
	accept      actionKind = iota
	redirectTo             // a port of the pod
	setConnMark            // of the connection; bits that are not ours stay
	restoreMark            // of the packet, from the connection
	setZone                // of conntrack
	untrack                // conntrack does not follow the packet's connection
	drop
)

// rule is one rule: in its chain, when all matches hold, the action.
type rule struct {
	chain   chain
	why     string // kept in the kernel as the rule's comment
	matches []match
	action  action
}

// Source: linux/in.h.
const (
	tcp = 6
	udp = 17
)

// ipFamily is what differs between IPv4 and IPv6.
type ipFamily struct {
	number   uint32 // NFPROTO_*
	loopback netip.Addr
	probe    netip.Addr // may be invalid
}

// families returns the address families that cfg captures.
func (c Config) families() []ipFamily {
	all := []ipFamily{{nfIPv4, netip.AddrFrom4([4]byte{127, 0, 0, 1}), c.ProbeV4}}
	if c.IPv6 {
		all = append(all, ipFamily{nfIPv6, netip.IPv6Loopback(), c.ProbeV6})
	}
	return all
}

// rules is the table as data, in the order in which the kernel asks. The
// loopback is one address, not a net: the rest of 127.0.0.0/8 leaves by lo and
// is let go there.
func (c Config) rules() []rule {
	var all []rule
	add := func(ch chain, why string, act action, m ...match) {
		if c.Releasing && act.kind == redirectTo {
			return
		}
		all = append(all, rule{ch, why, m, act})
	}
	var (
		isTCP, isUDP = match{key: proto, number: tcp}, match{key: proto, number: udp}
		byProxy      = match{key: mark, number: netns.Mark}
		notByProxy   = match{key: mark, number: netns.Mark, not: true}
		viaLo        = match{key: outIface, name: "lo"}
		notViaLo     = match{key: outIface, name: "lo", not: true}
		toDNS        = match{key: dstPort, number: dnsPort}
		borrowed     = match{key: connMark, number: returnMark}
	)
	if c.DNS {
		add(zonePrerouting, "answers to the proxy's own DNS questions", action{setZone, dnsZone}, isUDP, match{key: srcPort, number: dnsPort}, notByProxy)
		add(zoneOutput, "the proxy's own DNS questions", action{setZone, dnsZone}, isUDP, toDNS, byProxy)
	}
	c.addUntracked(add, isTCP, byProxy, notViaLo)
	add(markPrerouting, "the proxy opened this connection, with a borrowed address", action{setConnMark, returnMark}, byProxy)
	add(markOutput, "answers to a borrowed address go back to the proxy", action{kind: restoreMark}, borrowed)

	for _, name := range c.VirtualInterfaces {
		add(natPrerouting, "what machines in the pod send is outbound", action{redirectTo, outboundPort}, match{key: inIface, name: name}, isTCP)
	}
	for _, f := range c.families() {
		c.addInbound(add, f, isTCP, notByProxy)
	}
	c.addInputGuard(add, isTCP, notByProxy)
	for _, f := range c.families() {
		if f.probe.IsValid() {
			add(natOutput, "answers to probes pass by the proxy", action{kind: accept}, f.is(), match{key: dstAddr, addr: f.probe}, isTCP)
		}
	}
	if c.DNS {
		add(natOutput, "DNS questions over UDP", action{redirectTo, dnsProxyPort}, notViaLo, isUDP, toDNS, notByProxy)
	}
	for _, f := range c.families() {
		if c.DNS {
			add(natOutput, "DNS questions over TCP", action{redirectTo, dnsProxyPort}, f.is(), f.notLoopback(), isTCP, toDNS, notByProxy)
		}
	}
	add(natOutput, "answers to a borrowed address are not outbound", action{kind: accept}, isTCP, match{key: mark, number: returnMark})
	for _, f := range c.families() {
		add(natOutput, "the application calls its own pod", action{kind: accept}, f.is(), f.notLoopback(), viaLo)
		add(natOutput, "what the application sends", action{redirectTo, outboundPort}, f.is(), f.notLoopback(), isTCP, notByProxy)
		c.addOutputGuard(add, f, isTCP, notByProxy, notViaLo)
	}
	return all
}

// addUntracked adds what keeps the proxy's own connections out of conntrack, where
// they would stand in the way of the application's: a connection that nobody
// answered is remembered for two minutes, and its port is free at once. When the
// application then calls the same address from that port, conntrack takes its first
// packet for one more of the proxy's, and no rule of a nat chain is asked; and the
// other way round, the proxy would be led to itself. Tunnels stay: an application
// does not call their port, and each of their packets would cost more. So does what
// the proxy answers.
func (c Config) addUntracked(add func(chain, string, action, ...match), isTCP, byProxy, notViaLo match) {
	own := []match{notViaLo, isTCP, byProxy, {key: dstPort, number: tunnelPort, not: true}}
	for _, port := range []uint32{outboundPort, inboundPort, tunnelPort} {
		own = append(own, match{key: srcPort, number: port, not: true})
	}
	add(zoneOutput, "the proxy's own connections to the network", action{kind: untrack}, own...)
}

// The guards stand behind the redirection, which asks about the first packet of a
// connection that conntrack knows: one that conntrack takes for invalid, or does
// not follow, would pass by it, and by the proxy. So what begins a connection must
// have been redirected by now. The rest is left alone: segments of connections
// that are older than the capture are invalid to conntrack too, and go on.

// addInputGuard adds what keeps plaintext of the network from the application.
func (c Config) addInputGuard(add func(chain, string, action, ...match), isTCP, notByProxy match) {
	if c.BypassInbound || c.Releasing {
		return
	}
	isClosed := match{key: connMark, number: closedMark}
	if c.refusesClosed() {
		// Something may begin to listen while the packet is on its way to it, or lie
		// behind rules of the pod's own.
		add(guardInput, "nothing passes by the proxy to a port that was closed", action{kind: drop}, isTCP, isClosed, match{key: anySocket})
		add(guardInput, "a closed port refuses by itself", action{kind: accept}, isTCP, isClosed)
	}
	notTo := func(port uint32) match { return match{key: dstPort, number: port, not: true} }
	network := []match{{key: inIface, name: "lo", not: true}, isTCP, {key: begins}, notByProxy, notTo(outboundPort), notTo(inboundPort), notTo(tunnelPort)}
	for _, f := range c.families() {
		if f.probe.IsValid() {
			add(guardInput, "probes pass by the proxy", action{kind: accept}, f.is(), match{key: srcAddr, addr: f.probe}, isTCP)
		}
		add(guardInput, "no connection begins past the proxy", action{kind: drop}, append([]match{f.is()}, network...)...)
	}
}

// addOutputGuard adds what keeps plaintext of the application from the network.
// What was redirected goes to the loopback address by now.
func (c Config) addOutputGuard(add func(chain, string, action, ...match), f ipFamily, isTCP, notByProxy, notViaLo match) {
	if c.Releasing {
		return
	}
	add(guardOutput, "no connection begins past the proxy", action{kind: drop}, f.is(), f.notLoopback(), notViaLo, isTCP, match{key: begins}, notByProxy)
}

// addInbound adds the rules for what comes in from the network.
func (c Config) addInbound(add func(chain, string, action, ...match), f ipFamily, isTCP, notByProxy match) {
	if c.BypassInbound {
		return
	}
	if f.probe.IsValid() {
		add(natPrerouting, "probes pass by the proxy", action{kind: accept}, f.is(), match{key: srcAddr, addr: f.probe}, isTCP)
	}
	// Only what begins: answers to a connection that is not followed seem new where the
	// setting that refuses such beginnings could not be made.
	network := []match{f.is(), f.notLoopback(), isTCP, {key: begins}, {key: dstPort, number: tunnelPort, not: true}, notByProxy}
	capture := action{redirectTo, inboundPort}
	if !c.refusesClosed() {
		add(natPrerouting, "plaintext from the network", capture, network...)
		return
	}
	add(natPrerouting, "plaintext from the network", capture, append(slices.Clone(network), match{key: anySocket})...)
	add(natPrerouting, "plaintext to a closed port", action{setConnMark, closedMark}, network...)
}

// refusesClosed says whether connections to closed ports are let through to be
// refused.
func (c Config) refusesClosed() bool {
	return c.RefuseClosed && !c.BypassInbound && !c.Releasing && len(c.VirtualInterfaces) == 0
}

// is matches packets of the family.
func (f ipFamily) is() match { return match{key: family, number: f.number} }

// notLoopback matches packets to anywhere but the loopback address.
func (f ipFamily) notLoopback() match { return match{key: dstAddr, addr: f.loopback, not: true} }
