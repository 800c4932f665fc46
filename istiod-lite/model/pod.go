package model

import (
	"cmp"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"istio.io/api/annotation"
	"istio.io/api/label"
	corev1 "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
)

// tunnelLabel says that a workload speaks HBONE itself, with the value http.
const tunnelLabel = "networking.istio.io/tunnel"

// fromPod is the workload of a pod that has an address and has not ended.
func (m *Model) fromPod(p *corev1.Pod) ([]*Resource, []Condition) {
	addresses := podAddresses(p)
	if HasEnded(p) || len(addresses) == 0 {
		return nil, nil
	}
	s := m.space(p.Namespace)
	w := &workloadapi.Workload{
		Uid:                   m.cfg.ClusterID + "//Pod/" + p.Namespace + "/" + p.Name,
		Name:                  p.Name,
		Namespace:             p.Namespace,
		Addresses:             addresses,
		Network:               m.cfg.Network,
		TrustDomain:           m.trustDomain(),
		ServiceAccount:        p.Spec.ServiceAccountName,
		Node:                  p.Spec.NodeName,
		WorkloadType:          workloadapi.WorkloadType_POD,
		WorkloadName:          ownerOf(p),
		ClusterId:             m.cfg.ClusterID,
		Locality:              m.localityOf(p.Spec.NodeName),
		Services:              m.servicesOfPod(s, p),
		AuthorizationPolicies: append(m.policiesFor(p.Namespace, p.Labels), m.throughPolicies(p)...),
	}
	w.CanonicalName, w.CanonicalRevision = canonical(p.Labels, w.WorkloadName)
	w.TunnelProtocol, w.NativeTunnel = tunnelOf(p.Labels, p.Annotations)
	if !m.isReady(p) || m.isTerminating(s, p) {
		w.Status = workloadapi.WorkloadStatus_UNHEALTHY
	}
	if p.Spec.HostNetwork {
		w.NetworkMode = workloadapi.NetworkMode_HOST_NETWORK
	}
	a, conditions := m.waypointOf(&p.ObjectMeta, toWorkload)
	w.Waypoint = a.address
	return append([]*Resource{workloadResource(w, a.through)}, m.waypointEndpoint(w, p.Labels, len(a.through) > 0)...), conditions
}

// HasEnded reports whether none of the pod's containers will ever run again.
func HasEnded(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// AccountOf is the service account of a pod; default if it names none.
func AccountOf(p *corev1.Pod) string { return cmp.Or(p.Spec.ServiceAccountName, "default") }

// podAddresses are the addresses of a pod; none if one of them is malformed.
func podAddresses(p *corev1.Pod) [][]byte {
	ips := p.Status.PodIPs
	if len(ips) == 0 && p.Status.PodIP != "" {
		ips = []corev1.PodIP{{IP: p.Status.PodIP}}
	}
	var all [][]byte
	for _, ip := range ips {
		addr, err := netip.ParseAddr(ip.IP)
		if err != nil {
			return nil
		}
		all = append(all, addressBytes(addr))
	}
	return all
}

// isReady reports whether the pod may get connections: its kubelet says so, or has
// said so last and somebody else, who has lost sight of all nodes or was late to see
// this one again, says otherwise.
func (m *Model) isReady(p *corev1.Pod) bool {
	switch {
	case podCondition(p, corev1.PodReady) == corev1.ConditionTrue:
		return true
	case podCondition(p, corev1.ContainersReady) != corev1.ConditionTrue || len(p.Spec.ReadinessGates) > 0:
		return false // the kubelet's word
	}
	// A kubelet writes both conditions, and without gates the same into both. The
	// node lifecycle controller writes the one alone, of all pods of a node that it
	// has not heard of: when one node is silent the pods are as lost as it. When all
	// are, it is itself that was cut off, as after an outage of the API server; it
	// does not evict pods then either.
	return m.isBlind() || nodeReadiness(m.nodes[p.Spec.NodeName]) == corev1.ConditionTrue
}

// podCondition is the status of a condition; empty when the pod has none such.
func podCondition(p *corev1.Pod, want corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range p.Status.Conditions {
		if c.Type == want {
			return c.Status
		}
	}
	return ""
}

// nodeReadiness is the status of a node's Ready condition; empty when it has none,
// or is not there.
func nodeReadiness(n *corev1.Node) corev1.ConditionStatus {
	if n == nil {
		return ""
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}

// isSilent reports whether a node has not been heard of.
func isSilent(n *corev1.Node) bool { return nodeReadiness(n) == corev1.ConditionUnknown }

// isBlind reports whether no node has been heard of.
func (m *Model) isBlind() bool { return m.silent > 0 && m.silent == len(m.nodes) }

// isTerminating reports whether the pod is on its way out: by its own mark, or
// by that of an EndpointSlice, whichever was heard first.
func (m *Model) isTerminating(s *space, p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil {
		return true
	}
	for name := range s.podSlices[p.Name] {
		for _, e := range s.slices[name].Endpoints {
			if podOf(e) == p.Name && e.Conditions.Terminating != nil && *e.Conditions.Terminating && isSameUID(e, p) {
				return true
			}
		}
	}
	return false
}

// isSameUID reports whether an endpoint means this pod, not an earlier one of
// the same name. Without UIDs it does.
func isSameUID(e discoveryapi.Endpoint, p *corev1.Pod) bool {
	return e.TargetRef.UID == "" || p.UID == "" || e.TargetRef.UID == p.UID
}

// servicesOfPod are the services that a pod is an endpoint of: by selector, by
// an EndpointSlice of a service without one, and by service entries.
func (m *Model) servicesOfPod(s *space, p *corev1.Pod) map[string]*workloadapi.PortList {
	services := map[string]*workloadapi.PortList{}
	for _, service := range s.services {
		if len(service.Spec.Selector) > 0 && isServed(service) && selects(service.Spec.Selector, p.Labels) {
			services[m.serviceKey(service)] = podPorts(p, portsOf(service))
		}
	}
	for name := range s.podSlices[p.Name] {
		service := s.services[serviceOf(s.slices[name])]
		if service == nil || len(service.Spec.Selector) > 0 || !isServed(service) {
			continue
		}
		if slices.ContainsFunc(s.slices[name].Endpoints, func(e discoveryapi.Endpoint) bool { return podOf(e) == p.Name && isSameUID(e, p) }) {
			services[m.serviceKey(service)] = podPorts(p, portsOf(service))
		}
	}
	for _, entry := range s.serviceEntries {
		if selector := entry.Spec.GetWorkloadSelector().GetLabels(); len(selector) > 0 && selects(selector, p.Labels) {
			for _, host := range m.hostsOf(entry) {
				services[entry.Namespace+"/"+host] = podPorts(p, portsOfEntry(entry))
			}
		}
	}
	return services
}

// podPorts maps the ports of a service to those of a pod. A port whose name the
// pod does not know is left out.
func podPorts(p *corev1.Pod, ports []servicePort) *workloadapi.PortList {
	list := &workloadapi.PortList{}
	for _, port := range ports {
		target := port.target
		switch {
		case port.targetName != "":
			named, ok := containerPort(p, port.targetName)
			if !ok {
				continue
			}
			target = named
		case port.ofEntry:
			if named, ok := containerPort(p, port.name); ok {
				target = named
			}
		}
		list.Ports = append(list.Ports, &workloadapi.Port{ServicePort: port.number, TargetPort: target})
	}
	return list
}

// containerPort is the number of a named TCP port of a pod. Init containers that
// are restarted run beside the others and count too.
func containerPort(p *corev1.Pod, name string) (uint32, bool) {
	if name == "" {
		return 0, false
	}
	find := func(c corev1.Container) (uint32, bool) {
		for _, port := range c.Ports {
			if port.Name == name && cmp.Or(port.Protocol, corev1.ProtocolTCP) == corev1.ProtocolTCP {
				return uint32(port.ContainerPort), true
			}
		}
		return 0, false
	}
	for _, c := range p.Spec.Containers {
		if port, ok := find(c); ok {
			return port, true
		}
	}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		if port, ok := find(c); ok {
			return port, true
		}
	}
	return 0, false
}

// localityOf is the place of a node; nil when nobody has told of it.
func (m *Model) localityOf(node string) *workloadapi.Locality {
	n := m.nodes[node]
	if n == nil {
		return nil
	}
	l := &workloadapi.Locality{
		Region:  n.Labels[corev1.LabelTopologyRegion],
		Zone:    n.Labels[corev1.LabelTopologyZone],
		Subzone: n.Labels[label.TopologySubzone.Name],
	}
	if l.Region == "" && l.Zone == "" && l.Subzone == "" {
		return nil
	}
	return l
}

// trustDomain as workloads carry it: the usual one is left empty.
func (m *Model) trustDomain() string {
	if m.cfg.TrustDomain == "cluster.local" {
		return ""
	}
	return m.cfg.TrustDomain
}

// tunnelOf is how a workload wants to be reached: through the proxy that the CNI
// agent has confirmed, or because it speaks HBONE itself.
func tunnelOf(labels, annotations map[string]string) (protocol workloadapi.TunnelProtocol, native bool) {
	if slices.Contains(strings.Split(labels[tunnelLabel], ","), "http") {
		return workloadapi.TunnelProtocol_HBONE, true
	}
	if annotations[annotation.AmbientRedirection.Name] == "enabled" {
		return workloadapi.TunnelProtocol_HBONE, false
	}
	return workloadapi.TunnelProtocol_NONE, false
}

// canonical are the names under which metrics speak of a workload.
func canonical(labels map[string]string, fallback string) (name, revision string) {
	return firstLabel(labels, fallback, label.ServiceCanonicalName.Name, "app.kubernetes.io/name", "app"),
		firstLabel(labels, "latest", label.ServiceCanonicalRevision.Name, "app.kubernetes.io/version", "version")
}

// firstLabel is the value of the first key that is there.
func firstLabel(labels map[string]string, fallback string, keys ...string) string {
	for _, key := range keys {
		if value, ok := labels[key]; ok {
			return value
		}
	}
	return fallback
}

// ofCronJob is the name of a Job that a CronJob made: its own and a time.
var ofCronJob = regexp.MustCompile(`^(.+)-\d{8,10}$`)

// ownerOf is the name of what made the pod: a Deployment rather than its
// ReplicaSet, a CronJob rather than its Job; the pod itself if nothing did.
func ownerOf(p *corev1.Pod) string {
	if name := p.Labels[label.ServiceWorkloadName.Name]; name != "" {
		return name
	}
	owner := metav1.GetControllerOfNoCopy(p)
	if owner == nil {
		return p.Name
	}
	switch owner.Kind {
	case "ReplicaSet":
		if hash := p.Labels["pod-template-hash"]; hash != "" {
			return strings.TrimSuffix(owner.Name, "-"+hash)
		}
	case "Job":
		if m := ofCronJob.FindStringSubmatch(owner.Name); m != nil {
			return m[1]
		}
	}
	return owner.Name
}
