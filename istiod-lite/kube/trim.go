package kube

import (
	"istio.io/api/annotation"
	corev1 "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// kept are the annotations that the model reads on objects of Kubernetes itself.
func kept(key string) bool {
	switch key {
	case annotation.AmbientRedirection.Name, annotation.NetworkingTrafficDistribution.Name, annotation.IoIstioUseWaypointCanaryWeight.Name:
		return true
	}
	return false
}

// trimMeta keeps of metadata what tells an object from others and what the model
// reads.
func trimMeta(o *metav1.ObjectMeta) metav1.ObjectMeta {
	m := metav1.ObjectMeta{
		Name: o.Name, Namespace: o.Namespace, UID: o.UID,
		CreationTimestamp: o.CreationTimestamp, DeletionTimestamp: o.DeletionTimestamp, Labels: o.Labels,
	}
	for key, value := range o.Annotations {
		if kept(key) {
			if m.Annotations == nil {
				m.Annotations = map[string]string{}
			}
			m.Annotations[key] = value
		}
	}
	return m
}

// trimCustom drops what others note in an object's metadata and the model never
// reads: it can be larger than the object.
func trimCustom(o metav1.Object) {
	o.SetManagedFields(nil)
	annotations := o.GetAnnotations()
	delete(annotations, corev1.LastAppliedConfigAnnotation)
}

// trimNamespace keeps the metadata.
func trimNamespace(n *corev1.Namespace) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: trimMeta(&n.ObjectMeta), Status: corev1.NamespaceStatus{Phase: n.Status.Phase}}
}

// trimMeshConfig keeps what it says.
func trimMeshConfig(c *corev1.ConfigMap) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: trimMeta(&c.ObjectMeta), Data: c.Data}
}

// trimNode keeps metadata and taints.
func trimNode(n *corev1.Node) *corev1.Node {
	out := &corev1.Node{ObjectMeta: trimMeta(&n.ObjectMeta), Spec: corev1.NodeSpec{Taints: n.Spec.Taints}}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady { // without its heartbeat, which changes all the time
			out.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return out
}

// trimPod keeps who a pod is, where, and whether it is well.
func trimPod(p *corev1.Pod) *corev1.Pod {
	out := &corev1.Pod{
		ObjectMeta: trimMeta(&p.ObjectMeta),
		Spec: corev1.PodSpec{
			NodeName:           p.Spec.NodeName,
			ServiceAccountName: p.Spec.ServiceAccountName,
			HostNetwork:        p.Spec.HostNetwork,
			Containers:         trimContainers(p.Spec.Containers),
			InitContainers:     trimContainers(p.Spec.InitContainers),
			ReadinessGates:     p.Spec.ReadinessGates,
		},
		Status: corev1.PodStatus{Phase: p.Status.Phase, PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs},
	}
	if owner := metav1.GetControllerOfNoCopy(p); owner != nil {
		out.OwnerReferences = []metav1.OwnerReference{{Kind: owner.Kind, Name: owner.Name, Controller: owner.Controller}}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady || c.Type == corev1.ContainersReady {
			out.Status.Conditions = append(out.Status.Conditions, corev1.PodCondition{Type: c.Type, Status: c.Status})
		}
	}
	return out
}

// trimContainers keeps named ports, and which of the containers run on.
func trimContainers(containers []corev1.Container) []corev1.Container {
	var out []corev1.Container
	for _, c := range containers {
		var ports []corev1.ContainerPort
		for _, p := range c.Ports {
			if p.Name != "" {
				ports = append(ports, corev1.ContainerPort{Name: p.Name, ContainerPort: p.ContainerPort, Protocol: p.Protocol})
			}
		}
		if len(ports) > 0 {
			out = append(out, corev1.Container{Name: c.Name, RestartPolicy: c.RestartPolicy, Ports: ports})
		}
	}
	return out
}

// trimService keeps the specification, and what we said about it.
func trimService(s *corev1.Service) *corev1.Service {
	out := &corev1.Service{ObjectMeta: trimMeta(&s.ObjectMeta), Spec: s.Spec}
	out.Spec.SessionAffinityConfig, out.Spec.ExternalIPs, out.Spec.LoadBalancerSourceRanges = nil, nil, nil
	for _, c := range s.Status.Conditions {
		if model.IsOurCondition(c.Type) {
			out.Status.Conditions = append(out.Status.Conditions, c)
		}
	}
	return out
}

// trimSlice keeps addresses, conditions and whose they are.
func trimSlice(s *discoveryapi.EndpointSlice) *discoveryapi.EndpointSlice {
	out := &discoveryapi.EndpointSlice{ObjectMeta: trimMeta(&s.ObjectMeta), AddressType: s.AddressType, Ports: s.Ports}
	out.Labels = nil
	if name, ok := s.Labels[discoveryapi.LabelServiceName]; ok {
		out.Labels = map[string]string{discoveryapi.LabelServiceName: name}
	}
	for _, e := range s.Endpoints {
		kept := discoveryapi.Endpoint{Addresses: e.Addresses, Conditions: e.Conditions}
		if e.TargetRef != nil {
			kept.TargetRef = &corev1.ObjectReference{Kind: e.TargetRef.Kind, Name: e.TargetRef.Name, UID: e.TargetRef.UID}
		}
		out.Endpoints = append(out.Endpoints, kept)
	}
	return out
}

// endpointsTaken counts the endpoints of a slice that do not terminate.
func endpointsTaken(s *discoveryapi.EndpointSlice) int {
	if s == nil {
		return 0
	}
	taken := 0
	for _, e := range s.Endpoints {
		if e.Conditions.Terminating == nil || !*e.Conditions.Terminating {
			taken++
		}
	}
	return taken
}
