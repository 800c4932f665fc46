package netpol

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// World is what policies are about.
type World struct {
	Pods       []*corev1.Pod
	Namespaces map[string]labels.Set // labels by name
	Policies   []*networkingv1.NetworkPolicy
}

// Guard says what may reach a pod and what it may reach.
type Guard struct {
	Pod     netip.Addr
	Ingress *Direction // nil: anything
	Egress  *Direction // nil: anything
}

// Direction is what is allowed one way; what no rule allows is dropped.
type Direction struct {
	Rules []Rule
}

// Rule allows connections between the guarded pod and some peers, to some ports.
type Rule struct {
	Any    bool           // every peer; Peers is empty
	Peers  []netip.Prefix // the other end
	Except []netip.Prefix // but not these
	// Ports of the end that is connected to; nil means all ports of all protocols.
	Ports []Port
}

// Port is a range of ports of a protocol.
type Port struct {
	Protocol    corev1.Protocol
	First, Last uint16 // 0 to 65535 means all
}

// Compile makes the guards of the pods of one node, in the order of their addresses.
func Compile(w World, node string) ([]Guard, error) {
	var guards []Guard
	for _, p := range w.Pods {
		if p.Spec.NodeName != node || !hasOwnAddress(p) {
			continue
		}
		for _, addr := range addresses(p) {
			g, err := w.guard(p, addr)
			if err != nil {
				return nil, err
			}
			if g.Ingress != nil || g.Egress != nil {
				guards = append(guards, g)
			}
		}
	}
	slices.SortFunc(guards, func(a, b Guard) int { return a.Pod.Compare(b.Pod) })
	return guards, nil
}

// hasOwnAddress reports whether the pod has an address that stands for it alone.
func hasOwnAddress(p *corev1.Pod) bool {
	return !p.Spec.HostNetwork && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

func addresses(p *corev1.Pod) []netip.Addr {
	var all []netip.Addr
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			all = append(all, a)
		}
	}
	return all
}

// guard puts together what all policies say of one pod.
func (w World) guard(p *corev1.Pod, addr netip.Addr) (Guard, error) {
	g := Guard{Pod: addr}
	for _, policy := range w.Policies {
		if policy.Namespace != p.Namespace {
			continue
		}
		selects, err := matches(&policy.Spec.PodSelector, p.Labels)
		if err != nil {
			return g, fmt.Errorf("NetworkPolicy %s/%s: podSelector: %w", policy.Namespace, policy.Name, err)
		}
		if !selects {
			continue
		}
		if err := w.add(&g, policy, p); err != nil {
			return g, fmt.Errorf("NetworkPolicy %s/%s: %w", policy.Namespace, policy.Name, err)
		}
	}
	return g, nil
}

// add puts the rules of one policy into a guard.
func (w World) add(g *Guard, policy *networkingv1.NetworkPolicy, p *corev1.Pod) error {
	ingress, egress := types(policy)
	if ingress {
		if g.Ingress == nil {
			g.Ingress = &Direction{}
		}
		for _, r := range policy.Spec.Ingress {
			rules, err := w.rules(policy.Namespace, r.From, r.Ports, p)
			if err != nil {
				return err
			}
			g.Ingress.Rules = append(g.Ingress.Rules, rules...)
		}
	}
	if egress {
		if g.Egress == nil {
			g.Egress = &Direction{}
		}
		for _, r := range policy.Spec.Egress {
			rules, err := w.rules(policy.Namespace, r.To, r.Ports, nil)
			if err != nil {
				return err
			}
			g.Egress.Rules = append(g.Egress.Rules, rules...)
		}
	}
	return nil
}

// types says which directions a policy is about; without a word it is ingress, and
// egress when it has rules for that.
func types(policy *networkingv1.NetworkPolicy) (ingress, egress bool) {
	if len(policy.Spec.PolicyTypes) == 0 {
		return true, len(policy.Spec.Egress) > 0
	}
	return slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeIngress),
		slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
}

// rules turns one entry of a policy into rules. target is the pod that is connected
// to when it is the same for all peers, and nil when each peer is one.
func (w World) rules(namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, target *corev1.Pod) ([]Rule, error) {
	if len(peers) == 0 {
		return w.anyPeer(ports, target)
	}
	var rules []Rule
	for _, peer := range peers {
		if peer.IPBlock != nil {
			r, err := block(peer.IPBlock)
			if err != nil {
				return nil, err
			}
			var ok bool
			if r.Ports, ok = resolve(ports, target); ok {
				rules = append(rules, r)
			}
			continue
		}
		pods, err := w.peers(namespace, peer)
		if err != nil {
			return nil, err
		}
		rules = append(rules, perPod(pods, ports, target)...)
	}
	return rules, nil
}

// anyPeer is an entry that names no peers. A port's name means something only on a
// pod: without a target it is looked up on all pods.
func (w World) anyPeer(ports []networkingv1.NetworkPolicyPort, target *corev1.Pod) ([]Rule, error) {
	var rules []Rule
	if numbers, ok := resolve(ports, target); ok {
		rules = append(rules, Rule{Any: true, Ports: numbers})
	}
	if target == nil && slices.ContainsFunc(ports, named) {
		rules = append(rules, perPod(w.Pods, slices.DeleteFunc(slices.Clone(ports), func(p networkingv1.NetworkPolicyPort) bool { return !named(p) }), nil)...)
	}
	return rules, nil
}

func named(p networkingv1.NetworkPolicyPort) bool {
	return p.Port != nil && p.Port.Type == intstr.String
}

// perPod makes rules whose peers are pods.
func perPod(pods []*corev1.Pod, ports []networkingv1.NetworkPolicyPort, target *corev1.Pod) []Rule {
	if target != nil || !slices.ContainsFunc(ports, named) {
		numbers, ok := resolve(ports, target)
		r := Rule{Ports: numbers}
		for _, p := range pods {
			r.Peers = append(r.Peers, prefixes(p)...)
		}
		if !ok || len(r.Peers) == 0 {
			return nil
		}
		return []Rule{r}
	}
	var rules []Rule
	for _, p := range pods {
		numbers, ok := resolve(ports, p)
		if peers := prefixes(p); ok && len(peers) > 0 {
			rules = append(rules, Rule{Peers: peers, Ports: numbers})
		}
	}
	return rules
}

func prefixes(p *corev1.Pod) []netip.Prefix {
	if !hasOwnAddress(p) {
		return nil
	}
	var all []netip.Prefix
	for _, a := range addresses(p) {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return all
}

// block is a peer given by address.
func block(b *networkingv1.IPBlock) (Rule, error) {
	var r Rule
	cidr, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return r, fmt.Errorf("ipBlock: %w", err)
	}
	r.Peers = []netip.Prefix{cidr.Masked()}
	for _, except := range b.Except {
		e, err := netip.ParsePrefix(except)
		if err != nil {
			return r, fmt.Errorf("ipBlock: except: %w", err)
		}
		r.Except = append(r.Except, e.Masked())
	}
	return r, nil
}

// peers lists the pods that a peer selects.
func (w World) peers(namespace string, peer networkingv1.NetworkPolicyPeer) ([]*corev1.Pod, error) {
	var pods []*corev1.Pod
	for _, p := range w.Pods {
		in := p.Namespace == namespace
		if peer.NamespaceSelector != nil {
			var err error
			if in, err = matches(peer.NamespaceSelector, w.Namespaces[p.Namespace]); err != nil {
				return nil, fmt.Errorf("namespaceSelector: %w", err)
			}
		}
		if in && peer.PodSelector != nil {
			var err error
			if in, err = matches(peer.PodSelector, p.Labels); err != nil {
				return nil, fmt.Errorf("podSelector: %w", err)
			}
		}
		if in {
			pods = append(pods, p)
		}
	}
	return pods, nil
}

func matches(selector *metav1.LabelSelector, set map[string]string) (bool, error) {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return false, err
	}
	return s.Matches(labels.Set(set)), nil
}

// resolve turns ports into numbers; names are those of target's containers. ok is
// false when ports were asked for and none of them exists there.
func resolve(ports []networkingv1.NetworkPolicyPort, target *corev1.Pod) (numbers []Port, ok bool) {
	if len(ports) == 0 {
		return nil, true
	}
	for _, p := range ports {
		protocol := corev1.ProtocolTCP
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		switch {
		case p.Port == nil:
			numbers = append(numbers, Port{protocol, 0, 65535})
		case p.Port.Type == intstr.Int:
			last := uint16(p.Port.IntVal)
			if p.EndPort != nil {
				last = uint16(*p.EndPort)
			}
			numbers = append(numbers, Port{protocol, uint16(p.Port.IntVal), last})
		case target != nil:
			numbers = append(numbers, lookup(target, p.Port.StrVal, protocol)...)
		}
	}
	return numbers, len(numbers) > 0
}

// lookup finds the numbers that a port's name has in a pod.
func lookup(p *corev1.Pod, name string, protocol corev1.Protocol) []Port {
	var found []Port
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if port.Name == name && cmp.Or(port.Protocol, corev1.ProtocolTCP) == protocol {
				found = append(found, Port{protocol, uint16(port.ContainerPort), uint16(port.ContainerPort)})
			}
		}
	}
	return found
}
