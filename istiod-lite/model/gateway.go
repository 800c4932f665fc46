package model

import (
	"cmp"
	"fmt"
	"slices"

	"istio.io/api/annotation"
	"istio.io/api/label"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// Names by which users ask for waypoints.
const (
	// WaypointController is the controllerName of the GatewayClasses that are ours.
	WaypointController = "ambit.dev/waypoint-controller"
	// WaypointClass is our GatewayClass; IstioWaypointClass is the one that manifests
	// of the ambient ecosystem name.
	WaypointClass, IstioWaypointClass = "ambit-waypoint", "istio-waypoint"
)

// WaypointPort is where waypoints accept tunnels.
const WaypointPort = hbonePort

// WaypointName is the name of what stands for a Gateway: its Deployment, its
// Service and the like.
func WaypointName(g *gateway.Gateway) string {
	return cmp.Or(g.Annotations[annotation.GatewayNameOverride.Name], g.Name)
}

// WaypointAccount is the name of the service account that a Gateway's waypoint
// runs as.
func WaypointAccount(g *gateway.Gateway) string {
	return cmp.Or(g.Annotations[annotation.GatewayServiceAccount.Name], WaypointName(g))
}

// WaypointListener is the listener for tunnels, else the first; nil when there is
// none.
func WaypointListener(g *gateway.Gateway) *gateway.Listener {
	for i, l := range g.Spec.Listeners {
		if l.Protocol == "HBONE" && l.Port == hbonePort {
			return &g.Spec.Listeners[i]
		}
	}
	if len(g.Spec.Listeners) == 0 {
		return nil
	}
	return &g.Spec.Listeners[0]
}

// fromGateway says what becomes of a Gateway. Nothing is said about one of a class
// that is somebody else's.
func (m *Model) fromGateway(g *gateway.Gateway) []Condition {
	class := m.classes[string(g.Spec.GatewayClassName)]
	switch {
	case class != nil && class.Spec.ControllerName != WaypointController:
		return nil
	case class == nil && g.Spec.GatewayClassName != WaypointClass && g.Spec.GatewayClassName != IstioWaypointClass:
		return []Condition{{
			Type: ConditionAccepted, Reason: ReasonUnsupported,
			Message: fmt.Sprintf("class %s: none of ours (%s, %s); as a waypoint it counts as soon as a Service of its name stands in its namespace", g.Spec.GatewayClassName, WaypointClass, IstioWaypointClass),
		}}
	}
	if l := WaypointListener(g); l == nil || l.Protocol != "HBONE" || l.Port != hbonePort {
		return []Condition{
			{Type: ConditionAccepted, Reason: string(gateway.GatewayReasonListenersNotValid), Message: fmt.Sprintf("a waypoint has one listener: {name: mesh, port: %d, protocol: HBONE}", hbonePort)},
			{Type: ConditionProgrammed, Reason: string(gateway.GatewayReasonInvalid), Message: "see Accepted"},
		}
	}
	programmed := Condition{Type: ConditionProgrammed, True: true, Reason: string(gateway.GatewayReasonProgrammed), Message: "its Service has an address, and an instance is Ready"}
	if why := m.notReady(g); why != "" {
		programmed = Condition{Type: ConditionProgrammed, Reason: string(gateway.GatewayReasonPending), Message: why + ". What is bound to it is refused until then"}
	}
	return []Condition{{Type: ConditionAccepted, True: true, Reason: ReasonAccepted, Message: "ambit makes the waypoint"}, programmed}
}

// fromGatewayClass says what becomes of a GatewayClass: ours is accepted.
func (m *Model) fromGatewayClass(c *gateway.GatewayClass) []Condition {
	if c.Spec.ControllerName != WaypointController {
		return nil
	}
	return []Condition{{Type: ConditionAccepted, True: true, Reason: string(gateway.GatewayClassReasonAccepted), Message: "Gateways of this class become waypoints of ambit"}}
}

// notReady says why a waypoint cannot take traffic; "" when it can.
func (m *Model) notReady(g *gateway.Gateway) string {
	s := m.space(g.Namespace)
	service := s.services[WaypointName(g)]
	if service == nil || !isServed(service) {
		return fmt.Sprintf("there is no Service %s/%s", g.Namespace, WaypointName(g))
	}
	selector := service.Spec.Selector
	if len(selector) == 0 {
		return "" // somebody else says who its endpoints are
	}
	for _, p := range s.pods {
		if selects(selector, p.Labels) && isInstance(p) {
			return ""
		}
	}
	for _, e := range s.entries {
		if selects(selector, labelsOf(e)) {
			return ""
		}
	}
	return fmt.Sprintf("none of its instances (pods of Service %s/%s) is Ready", g.Namespace, service.Name)
}

// dependOnInstance marks the waypoints that a pod, or what acts like one, is an
// instance of, before or now.
func (m *Model) dependOnInstance(namespace string, old, now map[string]string, d dirty) {
	s := m.space(namespace)
	for name, g := range s.gateways {
		service := s.services[WaypointName(g)]
		if service == nil || len(service.Spec.Selector) == 0 {
			continue
		}
		if old != nil && selects(service.Spec.Selector, old) || now != nil && selects(service.Spec.Selector, now) {
			d.add(Key{KindGateway, namespace, name})
			m.dependOnGateway(Key{KindGateway, namespace, name}, d)
		}
	}
}

// isInstance reports whether a pod serves: by its kubelet's word, whatever others say
// about its node.
func isInstance(p *corev1.Pod) bool {
	ready := podCondition(p, corev1.PodReady) == corev1.ConditionTrue || podCondition(p, corev1.ContainersReady) == corev1.ConditionTrue && len(p.Spec.ReadinessGates) == 0
	return ready && p.DeletionTimestamp == nil && !HasEnded(p)
}

// podSays is what a waypoint reads of its instances.
func podSays(p *corev1.Pod) (labels map[string]string, ready bool) {
	if p == nil {
		return nil, false
	}
	return p.Labels, isInstance(p)
}

// dependOnReadiness marks the waypoints of which a pod begins or ceases to be a
// Ready instance.
func (m *Model) dependOnReadiness(namespace string, old, now *corev1.Pod, d dirty) {
	before, was := podSays(old)
	after, is := podSays(now)
	if was {
		m.dependOnInstance(namespace, before, nil, d)
	}
	if is {
		m.dependOnInstance(namespace, nil, after, d)
	}
}

// dependOnEntry marks what is written to act like a pod, and the waypoints that it is
// an instance of.
func (m *Model) dependOnEntry(key Key, old, now *networking.WorkloadEntry, d dirty) {
	d.add(key)
	var before, after map[string]string
	if old != nil {
		before = labelsOf(old)
	}
	if now != nil {
		after = labelsOf(now)
	}
	m.dependOnInstance(key.Namespace, before, after, d)
}

// dependOnClass marks the Gateways of a class, and what asks for them.
func (m *Model) dependOnClass(name string, d dirty) {
	d.add(Key{Kind: KindGatewayClass, Name: name})
	for namespace, s := range m.spaces {
		for gatewayName, g := range s.gateways {
			if string(g.Spec.GatewayClassName) == name {
				d.add(Key{KindGateway, namespace, gatewayName})
				m.dependOnGateway(Key{KindGateway, namespace, gatewayName}, d)
			}
		}
	}
}

// dependOnAddress marks the waypoints that get, or lose, their address with a Service.
func (m *Model) dependOnAddress(service Key, d dirty) {
	for name, g := range m.space(service.Namespace).gateways {
		if WaypointName(g) == service.Name {
			d.add(Key{KindGateway, service.Namespace, name})
			m.dependOnGateway(Key{KindGateway, service.Namespace, name}, d)
		}
	}
}

// AttachedRoutes counts the routes that name a listener of a Gateway as their
// parent, or the Gateway without a listener.
func (m *Model) AttachedRoutes(key Key, listener gateway.Listener) int32 {
	var n int32
	for on := range m.attached[key] {
		r, ok := m.route(on)
		if ok && slices.ContainsFunc(r.parents, func(r gateway.ParentReference) bool {
			return parentOf(on.Namespace, r) == key && (r.SectionName == nil || *r.SectionName == listener.Name) && (r.Port == nil || *r.Port == listener.Port)
		}) {
			n++
		}
	}
	return n
}

// servedBy is what a waypoint says it serves, by its own label or that of its
// class: services, unless one says otherwise.
func (m *Model) servedBy(g *gateway.Gateway) string {
	of := ""
	if c := m.classes[string(g.Spec.GatewayClassName)]; c != nil {
		of = c.Labels[label.IoIstioWaypointFor.Name]
	}
	return cmp.Or(g.Labels[label.IoIstioWaypointFor.Name], of, string(toService))
}
