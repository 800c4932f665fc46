package model

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"istio.io/api/annotation"
	"istio.io/api/label"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
)

// fromService is the service of a Kubernetes Service.
func (m *Model) fromService(s *corev1.Service) ([]*Resource, []Condition) {
	if !isServed(s) {
		return nil, nil
	}
	balancing, conditions := m.balancingOf(s)
	service := &workloadapi.Service{
		Name:          s.Name,
		Namespace:     s.Namespace,
		Hostname:      m.hostname(s),
		IpFamilies:    familiesOf(s.Spec.IPFamilies),
		LoadBalancing: balancing,
		Canonical:     true,
	}
	for _, ip := range clusterIPs(s) {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			return nil, append(conditions, invalid("spec.clusterIPs", err))
		}
		service.Addresses = append(service.Addresses, &workloadapi.NetworkAddress{Network: m.cfg.Network, Address: addressBytes(addr)})
	}
	for _, port := range portsOf(s) {
		service.Ports = append(service.Ports, &workloadapi.Port{ServicePort: port.number, TargetPort: port.target, AppProtocol: port.app})
	}
	waypoint, more := m.waypointOf(&s.ObjectMeta, toService)
	service.Waypoint, service.WeightedWaypoints = waypoint.address, waypoint.shares
	service.IngressUseWaypoint = waypoint.address != nil && m.ingressUsesWaypoint(&s.ObjectMeta)
	resources := []*Resource{serviceResource(service, waypoint.through)}
	resources = append(resources, m.waypointService(&s.ObjectMeta, KindService, service.Hostname, portsOf(s), waypoint.through)...)
	resources = append(resources, m.throughWaypoint(s)...)
	return resources, append(conditions, more...)
}

// ingressUsesWaypoint reports whether gateways that let traffic into the mesh send
// it through the waypoint too: by the label of the object, else of its namespace.
func (m *Model) ingressUsesWaypoint(o *metav1.ObjectMeta) bool {
	value, ok := o.Labels[label.IoIstioIngressUseWaypoint.Name]
	if ns := m.space(o.Namespace).namespace; !ok && ns != nil {
		value = ns.Labels[label.IoIstioIngressUseWaypoint.Name]
	}
	return strings.EqualFold(value, "true")
}

// isServed reports whether a service has endpoints of its own. The others are
// names for something outside.
func isServed(s *corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeExternalName }

// hostname is the full name of a service.
func (m *Model) hostname(s *corev1.Service) string {
	return s.Name + "." + s.Namespace + ".svc." + m.cfg.ClusterDomain
}

// serviceKey is the resource name of a service.
func (m *Model) serviceKey(s *corev1.Service) string { return s.Namespace + "/" + m.hostname(s) }

// clusterIPs are the virtual addresses; none for a headless service.
func clusterIPs(s *corev1.Service) []string {
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{s.Spec.ClusterIP}
	}
	return slices.DeleteFunc(slices.Clone(ips), func(ip string) bool { return ip == "" || ip == corev1.ClusterIPNone })
}

// servicePort is a TCP port of a service.
type servicePort struct {
	number     uint32
	name       string
	target     uint32 // 0: named, or as the endpoint says
	targetName string // name of a container port
	ofEntry    bool   // of a ServiceEntry: name may be that of a container port
	app        workloadapi.AppProtocol
}

// portsOf are the TCP ports of a service. Proxies carry nothing else, and of two
// ports with one number they would know only one.
func portsOf(s *corev1.Service) []servicePort {
	var ports []servicePort
	for _, p := range s.Spec.Ports {
		if cmp.Or(p.Protocol, corev1.ProtocolTCP) != corev1.ProtocolTCP {
			continue
		}
		port := servicePort{number: uint32(p.Port), name: p.Name, target: uint32(p.TargetPort.IntVal), targetName: p.TargetPort.StrVal}
		if port.target == 0 && port.targetName == "" {
			port.target = port.number // what the API server fills in
		}
		if p.AppProtocol != nil {
			port.app = appProtocol(*p.AppProtocol)
		} else {
			port.app = appProtocol(p.Name)
		}
		ports = append(ports, port)
	}
	return ports
}

// appProtocol reads what an application speaks from a protocol's name, or from
// the name of a port, whose first part counts: http-web is http.
func appProtocol(name string) workloadapi.AppProtocol {
	name = strings.ToLower(name)
	switch name {
	case "kubernetes.io/h2c":
		return workloadapi.AppProtocol_HTTP2
	case "kubernetes.io/ws":
		return workloadapi.AppProtocol_HTTP11
	case "kubernetes.io/wss":
		return workloadapi.AppProtocol_TLS
	case "grpc-web", "http-web":
		return workloadapi.AppProtocol_HTTP11
	}
	first, _, _ := strings.Cut(name, "-")
	switch first {
	case "http":
		return workloadapi.AppProtocol_HTTP11
	case "http2", "h2c":
		return workloadapi.AppProtocol_HTTP2
	case "grpc":
		return workloadapi.AppProtocol_GRPC
	case "tcp":
		return workloadapi.AppProtocol_TCP
	case "tls", "https":
		return workloadapi.AppProtocol_TLS
	}
	return workloadapi.AppProtocol_UNKNOWN
}

// familiesOf restricts which addresses of endpoints are used.
func familiesOf(families []corev1.IPFamily) workloadapi.IPFamilies {
	switch {
	case len(families) == 2:
		return workloadapi.IPFamilies_DUAL
	case len(families) == 1 && families[0] == corev1.IPv4Protocol:
		return workloadapi.IPFamilies_IPV4_ONLY
	case len(families) == 1:
		return workloadapi.IPFamilies_IPV6_ONLY
	}
	return workloadapi.IPFamilies_AUTOMATIC
}

// balancingOf is which endpoints are preferred; nil when any will do.
func (m *Model) balancingOf(s *corev1.Service) (*workloadapi.LoadBalancing, []Condition) {
	var lb *workloadapi.LoadBalancing
	var conditions []Condition
	if p := s.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		lb = &workloadapi.LoadBalancing{
			RoutingPreference: []workloadapi.LoadBalancing_Scope{workloadapi.LoadBalancing_NODE},
			Mode:              workloadapi.LoadBalancing_STRICT,
		}
	} else {
		lb, conditions = m.distributionOf(s.Namespace, s.Spec.TrafficDistribution, s.Annotations)
	}
	if s.Spec.PublishNotReadyAddresses {
		if lb == nil {
			lb = &workloadapi.LoadBalancing{}
		}
		lb.HealthPolicy = workloadapi.LoadBalancing_ALLOW_ALL
	}
	return lb, conditions
}

// distributionOf is the traffic distribution: that of the specification, else of
// the object's annotation, else of its namespace's.
func (m *Model) distributionOf(namespace string, spec *string, annotations map[string]string) (*workloadapi.LoadBalancing, []Condition) {
	where, value := "spec.trafficDistribution", ""
	switch own := annotations[annotation.NetworkingTrafficDistribution.Name]; {
	case spec != nil && *spec != "":
		value = *spec
	case own != "":
		where, value = "annotation "+annotation.NetworkingTrafficDistribution.Name, own
	default:
		if ns := m.space(namespace).namespace; ns != nil {
			where = "annotation " + annotation.NetworkingTrafficDistribution.Name + " of the namespace"
			value = ns.Annotations[annotation.NetworkingTrafficDistribution.Name]
		}
	}
	zone := []workloadapi.LoadBalancing_Scope{workloadapi.LoadBalancing_NETWORK, workloadapi.LoadBalancing_REGION, workloadapi.LoadBalancing_ZONE}
	switch strings.ToLower(value) {
	case "", "any":
		return nil, nil
	case "preferclose", "prefersamezone":
		return &workloadapi.LoadBalancing{RoutingPreference: zone, Mode: workloadapi.LoadBalancing_FAILOVER}, nil
	case "prefersamenode":
		node := append(zone, workloadapi.LoadBalancing_SUBZONE, workloadapi.LoadBalancing_NODE)
		return &workloadapi.LoadBalancing{RoutingPreference: node, Mode: workloadapi.LoadBalancing_FAILOVER}, nil
	}
	return nil, []Condition{{
		Type: ConditionDistribution, Reason: ReasonUnsupported,
		Message: fmt.Sprintf("%s: %q is none of PreferClose, PreferSameZone and PreferSameNode; any endpoint is used", where, value),
	}}
}
