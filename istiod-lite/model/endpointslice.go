package model

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
)

// fromSlice are the workloads of a slice's addresses that no pod stands behind.
// Nothing is known of them but the address, which others may have too.
func (m *Model) fromSlice(es *discoveryapi.EndpointSlice) ([]*Resource, []Condition) {
	service := m.space(es.Namespace).services[serviceOf(es)]
	if service == nil || !isServed(service) || es.AddressType == discoveryapi.AddressTypeFQDN {
		return nil, nil
	}
	services := map[string]*workloadapi.PortList{m.serviceKey(service): slicePorts(es, service)}
	var resources []*Resource
	seen := map[string]bool{}
	for _, e := range es.Endpoints {
		addresses := endpointAddresses(e)
		if podOf(e) != "" || len(addresses) == 0 || seen[e.Addresses[0]] {
			continue
		}
		seen[e.Addresses[0]] = true
		w := &workloadapi.Workload{
			Uid:         m.cfg.ClusterID + "/discovery.k8s.io/EndpointSlice/" + es.Namespace + "/" + es.Name + "/" + e.Addresses[0],
			Name:        es.Name,
			Namespace:   es.Namespace,
			Addresses:   addresses,
			Network:     m.cfg.Network,
			TrustDomain: m.trustDomain(),
			ClusterId:   m.cfg.ClusterID,
			Services:    services,
			NetworkMode: workloadapi.NetworkMode_HOST_NETWORK,
		}
		if !isServing(e) {
			w.Status = workloadapi.WorkloadStatus_UNHEALTHY
		}
		resources = append(resources, workloadResource(w, nil))
		resources = append(resources, m.waypointEndpoint(w, nil, false)...)
	}
	return resources, nil
}

// serviceOf is the name of the service that a slice belongs to.
func serviceOf(es *discoveryapi.EndpointSlice) string {
	return es.Labels[discoveryapi.LabelServiceName]
}

// podsOf are the pods that a slice refers to.
func podsOf(es *discoveryapi.EndpointSlice) []string {
	var pods []string
	for _, e := range es.Endpoints {
		if name := podOf(e); name != "" {
			pods = append(pods, name)
		}
	}
	return pods
}

// podOf is the pod behind an endpoint; empty if there is none.
func podOf(e discoveryapi.Endpoint) string {
	if e.TargetRef == nil || e.TargetRef.Kind != "Pod" {
		return ""
	}
	return e.TargetRef.Name
}

// isServing reports whether an endpoint takes new connections. Not knowing means
// yes. Source: k8s.io/api/discovery/v1, EndpointConditions.
func isServing(e discoveryapi.Endpoint) bool {
	c := e.Conditions
	return (c.Ready == nil || *c.Ready) && (c.Terminating == nil || !*c.Terminating)
}

// endpointAddresses are the addresses of an endpoint; none if one is malformed.
func endpointAddresses(e discoveryapi.Endpoint) [][]byte {
	var all [][]byte
	for _, text := range e.Addresses {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil
		}
		all = append(all, addressBytes(addr))
	}
	return all
}

// slicePorts joins the ports of a slice, which carry the target's number, with
// those of its service by name.
func slicePorts(es *discoveryapi.EndpointSlice, service *corev1.Service) *workloadapi.PortList {
	list := &workloadapi.PortList{}
	for _, p := range es.Ports {
		if p.Port == nil || (p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP) {
			continue
		}
		name := ""
		if p.Name != nil {
			name = *p.Name
		}
		for _, port := range portsOf(service) {
			if port.name == name {
				list.Ports = append(list.Ports, &workloadapi.Port{ServicePort: port.number, TargetPort: uint32(*p.Port)})
				break
			}
		}
	}
	return list
}
