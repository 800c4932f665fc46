package check

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// direction is one of the two that a NetworkPolicy speaks of.
type direction = networkingv1.PolicyType

const (
	ingress = networkingv1.PolicyTypeIngress
	egress  = networkingv1.PolicyTypeEgress
)

// crowd is all pods that no NetworkPolicy can tell apart, but by address: of one
// namespace and with the same labels.
type crowd struct {
	namespace string
	spaceSet  labels.Set // labels of the namespace
	set       labels.Set
	inMesh    bool
	pods      []string
	ports     map[string]int // named TCP ports
	numbers   []int          // all TCP ports of its containers
	addr      netip.Addr     // of one of them

	applies map[direction][]*networkingv1.NetworkPolicy
}

// String names a crowd by one of its pods.
func (c *crowd) String() string { return c.namespace + "/" + c.pods[0] }

// changing are labels that differ between pods of one owner and that nobody
// selects by.
var changing = [...]string{"pod-template-hash", "controller-revision-hash", "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index", "batch.kubernetes.io/controller-uid", "controller-uid"}

// crowds groups the pods that keep takes.
func crowds(w *World, keep func(*corev1.Pod) bool) []*crowd {
	byKey := map[string]*crowd{}
	for i := range w.Pods {
		p := &w.Pods[i]
		if !Running(p) || p.Spec.HostNetwork || !keep(p) {
			continue
		}
		set := labels.Set(maps.Clone(p.Labels))
		for _, key := range changing {
			delete(set, key)
		}
		key := p.Namespace + " " + set.String()
		c, ok := byKey[key]
		if !ok {
			c = newCrowd(w, p, set)
			byKey[key] = c
		}
		c.pods = append(c.pods, p.Name)
	}
	out := slices.Collect(maps.Values(byKey))
	for _, c := range out {
		slices.Sort(c.pods)
	}
	slices.SortFunc(out, func(a, b *crowd) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// newCrowd makes the crowd of p.
func newCrowd(w *World, p *corev1.Pod, set labels.Set) *crowd {
	c := &crowd{namespace: p.Namespace, set: set, inMesh: w.InMesh(p), ports: map[string]int{}, applies: map[direction][]*networkingv1.NetworkPolicy{}}
	if ns := w.Namespaces[p.Namespace]; ns != nil {
		c.spaceSet = ns.Labels
	}
	c.addr, _ = netip.ParseAddr(p.Status.PodIP)
	for _, container := range p.Spec.Containers {
		for _, port := range container.Ports {
			if port.Protocol == "" || port.Protocol == corev1.ProtocolTCP {
				c.ports[port.Name] = int(port.ContainerPort)
				c.numbers = append(c.numbers, int(port.ContainerPort))
			}
		}
	}
	for i := range w.NetPolicies {
		policy := &w.NetPolicies[i]
		if policy.Namespace != p.Namespace || !selects(&policy.Spec.PodSelector, set) {
			continue
		}
		for _, d := range typesOf(policy) {
			c.applies[d] = append(c.applies[d], policy)
		}
	}
	return c
}

// typesOf are the directions that a policy speaks of. Source: networking.k8s.io/v1,
// NetworkPolicySpec.policyTypes.
func typesOf(p *networkingv1.NetworkPolicy) []direction {
	if len(p.Spec.PolicyTypes) > 0 {
		return p.Spec.PolicyTypes
	}
	if len(p.Spec.Egress) > 0 {
		return []direction{ingress, egress}
	}
	return []direction{ingress}
}

// rule is a rule of either direction.
type rule struct {
	policy *networkingv1.NetworkPolicy
	index  int
	peers  []networkingv1.NetworkPolicyPeer
	ports  []networkingv1.NetworkPolicyPort
}

// rules are the rules of direction d that apply to c.
func (c *crowd) rules(d direction) (out []rule) {
	for _, p := range c.applies[d] {
		if d == ingress {
			for i, r := range p.Spec.Ingress {
				out = append(out, rule{p, i, r.From, r.Ports})
			}
			continue
		}
		for i, r := range p.Spec.Egress {
			out = append(out, rule{p, i, r.To, r.Ports})
		}
	}
	return out
}

// allows returns the rules of subject that let it talk with other in direction d
// on TCP port number of the server; free tells that no policy limits subject.
func allows(subject, other *crowd, d direction, number int) (by []rule, free bool) {
	if len(subject.applies[d]) == 0 {
		return nil, true
	}
	server := subject
	if d == egress {
		server = other
	}
	for _, r := range subject.rules(d) {
		if r.matchesPeer(other) && r.matchesPort(server, number) {
			by = append(by, r)
		}
	}
	return by, false
}

// matchesPeer tells whether the rule speaks of c.
func (r rule) matchesPeer(c *crowd) bool {
	if len(r.peers) == 0 {
		return true
	}
	return slices.ContainsFunc(r.peers, func(peer networkingv1.NetworkPolicyPeer) bool {
		if peer.IPBlock != nil {
			return inBlock(peer.IPBlock, c.addr)
		}
		if peer.NamespaceSelector == nil && c.namespace != r.policy.Namespace {
			return false
		}
		return (peer.NamespaceSelector == nil || selects(peer.NamespaceSelector, c.spaceSet)) &&
			(peer.PodSelector == nil || selects(peer.PodSelector, c.set))
	})
}

// matchesPort tells whether the rule speaks of TCP port number of server.
func (r rule) matchesPort(server *crowd, number int) bool {
	if len(r.ports) == 0 {
		return true
	}
	return slices.ContainsFunc(r.ports, func(p networkingv1.NetworkPolicyPort) bool {
		if p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
			return false
		}
		first, ok := portNumber(p, server)
		switch {
		case p.Port == nil:
			return true
		case !ok:
			return false
		case p.EndPort != nil:
			return first <= number && number <= int(*p.EndPort)
		}
		return first == number
	})
}

// portNumber is the number of a rule's port on server.
func portNumber(p networkingv1.NetworkPolicyPort, server *crowd) (int, bool) {
	if p.Port == nil {
		return 0, false
	}
	if p.Port.StrVal != "" {
		number, ok := server.ports[p.Port.StrVal]
		return number, ok
	}
	return p.Port.IntValue(), true
}

// candidates are ports of server on which somebody may be allowed to talk to it:
// those of its containers, and those that rules name.
func candidates(server *crowd, rules []rule) []int {
	out := slices.Clone(server.numbers)
	for _, r := range rules {
		for _, p := range r.ports {
			if number, ok := portNumber(p, server); ok {
				out = append(out, number)
			}
		}
		if len(r.ports) == 0 {
			out = append(out, tunnelPort)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// inBlock tells whether a block holds addr.
func inBlock(b *networkingv1.IPBlock, addr netip.Addr) bool {
	holds := func(text string) bool {
		prefix, err := netip.ParsePrefix(text)
		return err == nil && addr.IsValid() && prefix.Contains(addr.Unmap())
	}
	return holds(b.CIDR) && !slices.ContainsFunc(b.Except, holds)
}

// selects tells whether a selector takes a set of labels. A selector that cannot
// be read takes none.
func selects(s *metav1.LabelSelector, set labels.Set) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(set)
}

// policyName names a policy as people do.
func policyName(p *networkingv1.NetworkPolicy) string {
	return fmt.Sprintf("networkpolicy %s/%s", p.Namespace, p.Name)
}
