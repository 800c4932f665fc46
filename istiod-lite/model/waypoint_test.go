package model_test

import (
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// waypointGateway is a Gateway shop/wp and its Service, with labels and
// allowedRoutes.
func waypointGateway(labels, routes string) string {
	return "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: wp, namespace: shop, labels: {" + labels + "}}\n" +
		"spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE" + routes + "}]}\n" +
		"---\n" + waypointService
}

const waypointService = "apiVersion: v1\nkind: Service\nmetadata: {name: wp, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: wp}}\n" +
	"spec: {clusterIP: 10.96.0.9, selector: {gateway.networking.k8s.io/gateway-name: wp}, ports: [{name: mesh, port: 15008}]}\n" +
	"---\napiVersion: v1\nkind: Pod\nmetadata: {name: wp-1, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: wp}}\n" +
	"spec: {serviceAccountName: wp, containers: [{name: c}]}\nstatus: {podIP: 10.0.0.9, conditions: [{type: Ready, status: 'True'}]}\n"

// namespaced is a namespace with labels.
func namespaced(name, labels string) string {
	return "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + name + ", labels: {" + labels + "}}\n"
}

// labelled are a service and a pod of a namespace with labels.
func labelled(namespace, ofService, ofPod string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: " + namespace + ", labels: {" + ofService + "}}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n" +
		"---\napiVersion: v1\nkind: Pod\nmetadata: {name: web-1, namespace: " + namespace + ", labels: {" + ofPod + "}}\nspec: {containers: [{name: c}]}\nstatus: {podIP: 10.0.0.1}\n"
}

const (
	ask    = "istio.io/use-waypoint: wp"
	optOut = "istio.io/use-waypoint: none"
	open   = "ambit.dev/on-waypoint-failure: open"
	across = ask + ", istio.io/use-waypoint-namespace: shop"

	ready    = "wp.shop.svc.cluster.local" // its Service; nothing is there when it is missing
	unusable = "_unusable.wp.shop"         // no Service can be called so
)

func TestWaypoints(t *testing.T) {
	tests := []struct {
		name             string
		ns               string // in which the objects stand; default shop
		world            string
		service, pod     string // labels
		wantService      string // host of the waypoint; empty: none
		wantPod          string
		serviceSays      string // condition: reason
		podSays, spaceIs string
	}{
		{name: "nothing asked for", world: waypointGateway("", "")},
		{name: "service, waypoint there", world: waypointGateway("", ""), service: ask, wantService: ready, serviceSays: "WaypointAccepted"},
		{name: "service, no Gateway: refused", service: ask, wantService: ready, serviceSays: "WaypointIsNotReady"},
		{name: "service, Service without Gateway: refused until it is one", world: waypointService, service: ask, wantService: ready, serviceSays: "WaypointIsNotReady"},
		{name: "service, Gateway without Service: refused", world: strings.Split(waypointGateway("", ""), "---")[0], service: ask, wantService: ready, serviceSays: "WaypointIsNotReady"},
		{name: "namespace, waypoint there", world: namespaced("shop", ask) + "---\n" + waypointGateway("", ""), wantService: ready, spaceIs: "WaypointAccepted"},
		{name: "namespace, no Gateway: services are refused", world: namespaced("shop", ask), wantService: ready, spaceIs: "WaypointIsNotReady"},
		{name: "service opts out", world: namespaced("shop", ask), service: optOut, spaceIs: "WaypointIsNotReady"},
		{name: "namespace opts out of nothing", world: namespaced("shop", optOut)},
		{name: "own label before the namespace's", world: namespaced("shop", "istio.io/use-waypoint: gone") + "---\n" + waypointGateway("", ""), service: ask,
			wantService: ready, serviceSays: "WaypointAccepted", spaceIs: "WaypointIsNotReady"},
		{name: "own label that leads nowhere does not fall back", world: namespaced("shop", ask) + "---\n" + waypointGateway("", ""),
			service: "istio.io/use-waypoint: gone", wantService: "gone.shop.svc.cluster.local", serviceSays: "WaypointIsNotReady", spaceIs: "WaypointAccepted"},
		{name: "pod, no Gateway: refused", pod: ask, wantPod: ready, podSays: "WaypointIsNotReady"},
		{name: "pod, waypoint for services only: refused", world: waypointGateway("", ""), pod: ask, wantPod: unusable, podSays: "UnsupportedTrafficType"},
		{name: "pod, waypoint for workloads", world: waypointGateway("istio.io/waypoint-for: workload", ""), pod: ask, wantPod: ready, podSays: "WaypointAccepted"},
		{name: "pod opts out", world: namespaced("shop", ask) + "---\n" + waypointGateway("istio.io/waypoint-for: workload", ""), pod: optOut, spaceIs: "WaypointAccepted"},
		{name: "service, waypoint for workloads only: refused", world: waypointGateway("istio.io/waypoint-for: workload", ""), service: ask, wantService: unusable, serviceSays: "UnsupportedTrafficType"},
		{name: "service, waypoint for none: refused", world: waypointGateway("istio.io/waypoint-for: none", ""), service: ask, wantService: unusable, serviceSays: "UnsupportedTrafficType"},
		{name: "namespace, waypoint for workloads only", world: namespaced("shop", ask) + "---\n" + waypointGateway("istio.io/waypoint-for: workload", ""), wantPod: ready, spaceIs: "WaypointAccepted"},
		{name: "namespace, waypoint for all", world: namespaced("shop", ask) + "---\n" + waypointGateway("istio.io/waypoint-for: all", ""), wantPod: ready, wantService: ready, spaceIs: "WaypointAccepted"},
		{name: "the waypoint's own objects have none", world: namespaced("shop", ask), service: "gateway.networking.k8s.io/gateway-name: wp", pod: "gateway.networking.k8s.io/gateway-name: wp", spaceIs: "WaypointIsNotReady"},
		{name: "other namespace, not admitted: refused", ns: "books", world: waypointGateway("", ""), service: across, wantService: unusable, serviceSays: "AttachmentDenied"},
		{name: "other namespace, all admitted", ns: "books", world: waypointGateway("", ", allowedRoutes: {namespaces: {from: All}}"), service: across, wantService: ready, serviceSays: "WaypointAccepted"},
		{name: "other namespace, same only: refused", ns: "books", world: waypointGateway("", ", allowedRoutes: {namespaces: {from: Same}}"), service: across, wantService: unusable, serviceSays: "AttachmentDenied"},
		{name: "other namespace, selected", ns: "books", world: namespaced("books", "team: a") + "---\n" + waypointGateway("", ", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}"),
			service: across, wantService: ready, serviceSays: "WaypointAccepted"},
		{name: "other namespace, selected by name", ns: "books", world: waypointGateway("", ", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: books}}}}"),
			service: across, wantService: ready, serviceSays: "WaypointAccepted"},
		{name: "other namespace, not selected: refused", ns: "books", world: waypointGateway("", ", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}"),
			service: across, wantService: unusable, serviceSays: "AttachmentDenied"},
		{name: "open, no Gateway: around it", world: namespaced("shop", open), service: ask, pod: ask, serviceSays: "WaypointIsBypassed", podSays: "WaypointIsBypassed"},
		{name: "open, Gateway without Service: around it", world: namespaced("shop", open+", "+ask) + "---\n" + strings.Split(waypointGateway("", ""), "---")[0], spaceIs: "WaypointIsBypassed"},
		{name: "open, waypoint there: through it", world: namespaced("shop", open) + "---\n" + waypointGateway("", ""), service: ask, wantService: ready, serviceSays: "WaypointAccepted"},
		{name: "open, of a kind that it does not serve: refused", world: namespaced("shop", open) + "---\n" + waypointGateway("", ""), pod: ask, wantPod: unusable, podSays: "UnsupportedTrafficType"},
		{name: "open is said by the namespace of the object, not the waypoint's: refused", ns: "books", world: namespaced("shop", open), service: across, wantService: ready, serviceSays: "WaypointIsNotReady"},
		{name: "namespace asks for one that does not admit it: refused", ns: "books", world: namespaced("books", across) + "---\n" + waypointGateway("", ""),
			wantService: unusable, spaceIs: "AttachmentDenied"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ns := tt.ns
			if ns == "" {
				ns = "shop"
			}
			manifests := []string{labelled(ns, tt.service, tt.pod)}
			if tt.world != "" {
				manifests = append(manifests, tt.world)
			}
			m := mustModel(t, model.Config{}, manifests...)
			service := mustService(t, m, ns+"/web."+ns+".svc.cluster.local").GetWaypoint()
			if got := service.GetHostname().GetHostname(); got != tt.wantService {
				t.Errorf("waypoint of the service = %q, want %q", got, tt.wantService)
			}
			if service != nil && (service.GetHostname().GetNamespace() != "shop" || service.GetHboneMtlsPort() != 15008) {
				t.Errorf("waypoint of the service = %v", service)
			}
			if got := mustWorkload(t, m, ns+"/web-1").GetWaypoint().GetHostname().GetHostname(); got != tt.wantPod {
				t.Errorf("waypoint of the pod = %q, want %q", got, tt.wantPod)
			}
			for key, want := range map[model.Key]string{
				{Kind: model.KindService, Namespace: ns, Name: "web"}: tt.serviceSays,
				{Kind: model.KindPod, Namespace: ns, Name: "web-1"}:   tt.podSays,
				{Kind: model.KindNamespace, Name: ns}:                 tt.spaceIs,
			} {
				wantBound(t, m, key, want)
			}
		})
	}
}

// wantBound checks the reason of the condition of a waypoint, and that one which
// refuses traffic says so and how to get out of it.
func wantBound(t *testing.T, m *model.Model, key model.Key, want string) {
	t.Helper()
	got, message := "", ""
	for _, c := range m.Conditions()[key] {
		if c.Type == model.ConditionBound {
			got, message = c.Reason, c.Message
			if c.True != (c.Reason == model.ReasonWaypointAccepted) {
				t.Errorf("%v: %v", key, c)
			}
		}
	}
	if got != want {
		t.Errorf("%v says %q (%s), want %q", key, got, message, want)
	}
	if want == model.ReasonAround && !strings.Contains(message, "goes around it, without what only a waypoint decides") {
		t.Errorf("%v: %q does not say what that means", key, message)
	}
	if want != "" && want != model.ReasonWaypointAccepted && want != model.ReasonAround {
		for _, words := range []string{"traffic is refused", "istio.io/use-waypoint to none"} {
			if !strings.Contains(message, words) {
				t.Errorf("%v: %q does not say %q", key, message, words)
			}
		}
	}
}

// A ServiceEntry and its endpoints, and a WorkloadEntry, are bound as services
// and workloads are.
func TestWaypointsOfEntries(t *testing.T) {
	entry := "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: ext, namespace: shop, labels: {" + ask + "}}\n" +
		"spec: {hosts: [ext.example], ports: [{number: 80, name: http}], resolution: STATIC, endpoints: [{address: 10.3.0.1}]}\n"
	vm := "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm, namespace: shop, labels: {" + ask + "}}\nspec: {address: 10.4.0.1}\n"
	for _, tt := range []struct{ name, world, service, endpoint, vm string }{
		{"no Gateway", "", ready, "", ready},
		{"for services", waypointGateway("", ""), ready, "", unusable},
		{"for all", waypointGateway("istio.io/waypoint-for: all", ""), ready, ready, ready},
	} {
		t.Run(tt.name, func(t *testing.T) {
			manifests := []string{entry, vm}
			if tt.world != "" {
				manifests = append(manifests, tt.world)
			}
			m := mustModel(t, model.Config{}, manifests...)
			for _, check := range []struct{ what, got, want string }{
				{"entry", mustService(t, m, "shop/ext.example").GetWaypoint().GetHostname().GetHostname(), tt.service},
				{"endpoint", mustAddress(t, m, "Kubernetes/networking.istio.io/ServiceEntry/shop/ext/10.3.0.1").GetWorkload().GetWaypoint().GetHostname().GetHostname(), tt.endpoint},
				{"workload entry", mustAddress(t, m, "Kubernetes/networking.istio.io/WorkloadEntry/shop/vm").GetWorkload().GetWaypoint().GetHostname().GetHostname(), tt.vm},
			} {
				if check.got != check.want {
					t.Errorf("waypoint of the %s = %q, want %q", check.what, check.got, check.want)
				}
			}
		})
	}
}
