package model

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/wrapperspb"
	"istio.io/api/label"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
)

// fromWorkloadEntry is the workload of something outside the cluster that acts
// like a pod.
func (m *Model) fromWorkloadEntry(e *networking.WorkloadEntry) ([]*Resource, []Condition) {
	labels := labelsOf(e)
	w := m.outside(e.Namespace, &e.Spec, labels, e.Annotations)
	w.Uid = m.cfg.ClusterID + "/networking.istio.io/WorkloadEntry/" + e.Namespace + "/" + e.Name
	w.Name = e.Name
	w.WorkloadName = firstLabel(labels, e.Name, label.ServiceWorkloadName.Name)
	w.CanonicalName, w.CanonicalRevision = canonical(labels, w.WorkloadName)
	w.Services = map[string]*workloadapi.PortList{}
	s := m.space(e.Namespace)
	for _, service := range s.services {
		if len(service.Spec.Selector) > 0 && isServed(service) && selects(service.Spec.Selector, labels) {
			w.Services[m.serviceKey(service)] = entryPorts(&e.Spec, portsOf(service))
		}
	}
	for _, entry := range s.serviceEntries {
		if selector := entry.Spec.GetWorkloadSelector().GetLabels(); len(selector) > 0 && selects(selector, labels) {
			for _, host := range m.hostsOf(entry) {
				w.Services[entry.Namespace+"/"+host] = entryPorts(&e.Spec, portsOfEntry(entry))
			}
		}
	}
	a, conditions := m.waypointOf(&e.ObjectMeta, toWorkload)
	w.Waypoint = a.address
	return append([]*Resource{workloadResource(w, a.through)}, m.waypointEndpoint(w, labels, len(a.through) > 0)...), conditions
}

// labelsOf are the labels of a WorkloadEntry, which may stand in two places.
func labelsOf(e *networking.WorkloadEntry) map[string]string {
	if len(e.Spec.GetLabels()) == 0 {
		return e.Labels
	}
	labels := maps.Clone(e.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, e.Spec.GetLabels())
	return labels
}

// outside is what WorkloadEntries and inline endpoints have in common.
func (m *Model) outside(namespace string, spec *api.WorkloadEntry, labels, annotations map[string]string) *workloadapi.Workload {
	w := &workloadapi.Workload{
		Namespace:             namespace,
		Network:               cmp.Or(spec.GetNetwork(), m.cfg.Network),
		TrustDomain:           m.trustDomain(),
		ServiceAccount:        spec.GetServiceAccount(),
		WorkloadType:          workloadapi.WorkloadType_POD,
		ClusterId:             m.cfg.ClusterID,
		Locality:              parseLocality(spec.GetLocality()),
		AuthorizationPolicies: m.policiesFor(namespace, labels),
	}
	w.TunnelProtocol, w.NativeTunnel = tunnelOf(labels, annotations)
	if spec.GetWeight() > 0 {
		w.Capacity = wrapperspb.UInt32(spec.GetWeight())
	}
	if addr, err := netip.ParseAddr(spec.GetAddress()); err == nil {
		w.Addresses = [][]byte{addressBytes(addr)}
	} else {
		w.Hostname = spec.GetAddress()
	}
	return w
}

// parseLocality reads region/zone/subzone.
func parseLocality(text string) *workloadapi.Locality {
	if text == "" {
		return nil
	}
	parts := append(strings.SplitN(text, "/", 3), "", "")
	return &workloadapi.Locality{Region: parts[0], Zone: parts[1], Subzone: parts[2]}
}

// entryPorts maps the ports of a service to those that an entry names.
func entryPorts(spec *api.WorkloadEntry, ports []servicePort) *workloadapi.PortList {
	list := &workloadapi.PortList{}
	for _, port := range ports {
		target := port.target
		if named, ok := spec.GetPorts()[cmp.Or(port.targetName, port.name)]; ok {
			target = named
		} else if port.targetName != "" {
			continue
		}
		list.Ports = append(list.Ports, &workloadapi.Port{ServicePort: port.number, TargetPort: target})
	}
	return list
}

// fromServiceEntry is one service per host, and workloads for its endpoints.
func (m *Model) fromServiceEntry(e *networking.ServiceEntry) ([]*Resource, []Condition) {
	var resources []*Resource
	waypoint, conditions := m.waypointOf(&e.ObjectMeta, toService)
	hosts := m.hostsOf(e)
	if len(hosts) < len(e.Spec.GetHosts()) {
		missing := slices.DeleteFunc(slices.Clone(e.Spec.GetHosts()), func(h string) bool { return slices.Contains(hosts, h) })
		conditions = append(conditions, Condition{
			Type: ConditionAccepted, Reason: ReasonHostnameUsed,
			Message: fmt.Sprintf("hosts %s: a Service or an older ServiceEntry of this namespace has the name", strings.Join(missing, ", ")),
		})
	}
	own, err := m.entryAddresses(e)
	if err != nil {
		return nil, append(conditions, invalid("spec.addresses", err))
	}
	balancing, notes := m.entryBalancing(e)
	conditions = append(conditions, notes...)
	for _, host := range hosts {
		addresses := own
		if len(own) == 0 {
			addresses = m.autoAddresses(e, host)
		}
		s := &workloadapi.Service{
			Name:            e.Name,
			Namespace:       e.Namespace,
			Hostname:        host,
			Addresses:       addresses,
			SubjectAltNames: e.Spec.GetSubjectAltNames(),
			LoadBalancing:   balancing,
			Waypoint:        waypoint.address,

			WeightedWaypoints: waypoint.shares,
		}
		for _, port := range portsOfEntry(e) {
			s.Ports = append(s.Ports, &workloadapi.Port{ServicePort: port.number, TargetPort: port.target, AppProtocol: port.app})
		}
		resources = append(resources, serviceResource(s, waypoint.through))
		resources = append(resources, m.waypointService(&e.ObjectMeta, KindServiceEntry, host, portsOfEntry(e), waypoint.through)...)
	}
	return append(resources, m.inlineEndpoints(e, hosts)...), conditions
}

// hostsOf are the hosts that a ServiceEntry serves: those that no Service and no
// older entry of the namespace has.
func (m *Model) hostsOf(e *networking.ServiceEntry) []string {
	s := m.space(e.Namespace)
	var hosts []string
	for _, host := range e.Spec.GetHosts() {
		taken := slices.Contains(hosts, host) // twice in one entry
		if name, rest, _ := strings.Cut(host, "."); rest == e.Namespace+".svc."+m.cfg.ClusterDomain {
			taken = taken || s.services[name] != nil && isServed(s.services[name])
		}
		for _, other := range s.serviceEntries {
			taken = taken || other.Name != e.Name && isOlder(other, e) && slices.Contains(other.Spec.GetHosts(), host)
		}
		if !taken {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// isOlder orders entries by age, and those of one age by name.
func isOlder(a, b *networking.ServiceEntry) bool {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name)) < 0
}

// entryAddresses are addresses and prefixes at which the entry is reached.
func (m *Model) entryAddresses(e *networking.ServiceEntry) ([]*workloadapi.NetworkAddress, error) {
	var all []*workloadapi.NetworkAddress
	for i, text := range e.Spec.GetAddresses() {
		prefix, err := parsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
		a := &workloadapi.NetworkAddress{Network: m.cfg.Network, Address: prefix.Masked().Addr().AsSlice()}
		if prefix.Bits() < prefix.Addr().BitLen() {
			length := uint32(prefix.Bits())
			a.Length = &length
		}
		all = append(all, a)
	}
	return all, nil
}

// AutoAddressHosts are the hosts of an entry that get addresses of the mesh: none
// when it has its own, is reached at any address, or has opted out. A host with a
// wildcard is no host.
func AutoAddressHosts(e *networking.ServiceEntry) []string {
	if len(e.Spec.GetAddresses()) > 0 || e.Spec.GetResolution() == api.ServiceEntry_NONE ||
		strings.EqualFold(e.Labels[label.NetworkingEnableAutoallocateIp.Name], "false") {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(e.Spec.GetHosts()), func(h string) bool { return strings.Contains(h, "*") })
}

// autoAddresses are the addresses of the mesh that a host of an entry was given:
// they stand in its status.
func (m *Model) autoAddresses(e *networking.ServiceEntry, host string) []*workloadapi.NetworkAddress {
	if !slices.Contains(AutoAddressHosts(e), host) {
		return nil
	}
	var all []*workloadapi.NetworkAddress
	for _, a := range e.Status.GetAddresses() {
		if addr, err := netip.ParseAddr(a.GetValue()); err == nil && (a.GetHost() == host || a.GetHost() == "") {
			all = append(all, &workloadapi.NetworkAddress{Network: m.cfg.Network, Address: addressBytes(addr)})
		}
	}
	return all
}

// entryBalancing is which endpoints are preferred; without resolution the address
// that the client asked for is the only one.
func (m *Model) entryBalancing(e *networking.ServiceEntry) (*workloadapi.LoadBalancing, []Condition) {
	if e.Spec.GetResolution() == api.ServiceEntry_NONE {
		return &workloadapi.LoadBalancing{
			Mode:         workloadapi.LoadBalancing_PASSTHROUGH,
			HealthPolicy: workloadapi.LoadBalancing_ALLOW_ALL,
		}, nil
	}
	return m.distributionOf(e.Namespace, nil, e.Annotations)
}

// portsOfEntry are the TCP ports of a ServiceEntry.
func portsOfEntry(e *networking.ServiceEntry) []servicePort {
	var ports []servicePort
	for _, p := range e.Spec.GetPorts() {
		if strings.EqualFold(p.GetProtocol(), "UDP") {
			continue
		}
		ports = append(ports, servicePort{
			number:  p.GetNumber(),
			name:    p.GetName(),
			target:  cmp.Or(p.GetTargetPort(), p.GetNumber()),
			ofEntry: true,
			app:     appProtocol(p.GetProtocol()),
		})
	}
	return ports
}

// inlineEndpoints are the workloads of the endpoints written into an entry. One
// that is resolved by DNS and has none stands for itself.
func (m *Model) inlineEndpoints(e *networking.ServiceEntry, hosts []string) []*Resource {
	var resources []*Resource
	seen := map[string]bool{}
	waypoint := m.waypointOfEndpoints(e)
	add := func(spec *api.WorkloadEntry, hosts []string) {
		if seen[spec.GetAddress()] || len(hosts) == 0 || spec.GetAddress() == "" {
			return
		}
		seen[spec.GetAddress()] = true
		w := m.outside(e.Namespace, spec, e.Labels, e.Annotations)
		w.Uid = m.cfg.ClusterID + "/networking.istio.io/ServiceEntry/" + e.Namespace + "/" + e.Name + "/" + spec.GetAddress()
		w.Name = e.Name
		w.Waypoint = waypoint.address
		w.WorkloadName = e.Name
		w.CanonicalName, w.CanonicalRevision = canonical(e.Labels, e.Name)
		w.Services = map[string]*workloadapi.PortList{}
		for _, host := range hosts {
			w.Services[e.Namespace+"/"+host] = entryPorts(spec, portsOfEntry(e))
		}
		resources = append(resources, workloadResource(w, waypoint.through))
		resources = append(resources, m.waypointEndpoint(w, e.Labels, len(waypoint.through) > 0)...)
	}
	for _, spec := range e.Spec.GetEndpoints() {
		add(spec, hosts)
	}
	byDNS := e.Spec.GetResolution() == api.ServiceEntry_DNS || e.Spec.GetResolution() == api.ServiceEntry_DNS_ROUND_ROBIN
	if byDNS && len(e.Spec.GetEndpoints()) == 0 && e.Spec.GetWorkloadSelector() == nil {
		for _, host := range hosts {
			add(&api.WorkloadEntry{Address: host}, []string{host})
		}
	}
	return resources
}

// waypointOfEndpoints is that of calls to an inline endpoint's own address: the
// waypoint of the entry or the namespace, if it serves workloads.
func (m *Model) waypointOfEndpoints(e *networking.ServiceEntry) attachment {
	b, ok := m.boundTo(&e.ObjectMeta)
	if !ok {
		return attachment{}
	}
	b.own = false // the label is about the entry's hosts in the first place
	a, _ := m.attach(b, e.Namespace, toWorkload)
	return a
}
