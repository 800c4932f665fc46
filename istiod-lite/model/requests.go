package model

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model/routes"
)

// throughLabel opts out of what a waypoint's binding demands of the destination:
// with the value false its node proxy lets callers in that come around the
// waypoint.
const throughLabel = "ambit.dev/only-through-waypoint"

// waypointService is how waypoints treat the requests of a service: of one that they
// serve, or to which routes of others lead.
func (m *Model) waypointService(o *metav1.ObjectMeta, kind Kind, host string, ports []servicePort, through []*workloadapi.GatewayAddress) []*Resource {
	key := Key{kind, o.Namespace, o.Name}
	b, bound := m.boundTo(o)
	if !bound && !m.isRequested(key, o) {
		return nil
	}
	s := &waypointapi.Service{Namespace: o.Namespace, Hostname: host}
	if bound {
		s.Waypoint = &waypointapi.ObjectName{Namespace: b.gateway.Namespace, Name: b.gateway.Name}
		s.Policies = m.attachedTo(KindAuthorizationPolicy, key, b.gateway)
		s.Authentications = m.attachedTo(KindRequestAuthentication, key, b.gateway)
		s.TellClient = m.tellsClient(b.gateway)
		if c := b.canary; c != (Key{}) {
			s.Canary = &waypointapi.Canary{
				Waypoint: &waypointapi.ObjectName{Namespace: c.Namespace, Name: c.Name},
				Policies: m.attachedTo(KindAuthorizationPolicy, key, c), Authentications: m.attachedTo(KindRequestAuthentication, key, c),
				TellClient: m.tellsClient(c),
			}
		}
		s.Tables, s.Streams = m.routeTables(key, host, ports)
	}
	for _, p := range ports {
		s.Ports = append(s.Ports, &waypointapi.Port{Number: p.number, Protocol: p.app})
	}
	if p := m.backendPolicyOf(key); p != nil {
		b := routes.BackendPolicy(p)
		s.RetryBudget, s.Session = b.RetryBudget, b.Session
	}
	if rule := m.ruleOf(key, host); rule != nil {
		d := routes.Rule(rule)
		if e := m.space(key.Namespace).serviceEntries[key.Name]; e != nil && kind == KindServiceEntry {
			d.Vouch(e.Spec.GetSubjectAltNames())
		}
		s.Traffic, s.Subsets = d.Traffic, d.Subsets
		for _, p := range s.Ports {
			p.Traffic = d.Ports[p.Number]
		}
	}
	return []*Resource{waypointResource(TypeWaypointService, WaypointServiceURL, o.Namespace+"/"+host, s, throughGroups(through), needsOfService(s))}
}

// attachedTo are the names of the objects of a kind that are attached to a service,
// to its waypoint, or to the waypoint's class.
func (m *Model) attachedTo(kind Kind, service, waypoint Key) []string {
	var names []string
	for _, target := range []Key{service, waypoint, m.classOf(waypoint)} {
		for key := range m.attached[target] {
			if key.Kind == kind {
				names = append(names, key.Namespace+"/"+key.Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// classOf is the class of a waypoint; the zero Key when there is none.
func (m *Model) classOf(waypoint Key) Key {
	if s := m.spaces[waypoint.Namespace]; s != nil && s.gateways[waypoint.Name] != nil {
		return Key{Kind: KindGatewayClass, Name: string(s.gateways[waypoint.Name].Spec.GatewayClassName)}
	}
	return Key{}
}

// waypointAccount is the principal of a waypoint.
func (m *Model) waypointAccount(waypoint Key) string {
	account := waypoint.Name
	if s := m.spaces[waypoint.Namespace]; s != nil && s.gateways[waypoint.Name] != nil {
		account = WaypointAccount(s.gateways[waypoint.Name])
	}
	return m.cfg.TrustDomain + "/ns/" + waypoint.Namespace + "/sa/" + account
}

// demands reports whether an object, which is bound to a waypoint, is reached only
// through it.
func (m *Model) demands(o *metav1.ObjectMeta) bool {
	if value := o.Labels[throughLabel]; value != "" {
		return value != "false"
	}
	if s := m.spaces[o.Namespace]; s != nil && s.namespace != nil {
		return s.namespace.Labels[throughLabel] != "false"
	}
	return true
}

// throughWaypoint is the policy by which the node proxies of a service's endpoints
// let in nobody but its waypoint, on the ports that the service leads to; nil when
// there is no such demand.
func (m *Model) throughWaypoint(service *corev1.Service) []*Resource {
	b, ok := m.boundTo(&service.ObjectMeta)
	if !ok || !m.demands(&service.ObjectMeta) || len(clusterIPs(service)) == 0 || m.goesAround(b, service.Namespace) {
		return nil
	}
	var waypoints []*securityapi.StringMatch
	for _, g := range b.waypoints() {
		waypoints = append(waypoints, exactPrincipal(m.waypointAccount(g)))
	}
	ports := m.targetPorts(service)
	if len(ports) == 0 {
		return nil
	}
	return []*Resource{authorizationResource(&securityapi.Authorization{
		Name: securityapi.ThroughWaypointPrefix + service.Name, Namespace: service.Namespace,
		Scope: securityapi.Scope_WORKLOAD_SELECTOR, Action: securityapi.Action_DENY,
		Rules: []*securityapi.Rule{{Clauses: []*securityapi.Clause{
			{Matches: []*securityapi.Match{{NotPrincipals: waypoints}}},
			{Matches: []*securityapi.Match{{DestinationPorts: ports}}},
		}}},
	})}
}

// exactPrincipal is a comparison with one principal.
func exactPrincipal(principal string) *securityapi.StringMatch {
	return &securityapi.StringMatch{MatchType: &securityapi.StringMatch_Exact{Exact: principal}}
}

// targetPorts are the ports of pods that a service leads to, those by name at each
// of its pods included.
func (m *Model) targetPorts(service *corev1.Service) []uint32 {
	var ports []uint32
	for _, p := range portsOf(service) {
		if p.targetName == "" {
			ports = append(ports, p.target)
			continue
		}
		for _, pod := range m.space(service.Namespace).pods {
			if !selects(service.Spec.Selector, pod.Labels) {
				continue
			}
			if port, ok := containerPort(pod, p.targetName); ok {
				ports = append(ports, port)
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// throughPolicies are the names of the policies that demand a waypoint of who
// calls a pod.
func (m *Model) throughPolicies(p *corev1.Pod) []string {
	if !m.demands(&p.ObjectMeta) || p.Labels[throughLabel] == "false" {
		return nil
	}
	var names []string
	for _, service := range m.space(p.Namespace).services {
		if len(service.Spec.Selector) > 0 && isServed(service) && selects(service.Spec.Selector, p.Labels) && len(m.throughWaypoint(service)) > 0 {
			names = append(names, p.Namespace+"/"+securityapi.ThroughWaypointPrefix+service.Name)
		}
	}
	slices.Sort(names)
	return names
}

// waypointEndpoint is what waypoints know of a workload beside its address: for
// every one that requests may be sent to, because one that they do not know of gets
// none.
func (m *Model) waypointEndpoint(w *workloadapi.Workload, labels map[string]string, direct bool) []*Resource {
	if !direct && !m.getsRequests(w) {
		return nil
	}
	e := &waypointapi.Endpoint{
		Uid: w.Uid, Labels: labels, Policies: m.selecting(w.Namespace, labels), Authentications: m.believing(w.Namespace, labels),
	}
	if to := w.GetWaypoint().GetHostname(); to != nil {
		name, _, _ := strings.Cut(to.GetHostname(), ".")
		e.TellClient = m.tellsClient(Key{KindGateway, to.GetNamespace(), name})
	}
	return []*Resource{waypointResource(TypeWaypointEndpoint, WaypointEndpointURL, w.Uid, e, nil,
		rulesNeeded(w.Namespace, e.Policies, e.Authentications, false))}
}

// getsRequests reports whether a waypoint may send requests to a workload: one of
// its services is bound to one, or routes lead to it.
func (m *Model) getsRequests(w *workloadapi.Workload) bool {
	for key := range w.Services {
		namespace, host, _ := strings.Cut(key, "/")
		s := m.spaces[namespace]
		if s == nil {
			continue
		}
		name, rest, _ := strings.Cut(host, ".")
		if service := s.services[name]; service != nil && isServed(service) && rest == namespace+".svc."+m.cfg.ClusterDomain {
			if m.isRequested(Key{KindService, namespace, name}, &service.ObjectMeta) {
				return true
			}
			continue // no ServiceEntry has its name
		}
		for _, e := range s.serviceEntries {
			if slices.Contains(e.Spec.GetHosts(), host) && m.isRequested(Key{KindServiceEntry, namespace, e.Name}, &e.ObjectMeta) {
				return true
			}
		}
	}
	return false
}

// isRequested reports whether a service is bound to a waypoint, or routes name it.
func (m *Model) isRequested(key Key, o *metav1.ObjectMeta) bool {
	if _, ok := m.boundTo(o); ok {
		return true
	}
	targets := []Key{key}
	if key.Kind == KindServiceEntry {
		if e := m.space(key.Namespace).serviceEntries[key.Name]; e != nil {
			for _, host := range e.Spec.GetHosts() {
				targets = append(targets, Key{Kind: kindHost, Name: host})
			}
		}
	}
	for _, target := range targets {
		for on := range m.attached[target] {
			if on.Kind != KindAuthorizationPolicy && on.Kind != KindReferenceGrant {
				return true
			}
		}
	}
	return false
}

// selecting are the names of the policies that select labels, for waypoints.
func (m *Model) selecting(namespace string, labels map[string]string) []string {
	var names []string
	for _, level := range slices.Compact([]string{namespace, m.cfg.RootNamespace}) {
		s := m.spaces[level]
		if s == nil {
			continue
		}
		for name, p := range s.policies {
			if p.Spec.Selector != nil && !hasTargets(&p.Spec) && selects(p.Spec.Selector.GetMatchLabels(), labels) {
				names = append(names, level+"/"+name)
			}
		}
	}
	slices.Sort(names)
	return names
}
