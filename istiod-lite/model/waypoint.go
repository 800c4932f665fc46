package model

import (
	"fmt"

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

// bound is a label that asks for a waypoint.
type bound struct {
	gateway Key
	own     bool // the object's own label; else that of its namespace
}

// boundTo reads the label of an object, else of its namespace. ok is false when
// there is none, or the object has opted out, or belongs to a waypoint itself.
func (m *Model) boundTo(o *metav1.ObjectMeta) (b bound, ok bool) {
	if o.Labels[label.IoK8sNetworkingGatewayGatewayName.Name] != "" || m.isGateway(o) {
		return bound{}, false
	}
	if b, ok := boundBy(o.Labels, o.Namespace); ok || o.Labels[label.IoIstioUseWaypoint.Name] == noWaypoint {
		return b, ok
	}
	s := m.spaces[o.Namespace]
	if s == nil || s.namespace == nil {
		return bound{}, false
	}
	b, ok = boundBy(s.namespace.Labels, o.Namespace)
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
func boundBy(labels map[string]string, namespace string) (bound, bool) {
	name := labels[label.IoIstioUseWaypoint.Name]
	if name == "" || name == noWaypoint {
		return bound{}, false
	}
	if other := labels[label.IoIstioUseWaypointNamespace.Name]; other != "" {
		namespace = other
	}
	return bound{gateway: Key{KindGateway, namespace, name}, own: true}, true
}

// waypointOf is where traffic to an object has to go first; nil when it goes to
// the object itself. What asks for a waypoint that cannot be used gets one all
// the same: proxies do not find it, and refuse.
func (m *Model) waypointOf(o *metav1.ObjectMeta, t traffic) (*workloadapi.GatewayAddress, []Condition) {
	b, ok := m.boundTo(o)
	if !ok {
		return nil, nil
	}
	address, c := m.attach(b, o.Namespace, t)
	if c == nil || !b.own { // what a namespace asks for is answered there
		return address, nil
	}
	return address, []Condition{*c}
}

// attach is what comes of a wish for a waypoint. The condition is nil when there
// is nothing to say.
func (m *Model) attach(b bound, namespace string, t traffic) (*workloadapi.GatewayAddress, *Condition) {
	s := m.spaces[b.gateway.Namespace]
	if s == nil || s.gateways[b.gateway.Name] == nil {
		if !b.own && t != toService {
			return nil, nil // it would serve services, unless it said otherwise
		}
		return m.waypointAddress(b.gateway), refused(ReasonNoWaypoint, b, "is not ready: there is no Gateway of that name")
	}
	g := s.gateways[b.gateway.Name]
	switch {
	case !m.serves(g, t) && !b.own:
		return nil, nil // ordinary: waypoints of namespaces serve services only
	case !m.serves(g, t):
		return unusable(b.gateway), refused(ReasonTrafficType, b, "does not serve %ss: its label %s is %q", t, label.IoIstioWaypointFor.Name, m.servedBy(g))
	case !m.admits(g, namespace):
		return unusable(b.gateway), refused(ReasonAttachmentDenied, b, "does not admit namespace %s: see allowedRoutes of its listener", namespace)
	}
	if why := m.notReady(g); why != "" {
		return m.waypointAddress(b.gateway), refused(ReasonNoWaypoint, b, "is not ready: %s", why)
	}
	return m.waypointAddress(b.gateway), &Condition{
		Type: ConditionBound, True: true, Reason: ReasonWaypointAccepted,
		Message: fmt.Sprintf("attached to waypoint %s/%s", b.gateway.Namespace, b.gateway.Name),
	}
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
	b, ok := boundBy(s.namespace.Labels, namespace)
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
			if b, ok := m.boundTo(&metav1.ObjectMeta{Namespace: name, Labels: o.GetLabels()}); ok && b.gateway == key {
				d.add(Key{kind, name, o.GetName()})
				found = true
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
			if b, ok := boundBy(s.namespace.Labels, name); ok && b.gateway == key {
				d.add(Key{Kind: KindNamespace, Name: name})
				found = true
			}
		}
		if found {
			m.markPolicies(name, d)
		}
	}
}
