package model_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

func TestAutomaticAddresses(t *testing.T) {
	status := func(pairs ...string) (all []*api.ServiceEntryAddress) {
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, &api.ServiceEntryAddress{Host: pairs[i], Value: pairs[i+1]})
		}
		return all
	}
	given := status("a.example", "240.240.0.1", "a.example", "2001:2::1", "b.example", "240.240.0.2")
	tests := []struct {
		name   string
		change func(*networking.ServiceEntry)
		want   string // addresses of a.example
	}{
		{"those of the host, of both families", nil, "240.240.0.1 2001:2::1"},
		{"an entry's own come instead", func(e *networking.ServiceEntry) { e.Spec.Addresses = []string{"10.1.1.1"} }, "10.1.1.1"},
		{"none without resolution: any address is meant", func(e *networking.ServiceEntry) { e.Spec.Resolution = api.ServiceEntry_NONE }, ""},
		{"none when the label opts out", func(e *networking.ServiceEntry) {
			e.Labels = map[string]string{"networking.istio.io/enable-autoallocate-ip": "false"}
		}, ""},
		{"a label that says true", func(e *networking.ServiceEntry) {
			e.Labels = map[string]string{"networking.istio.io/enable-autoallocate-ip": "true"}
		}, "240.240.0.1 2001:2::1"},
		{"one that names no host is of all", func(e *networking.ServiceEntry) { e.Status.Addresses = status("", "240.240.0.9") }, "240.240.0.9"},
		{"one that is none is left out", func(e *networking.ServiceEntry) { e.Status.Addresses = status("a.example", "x") }, ""},
		{"none yet", func(e *networking.ServiceEntry) { e.Status.Addresses = nil }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := &networking.ServiceEntry{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "outside"}}
			e.Spec.Hosts = []string{"a.example", "b.example", "*.c.example"}
			e.Spec.Resolution = api.ServiceEntry_DNS
			e.Status.Addresses = given
			if tt.change != nil {
				tt.change(e)
			}
			m := model.New(model.Config{})
			m.Apply(model.Event{Key: model.Key{Kind: model.KindServiceEntry, Namespace: "shop", Name: "outside"}, Object: e})
			var got []string
			for _, a := range mustService(t, m, "shop/a.example").Addresses {
				addr, _ := netip.AddrFromSlice(a.Address)
				got = append(got, addr.String())
			}
			if text := strings.Join(got, " "); text != tt.want {
				t.Errorf("addresses %q, want %q", text, tt.want)
			}
			if wild := mustService(t, m, "shop/*.c.example"); len(wild.Addresses) > 0 && len(e.Spec.Addresses) == 0 {
				t.Errorf("a wildcard has addresses: %v", wild.Addresses)
			}
		})
	}
}

func TestIngressUsesTheWaypointWhenAskedTo(t *testing.T) {
	const waypoint = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: wp, namespace: shop}
spec: {ports: [{port: 15008}]}
---
`
	ns := "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/ingress-use-waypoint: \"true\"}}\n---\n"
	tests := []struct {
		name string
		text string
		want bool
	}{
		{"label of the service", service(`, labels: {istio.io/use-waypoint: wp, istio.io/ingress-use-waypoint: "true"}`, ""), true},
		{"no label", service(", labels: {istio.io/use-waypoint: wp}", ""), false},
		{"label of the namespace", ns + service(", labels: {istio.io/use-waypoint: wp}", ""), true},
		{"the service's own says no", ns + service(`, labels: {istio.io/use-waypoint: wp, istio.io/ingress-use-waypoint: "false"}`, ""), false},
		{"no waypoint to use", ns + service("", ""), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := mustModel(t, model.Config{}, waypoint+tt.text)
			if got := mustService(t, m, "shop/web.shop.svc.cluster.local").IngressUseWaypoint; got != tt.want {
				t.Errorf("IngressUseWaypoint = %v, want %v", got, tt.want)
			}
		})
	}
}

// A change of one endpoint of a large slice derives that one pod anew.
func TestOnePodOfALargeSlice(t *testing.T) {
	m := mustModel(t, model.Config{}, service("", "ports: [{port: 80}]"))
	slice := func(terminating string) *discoveryapi.EndpointSlice {
		es := &discoveryapi.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{discoveryapi.LabelServiceName: "web"}}, AddressType: discoveryapi.AddressTypeIPv4}
		for i := range 100 {
			name := fmt.Sprintf("web-%02d", i)
			es.Endpoints = append(es.Endpoints, discoveryapi.Endpoint{
				Addresses: []string{fmt.Sprintf("10.0.0.%d", i)}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: name, UID: types.UID(name)},
				Conditions: discoveryapi.EndpointConditions{Terminating: new(name == terminating)},
			})
		}
		return es
	}
	var events []model.Event
	for i := range 100 {
		name := fmt.Sprintf("web-%02d", i)
		events = append(events, model.Event{Key: model.Key{Kind: model.KindPod, Namespace: "shop", Name: name}, Object: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)},
			Status:     corev1.PodStatus{PodIP: fmt.Sprintf("10.0.0.%d", i), Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		}})
	}
	key := model.Key{Kind: model.KindEndpointSlice, Namespace: "shop", Name: "web-1"}
	m.Apply(append(events, model.Event{Key: key, Object: slice("")})...)
	changes := m.Apply(model.Event{Key: key, Object: slice("web-07")})
	if len(changes) != 1 || changes[0].Name != "Kubernetes//Pod/shop/web-07" || !changes[0].Urgent {
		t.Errorf("changes %v, want the pod that terminates, at once", changes)
	}
}
