package model

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A cluster that makes and deletes namespaces all the time must not cost more and more.
func TestNothingIsLeftOfNamespacesThatWent(t *testing.T) {
	m := New(Config{})
	for i := range 50 {
		name := fmt.Sprint("preview-", i)
		meta := metav1.ObjectMeta{Namespace: name, Name: "web", Labels: map[string]string{"app": "web"}}
		slice := &discoveryapi.EndpointSlice{ObjectMeta: meta, Endpoints: []discoveryapi.Endpoint{{
			Addresses: []string{"10.0.0.1"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "web"},
		}}}
		slice.Labels = map[string]string{discoveryapi.LabelServiceName: "web"}
		there := []Event{
			{Key: Key{Kind: KindNamespace, Name: name}, Object: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}},
			{Key: Key{KindService, name, "web"}, Object: &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Selector: meta.Labels}}},
			{Key: Key{KindPod, name, "web"}, Object: &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{NodeName: "n"}, Status: corev1.PodStatus{PodIP: "10.0.0.1"}}},
			{Key: Key{KindEndpointSlice, name, "web"}, Object: slice},
		}
		m.Apply(there...)
		if len(m.spaces) != 1 || len(m.resources) == 0 {
			t.Fatalf("%d spaces, %d resources while the namespace is there", len(m.spaces), len(m.resources))
		}
		for _, e := range there { // the namespace first, as a watch may tell it
			m.Apply(Event{Key: e.Key})
		}
		m.Apply(Event{Key: Key{KindPod, name, "never-there"}})
	}
	for what, n := range map[string]int{
		"spaces": len(m.spaces), "resources": len(m.resources), "derived": len(m.derived),
		"conditions": len(m.conditions), "onNode": len(m.onNode), "attached": len(m.attached),
	} {
		if n != 0 {
			t.Errorf("%s: %d are left of namespaces that went", what, n)
		}
	}
}

// The label by which a namespace asks for a waypoint counts for endpoints without pods
// too, whichever is heard of first.
func TestNamespaceBindsEndpointsWithoutPods(t *testing.T) {
	meta := metav1.ObjectMeta{Namespace: "shop", Name: "db"}
	slice := &discoveryapi.EndpointSlice{ObjectMeta: meta, AddressType: discoveryapi.AddressTypeIPv4, Endpoints: []discoveryapi.Endpoint{{Addresses: []string{"10.9.0.1"}}}}
	slice.Labels = map[string]string{discoveryapi.LabelServiceName: "db"}
	namespace := func(labels map[string]string) Event {
		return Event{Key: Key{Kind: KindNamespace, Name: "shop"}, Object: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: labels}}}
	}
	endpoints := func(m *Model) (n int) {
		for key := range m.resources {
			if key.Type == TypeWaypointEndpoint {
				n++
			}
		}
		return n
	}
	m := New(Config{})
	m.Apply(namespace(nil),
		Event{Key: Key{KindService, "shop", "db"}, Object: &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 5432}}}}},
		Event{Key: Key{KindEndpointSlice, "shop", "db"}, Object: slice})
	if n := endpoints(m); n != 0 {
		t.Errorf("%d endpoints for waypoints, and nothing is bound to one", n)
	}
	m.Apply(namespace(map[string]string{"istio.io/use-waypoint": "wp"}))
	if n := endpoints(m); n != 1 {
		t.Errorf("%d endpoints for waypoints after the namespace has asked for one, want 1", n)
	}
	m.Apply(namespace(nil))
	if n := endpoints(m); n != 0 {
		t.Errorf("%d endpoints for waypoints are left", n)
	}
}
