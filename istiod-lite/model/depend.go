package model

import (
	"slices"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
)

// dirty are the objects that must be derived anew.
type dirty map[Key]struct{}

// add marks one object.
func (d dirty) add(key Key) { d[key] = struct{}{} }

// dependOnNamespace marks what reads labels or annotations of a namespace, which
// may ask for a waypoint.
func (m *Model) dependOnNamespace(namespace string, d dirty) {
	s := m.space(namespace)
	for name := range s.services {
		d.add(Key{KindService, namespace, name})
	}
	for name := range s.serviceEntries {
		d.add(Key{KindServiceEntry, namespace, name})
	}
	for name := range s.pods {
		d.add(Key{KindPod, namespace, name})
	}
	for name := range s.entries {
		d.add(Key{KindWorkloadEntry, namespace, name})
	}
	for name := range s.slices {
		d.add(Key{KindEndpointSlice, namespace, name})
	}
	m.markPolicies(namespace, d)
}

// dependOnPod marks the services whose ports lead to one that the pod names: they
// say which ports only their waypoint may call; and the waypoints that it is an
// instance of.
func (m *Model) dependOnPod(key Key, old, now *corev1.Pod, d dirty) {
	d.add(key)
	m.dependOnReadiness(key.Namespace, old, now, d)
	for name, service := range m.space(key.Namespace).services {
		if !slices.ContainsFunc(portsOf(service), func(p servicePort) bool { return p.targetName != "" }) {
			continue
		}
		if _, ok := m.boundTo(&service.ObjectMeta); !ok {
			continue
		}
		for _, pod := range []*corev1.Pod{old, now} {
			if pod != nil && len(service.Spec.Selector) > 0 && selects(service.Spec.Selector, pod.Labels) {
				d.add(Key{KindService, key.Namespace, name})
			}
		}
	}
}

// dependOnNode marks the pods of a node: they take its locality, and whether it is
// heard of counts for them.
func (m *Model) dependOnNode(node string, d dirty) {
	for key := range m.onNode[node] {
		d.add(key)
	}
}

// indexPod keeps the pods by node.
func (m *Model) indexPod(key Key, old, now *corev1.Pod) {
	if old != nil {
		delete(m.onNode[old.Spec.NodeName], key)
		if len(m.onNode[old.Spec.NodeName]) == 0 {
			delete(m.onNode, old.Spec.NodeName)
		}
	}
	if now != nil && now.Spec.NodeName != "" {
		on := m.onNode[now.Spec.NodeName]
		if on == nil {
			on = map[Key]*corev1.Pod{}
			m.onNode[now.Spec.NodeName] = on
		}
		on[key] = now
	}
}

// dependOnService marks what is an endpoint of a service, before or now, and
// service entries, which yield to a service of the same host name.
func (m *Model) dependOnService(key Key, old, now *corev1.Service, d dirty) {
	d.add(key)
	for _, service := range []*corev1.Service{old, now} {
		if service != nil {
			m.markSelected(key.Namespace, service.Spec.Selector, true, d)
		}
	}
	if isBound(old) != isBound(now) {
		m.markPolicies(key.Namespace, d)
	}
	m.markSlices(key, d)
	m.markServiceEntries(key.Namespace, d)
}

// isBound is the waypoint that a service asks for itself; the zero bound if none.
func isBound(s *corev1.Service) bound {
	if s == nil {
		return bound{}
	}
	b, _ := boundBy(s, s.Namespace)
	return b
}

// dependOnSlice marks the pods of which a slice says something else than before:
// most changes of a large slice are about one of them.
func (m *Model) dependOnSlice(key Key, old, now *discoveryapi.EndpointSlice, d dirty) {
	d.add(key)
	s := m.space(key.Namespace)
	before, after := aboutPods(old), aboutPods(now)
	moved := old == nil || now == nil || serviceOf(old) != serviceOf(now)
	for pod, said := range before {
		if says, there := after[pod]; !there {
			d.add(Key{KindPod, key.Namespace, pod})
			delete(s.podSlices[pod], key.Name)
			if len(s.podSlices[pod]) == 0 {
				delete(s.podSlices, pod)
			}
		} else if moved || says != said {
			d.add(Key{KindPod, key.Namespace, pod})
		}
	}
	for pod := range after {
		if _, known := before[pod]; known {
			continue
		}
		d.add(Key{KindPod, key.Namespace, pod})
		if s.podSlices[pod] == nil {
			s.podSlices[pod] = map[string]bool{}
		}
		s.podSlices[pod][key.Name] = true
	}
}

// aboutPod is what the workload of a pod reads of a slice.
type aboutPod struct {
	uids        string // of the pods of that name that are meant
	terminating string // those of them that are on their way out
}

// aboutPods is that of all pods of a slice.
func aboutPods(es *discoveryapi.EndpointSlice) map[string]aboutPod {
	about := map[string]aboutPod{}
	if es == nil {
		return about
	}
	for _, e := range es.Endpoints {
		name := podOf(e)
		if name == "" {
			continue
		}
		a := about[name]
		a.uids += string(e.TargetRef.UID) + " "
		if e.Conditions.Terminating != nil && *e.Conditions.Terminating {
			a.terminating += string(e.TargetRef.UID) + " "
		}
		about[name] = a
	}
	return about
}

// dependOnPolicy marks the workloads that a policy selects, before or now.
func (m *Model) dependOnPolicy(key Key, old, now *security.AuthorizationPolicy, d dirty) {
	d.add(key)
	for _, policy := range []*security.AuthorizationPolicy{old, now} {
		if policy == nil || policy.Spec.Selector == nil {
			continue
		}
		for _, namespace := range m.reach(key.Namespace) {
			m.markSelected(namespace, policy.Spec.Selector.GetMatchLabels(), false, d)
		}
	}
}

// dependOnPeerAuthentication marks the workloads whose mode it may decide, and
// other PeerAuthentications that inherit from it.
func (m *Model) dependOnPeerAuthentication(key Key, old, now *security.PeerAuthentication, d dirty) {
	d.add(key)
	d.add(Key{Kind: kindStaticStrict})
	for _, peer := range []*security.PeerAuthentication{old, now} {
		switch {
		case peer == nil:
		case len(selectorOf(peer)) > 0:
			m.markSelected(key.Namespace, selectorOf(peer), false, d)
		default:
			for _, namespace := range m.reach(key.Namespace) {
				m.markSelected(namespace, nil, false, d)
				for name := range m.space(namespace).peers {
					d.add(Key{KindPeerAuthentication, namespace, name})
				}
			}
		}
	}
}

// dependOnServiceEntry marks the workloads that an entry selected before, and all
// entries of the namespace: of one host name only the oldest is served.
func (m *Model) dependOnServiceEntry(key Key, old *networking.ServiceEntry, d dirty) {
	d.add(key)
	if old != nil {
		m.markSelected(key.Namespace, old.Spec.GetWorkloadSelector().GetLabels(), true, d)
	}
	m.markServiceEntries(key.Namespace, d)
}

// markServiceEntries marks the service entries of a namespace, and what they
// select: when one comes or goes, another may win or lose a host name.
func (m *Model) markServiceEntries(namespace string, d dirty) {
	for name, entry := range m.space(namespace).serviceEntries {
		d.add(Key{KindServiceEntry, namespace, name})
		m.markSelected(namespace, entry.Spec.GetWorkloadSelector().GetLabels(), true, d)
	}
}

// markSelected marks pods and entries with the labels. No labels select all,
// unless those of a service, where they select none.
func (m *Model) markSelected(namespace string, selector map[string]string, ofService bool, d dirty) {
	if ofService && len(selector) == 0 {
		return
	}
	s := m.space(namespace)
	for name, pod := range s.pods {
		if selects(selector, pod.Labels) {
			d.add(Key{KindPod, namespace, name})
		}
	}
	for name, entry := range s.entries {
		if selects(selector, labelsOf(entry)) {
			d.add(Key{KindWorkloadEntry, namespace, name})
		}
	}
	if ofService {
		return
	}
	if len(selector) == 0 {
		for name := range s.slices { // their endpoints have no labels
			d.add(Key{KindEndpointSlice, namespace, name})
		}
	}
	for name, entry := range s.serviceEntries {
		if selects(selector, entry.Labels) {
			d.add(Key{KindServiceEntry, namespace, name})
		}
	}
}

// reach are the namespaces that policies of a namespace apply to.
func (m *Model) reach(namespace string) []string {
	if namespace != m.cfg.RootNamespace {
		return []string{namespace}
	}
	var all []string
	for name := range m.spaces {
		all = append(all, name)
	}
	return all
}

// selects reports whether labels hold all that selector asks for.
func selects(selector, labels map[string]string) bool {
	for key, want := range selector {
		if got, ok := labels[key]; !ok || got != want {
			return false
		}
	}
	return true
}
