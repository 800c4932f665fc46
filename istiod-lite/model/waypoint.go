package model

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"istio.io/api/annotation"
	"istio.io/api/label"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
)

const (
	// hbonePort is where waypoints accept tunnels.
	hbonePort = 15008

	// noWaypoint is the value of the label that opts out.
	noWaypoint = "none"

	// unusableHost begins the host name of a waypoint that must not be used. The
	// underscore cannot stand in names of objects, so no service ever has it, and
	// proxies refuse what they would have to send there.
	unusableHost = "_unusable."
)

// traffic is what a connection was made to. A waypoint says which it serves.
type traffic string

const (
	toService  traffic = "service"
	toWorkload traffic = "workload"
)

// openLabel on a namespace, with the value open, has traffic to what is bound in it go
// around a waypoint that is missing or not ready, as other ambient meshes do. Without
// it such traffic is refused.
const openLabel = "ambit.dev/on-waypoint-failure"

// bound is what labels ask for.
type bound struct {
	gateway Key
	own     bool // by the object's own labels; else by those of its namespace

	// canary is a second waypoint that has a share of the connections to a service;
	// the zero Key when there is none. weight is that share, as it is written.
	canary Key
	weight string
}

// boundTo reads the label of an object, else of its namespace. ok is false when
// there is none, or the object has opted out, or belongs to a waypoint itself.
func (m *Model) boundTo(o *metav1.ObjectMeta) (b bound, ok bool) {
	if o.Labels[label.IoK8sNetworkingGatewayGatewayName.Name] != "" || m.isGateway(o) {
		return bound{}, false
	}
	if b, ok := boundBy(o, o.Namespace); ok || o.Labels[label.IoIstioUseWaypoint.Name] == noWaypoint {
		return b, ok
	}
	s := m.spaces[o.Namespace]
	if s == nil || s.namespace == nil {
		return bound{}, false
	}
	b, ok = boundBy(s.namespace, o.Namespace)
	b.own = false
	return b, ok
}

// isGateway reports whether an object has the name of a Gateway of its namespace:
// what stands for a waypoint has none itself.
func (m *Model) isGateway(o *metav1.ObjectMeta) bool {
	s := m.spaces[o.Namespace]
	return s != nil && o.Name != "" && s.gateways[o.Name] != nil
}

// boundBy reads the labels of an object in a namespace, or of the namespace.
func boundBy(o metav1.Object, namespace string) (bound, bool) {
	labels := o.GetLabels()
	of := func(name, in string) Key {
		if n := labels[name]; n != "" && n != noWaypoint {
			return Key{KindGateway, cmp.Or(labels[in], namespace), n}
		}
		return Key{}
	}
	b := bound{gateway: of(label.IoIstioUseWaypoint.Name, label.IoIstioUseWaypointNamespace.Name), own: true}
	if b.gateway == (Key{}) {
		return bound{}, false
	}
	b.canary = of(label.IoIstioUseWaypointCanary.Name, label.IoIstioUseWaypointCanaryNamespace.Name)
	if b.canary != (Key{}) {
		b.weight = o.GetAnnotations()[annotation.IoIstioUseWaypointCanaryWeight.Name]
	}
	return b, true
}

// waypoints are the Gateways that are asked for.
func (b bound) waypoints() []Key {
	if b.canary == (Key{}) || b.canary == b.gateway {
		return []Key{b.gateway}
	}
	return []Key{b.gateway, b.canary}
}

// attachment is where traffic to an object goes.
type attachment struct {
	// address is where it has to go first; nil: to the object itself.
	address *workloadapi.GatewayAddress
	// shares are those of address and of a canary; none: address has everything.
	shares []*workloadapi.WeightedWaypoint
	// through are the waypoints that serve the object, or will when they are ready.
	through []*workloadapi.GatewayAddress
}

// waypointOf is where traffic to an object goes. What asks for a waypoint that cannot
// be used gets one all the same: proxies do not find it, and refuse.
func (m *Model) waypointOf(o *metav1.ObjectMeta, t traffic) (attachment, []Condition) {
	b, ok := m.boundTo(o)
	if !ok {
		return attachment{}, nil
	}
	a, c := m.attach(b, o.Namespace, t)
	if c == nil || !b.own { // what a namespace asks for is answered there
		return a, nil
	}
	return a, []Condition{*c}
}

// attach is what comes of a wish for a waypoint, and for a canary. The condition is nil
// when there is nothing to say.
func (m *Model) attach(b bound, namespace string, t traffic) (attachment, *Condition) {
	a, c := m.attachOne(b, namespace, t)
	if t != toService || b.canary == (Key{}) || c == nil || !c.True {
		return a, c
	}
	weight, problem := m.canaryWeight(b)
	if problem == nil {
		second, other := m.attachOne(bound{gateway: b.canary, own: true}, namespace, t)
		if other.True {
			a.shares = []*workloadapi.WeightedWaypoint{{Destination: a.address, Weight: 100 - weight}, {Destination: second.address, Weight: weight}}
			a.through = append(a.through, second.through...)
			c.Message += fmt.Sprintf(", and %d %% of the connections to its canary %s/%s", weight, b.canary.Namespace, b.canary.Name)
			return a, c
		}
		problem = &Condition{Reason: ReasonCanaryNotReady, Message: other.Message}
		if len(second.through) > 0 { // connections that it has may end there
			a.through = append(a.through, second.through...)
		}
	}
	return a, &Condition{Type: ConditionBound, Reason: problem.Reason, Message: fmt.Sprintf(
		"%s has all connections, and its canary none: %s", m.nameOf(b.gateway), problem.Message)}
}

// nameOf names a waypoint for people.
func (m *Model) nameOf(g Key) string { return "waypoint " + g.Namespace + "/" + g.Name }

// canaryWeight is the share of a canary in percent, or what is wrong with it. Source:
// the ambient ecosystem's annotation; without one it is nothing.
func (m *Model) canaryWeight(b bound) (uint32, *Condition) {
	if b.canary == b.gateway {
		return 0, &Condition{Reason: ReasonCanarySame, Message: fmt.Sprintf("label %s names the same waypoint", label.IoIstioUseWaypointCanary.Name)}
	}
	weight, err := strconv.ParseUint(cmp.Or(b.weight, "0"), 10, 32)
	if err != nil || weight > 100 {
		return 0, &Condition{Reason: ReasonCanaryWeight, Message: fmt.Sprintf("annotation %s: want a whole number from 0 to 100, not %q", annotation.IoIstioUseWaypointCanaryWeight.Name, b.weight)}
	}
	return uint32(weight), nil
}

// attachOne is what comes of a wish for one waypoint.
func (m *Model) attachOne(b bound, namespace string, t traffic) (attachment, *Condition) {
	s := m.spaces[b.gateway.Namespace]
	if s == nil || s.gateways[b.gateway.Name] == nil {
		if !b.own && t != toService {
			return attachment{}, nil // it would serve services, unless it said otherwise
		}
		return m.failing(b, namespace, "there is no Gateway of that name")
	}
	g := s.gateways[b.gateway.Name]
	switch {
	case !m.serves(g, t) && !b.own:
		return attachment{}, nil // ordinary: waypoints of namespaces serve services only
	case !m.serves(g, t):
		return attachment{address: unusable(b.gateway)}, refused(ReasonTrafficType, b, "does not serve %ss: its label %s is %q", t, label.IoIstioWaypointFor.Name, m.servedBy(g))
	case !m.admits(g, namespace):
		return attachment{address: unusable(b.gateway)}, refused(ReasonAttachmentDenied, b, "does not admit namespace %s: see allowedRoutes of its listener", namespace)
	}
	if why := m.notReady(g); why != "" {
		return m.failing(b, namespace, why)
	}
	address := m.waypointAddress(b.gateway)
	return attachment{address: address, through: []*workloadapi.GatewayAddress{address}}, &Condition{
		Type: ConditionBound, True: true, Reason: ReasonWaypointAccepted,
		Message: fmt.Sprintf("attached to waypoint %s/%s", b.gateway.Namespace, b.gateway.Name),
	}
}

// failing is what comes of a wish for a waypoint that is missing or not ready: traffic
// is refused, or goes around it where the namespace of the object wants that.
func (m *Model) failing(b bound, namespace, why string) (attachment, *Condition) {
	address := m.waypointAddress(b.gateway)
	a := attachment{address: address, through: []*workloadapi.GatewayAddress{address}}
	if !m.isOpen(namespace) {
		return a, refused(ReasonNoWaypoint, b, "is not ready: %s", why)
	}
	a.address = nil
	return a, &Condition{
		Type: ConditionBound, Reason: ReasonAround,
		Message: fmt.Sprintf("waypoint %s/%s is not ready: %s. Until then traffic goes around it, without what only a waypoint decides, because namespace %s has the label %s: open",
			b.gateway.Namespace, b.gateway.Name, why, namespace, openLabel),
	}
}

// isOpen reports whether a namespace wants traffic to go around waypoints that fail.
func (m *Model) isOpen(namespace string) bool {
	s := m.spaces[namespace]
	return s != nil && s.namespace != nil && s.namespace.Labels[openLabel] == "open"
}

// goesAround reports whether traffic to a service goes around the waypoint that it
// asks for.
func (m *Model) goesAround(b bound, namespace string) bool {
	if !m.isOpen(namespace) {
		return false
	}
	a, _ := m.attachOne(b, namespace, toService)
	return a.address == nil
}

// refused says why traffic cannot take the way that was asked for, and what to do.
func refused(reason string, b bound, format string, args ...any) *Condition {
	return &Condition{
		Type: ConditionBound, Reason: reason,
		Message: fmt.Sprintf("waypoint %s/%s %s. Until then traffic is refused, not sent around it; to do without a waypoint set the label %s to %s",
			b.gateway.Namespace, b.gateway.Name, fmt.Sprintf(format, args...), label.IoIstioUseWaypoint.Name, noWaypoint),
	}
}

// waypointAddress is the service of a waypoint.
func (m *Model) waypointAddress(g Key) *workloadapi.GatewayAddress {
	service := g.Name
	if s := m.spaces[g.Namespace]; s != nil && s.gateways[g.Name] != nil {
		service = WaypointName(s.gateways[g.Name])
	}
	return gatewayAddress(g.Namespace, service+"."+g.Namespace+".svc."+m.cfg.ClusterDomain)
}

// unusable is an address at which there is nothing, ever.
func unusable(g Key) *workloadapi.GatewayAddress {
	return gatewayAddress(g.Namespace, unusableHost+g.Name+"."+g.Namespace)
}

// gatewayAddress is that of a service.
func gatewayAddress(namespace, host string) *workloadapi.GatewayAddress {
	return &workloadapi.GatewayAddress{
		Destination:   &workloadapi.GatewayAddress_Hostname{Hostname: &workloadapi.NamespacedHostname{Namespace: namespace, Hostname: host}},
		HboneMtlsPort: hbonePort,
	}
}

// serves reports whether a waypoint serves that traffic.
func (m *Model) serves(g *gateway.Gateway, t traffic) bool {
	value := m.servedBy(g)
	return value == string(t) || value == "all"
}

// admits reports whether objects of a namespace may use a waypoint.
func (m *Model) admits(g *gateway.Gateway, namespace string) bool {
	if g.Namespace == namespace {
		return true
	}
	listener := WaypointListener(g)
	if listener == nil || listener.AllowedRoutes == nil || listener.AllowedRoutes.Namespaces == nil || listener.AllowedRoutes.Namespaces.From == nil {
		return false
	}
	allowed := listener.AllowedRoutes.Namespaces
	switch *allowed.From {
	case gateway.NamespacesFromAll:
		return true
	case gateway.NamespacesFromSelector:
		selector, err := metav1.LabelSelectorAsSelector(allowed.Selector)
		return err == nil && selector.Matches(m.namespaceLabels(namespace))
	}
	return false
}

// namespaceLabels are those of a namespace, its name included, which every API
// server adds.
func (m *Model) namespaceLabels(namespace string) labels.Set {
	set := labels.Set{}
	if s := m.spaces[namespace]; s != nil && s.namespace != nil {
		set = labels.Merge(set, s.namespace.Labels)
	}
	set[corev1.LabelMetadataName] = namespace
	return set
}

// fromNamespace answers a namespace's wish for a waypoint.
func (m *Model) fromNamespace(namespace string) []Condition {
	s := m.spaces[namespace]
	if s == nil || s.namespace == nil {
		return nil
	}
	b, ok := boundBy(s.namespace, namespace)
	if !ok {
		return nil
	}
	t := toService
	if of := m.spaces[b.gateway.Namespace]; of != nil {
		if g := of.gateways[b.gateway.Name]; g != nil && m.serves(g, toWorkload) && !m.serves(g, toService) {
			t = toWorkload
		}
	}
	if _, c := m.attach(b, namespace, t); c != nil {
		return []Condition{*c}
	}
	return nil
}

// dependOnGateway marks what asks for a waypoint, by its own label or by that of
// its namespace.
func (m *Model) dependOnGateway(key Key, d dirty) {
	key.Kind = KindGateway
	// What has its name stands for it, and is bound to nothing.
	m.markTarget(Key{KindService, key.Namespace, key.Name}, d)
	m.markTarget(Key{KindServiceEntry, key.Namespace, key.Name}, d)
	d.add(Key{KindPod, key.Namespace, key.Name})
	d.add(Key{KindWorkloadEntry, key.Namespace, key.Name})
	for name, s := range m.spaces {
		found := false
		mark := func(kind Kind, o Object) {
			if b, ok := m.boundTo(&metav1.ObjectMeta{Namespace: name, Labels: o.GetLabels()}); ok && slices.Contains(b.waypoints(), key) {
				d.add(Key{kind, name, o.GetName()})
				found = true
				// Whether its pods demand the waypoint hangs on whether that is there.
				if service, ok := o.(*corev1.Service); ok && m.isOpen(name) {
					m.markSelected(name, service.Spec.Selector, true, d)
				}
			}
		}
		for _, o := range s.services {
			mark(KindService, o)
		}
		for _, o := range s.pods {
			mark(KindPod, o)
		}
		for _, o := range s.entries {
			mark(KindWorkloadEntry, o)
		}
		for _, o := range s.serviceEntries {
			mark(KindServiceEntry, o)
		}
		if s.namespace != nil {
			if b, ok := boundBy(s.namespace, name); ok && slices.Contains(b.waypoints(), key) {
				d.add(Key{Kind: KindNamespace, Name: name})
				found = true
			}
		}
		if found {
			m.markPolicies(name, d)
		}
	}
}
