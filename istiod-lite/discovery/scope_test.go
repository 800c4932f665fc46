package discovery_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	api "istio.io/api/security/v1beta1"
	typeapi "istio.io/api/type/v1beta1"
	security "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/discovery"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// waypointTypes are what a waypoint asks for.
var waypointTypes = []string{
	model.AddressURL, model.WaypointAuthorizationURL, model.WaypointAuthenticationURL, model.WaypointProviderURL, model.WaypointEndpointURL, model.WaypointServiceURL,
}

// labelled sets labels of an event's object.
func labelled(e model.Event, pairs ...string) model.Event {
	labels := map[string]string{}
	maps.Copy(labels, e.Object.GetLabels())
	for i := 0; i < len(pairs); i += 2 {
		labels[pairs[i]] = pairs[i+1]
	}
	e.Object.SetLabels(labels)
	return e
}

// throughWP binds a service of the namespace to its waypoint.
func throughWP(e model.Event) model.Event { return labelled(e, "istio.io/use-waypoint", "wp") }

// in moves an object to another namespace.
func in(namespace string, e model.Event) model.Event {
	e.Key.Namespace = namespace
	e.Object.SetNamespace(namespace)
	return e
}

// waypointObjects are a Gateway with its Service and one instance, on node n1.
func waypointObjects(name, ip string) []model.Event {
	g := &gateway.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	g.Spec.GatewayClassName = "ambit-waypoint"
	g.Spec.Listeners = []gateway.Listener{{Name: "mesh", Port: 15008, Protocol: "HBONE"}}
	s := service(name, ip, "")
	s.Object.(*corev1.Service).Spec.Selector = map[string]string{"gateway.networking.k8s.io/gateway-name": name}
	p := labelled(pod(name+"-1", "n1", ip[:len(ip)-1]+"9"), "gateway.networking.k8s.io/gateway-name", name)
	p.Object.(*corev1.Pod).Spec.ServiceAccountName = name
	return []model.Event{{Key: model.Key{Kind: model.KindGateway, Namespace: "ns", Name: name}, Object: g}, s, p}
}

// leads is an HTTPRoute of a service that leads to another.
func leads(from, to string) model.Event {
	r := &gateway.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: from}}
	group, kind, port := gateway.Group(""), gateway.Kind("Service"), gateway.PortNumber(80)
	r.Spec.ParentRefs = []gateway.ParentReference{{Group: &group, Kind: &kind, Name: gateway.ObjectName(from)}}
	backend := gateway.HTTPBackendRef{}
	backend.Name, backend.Port = gateway.ObjectName(to), &port
	r.Spec.Rules = []gateway.HTTPRouteRule{{BackendRefs: []gateway.HTTPBackendRef{backend}}}
	return model.Event{Key: model.Key{Kind: model.KindHTTPRoute, Namespace: "ns", Name: from}, Object: r}
}

// selects has a policy apply to the pods with a label.
func selects(e model.Event, app string) model.Event {
	e.Object.(*security.AuthorizationPolicy).Spec.Selector = &typeapi.WorkloadSelector{MatchLabels: map[string]string{"app": app}}
	return e
}

// asks is a policy, attached to a service, whose provider is asked.
func asks(name, target, provider string) model.Event {
	e := allow(name, "anyone")
	spec := &e.Object.(*security.AuthorizationPolicy).Spec
	spec.Action = api.AuthorizationPolicy_CUSTOM
	spec.ActionDetail = &api.AuthorizationPolicy_Provider{Provider: &api.AuthorizationPolicy_ExtensionProvider{Name: provider}}
	spec.TargetRefs = []*typeapi.PolicyTargetReference{{Kind: "Service", Name: target}}
	return e
}

// providers is the configuration of a mesh in which who is asked runs in a service.
func providers(name, service string) model.Event {
	return model.Event{Key: model.Key{Kind: model.KindConfigMap, Namespace: "istio-system", Name: "istio"}, Object: &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istio"},
		Data:       map[string]string{"mesh": fmt.Sprintf("extensionProviders: [{name: %s, envoyExtAuthzGrpc: {service: %s, port: 80}}]", name, service)},
	}}
}

// connectWaypoint opens the stream of a pod that says it is a waypoint, with a token.
func (m *mesh) connectWaypoint(token, podName string) *client {
	c := m.connectAs(token, false)
	delete(c.held, model.AuthorizationURL)
	for _, url := range waypointTypes {
		c.held[url] = map[string]string{}
		c.subscribeAs(url, podName)
	}
	return c
}

// subscribeAs asks for all of a type as a waypoint.
func (c *client) subscribeAs(url, podName string) {
	c.stream.Send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: url, InitialResourceVersions: c.held[url],
		Node: &corev3.Node{Id: "waypoint~10.0.0.1~" + podName + ".ns~ns.svc.cluster.local"},
	})
}

// holds is everything that the client holds, by short names of types.
func (c *client) holds() []string {
	var all []string
	for url, names := range c.held {
		for name := range names {
			all = append(all, url[strings.LastIndexByte(url, '.')+1:]+" "+strings.ReplaceAll(strings.TrimPrefix(name, "Kubernetes//"), ".svc.cluster.local", ""))
		}
	}
	slices.Sort(all)
	return all
}

// settle reads until nothing more comes.
func (c *client) settle() {
	c.t.Helper()
	for {
		select {
		case resp := <-c.responses:
			c.apply(resp)
		case err := <-c.ended:
			c.t.Fatalf("the stream ended: %v", err)
		case <-time.After(quiet):
			return
		}
	}
}

// wantHolds reads until nothing more comes, and the client holds that.
func (c *client) wantHolds(why string, want ...string) {
	c.t.Helper()
	slices.Sort(want)
	deadline := time.Now().Add(patience)
	for c.settle(); !slices.Equal(c.holds(), want); c.settle() {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: the waypoint holds\n%s\nwant\n%s", why, strings.Join(c.holds(), "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestAWaypointSeesWhatIsBoundToItAndWhatThatNeeds(t *testing.T) {
	m := newMesh(t, discovery.Config{})
	m.push(append(waypointObjects("wp", "10.1.0.1"),
		throughWP(service("a", "10.1.1.1", "a")), pod("a", "n1", "10.0.0.1"),
		service("b", "10.1.1.2", "b"), pod("b", "n2", "10.0.0.2"),
		service("c", "10.1.1.3", "c"), pod("c", "n1", "10.0.0.3"),
		in("other", service("ext", "10.1.1.4", "ext")), in("other", pod("ext", "n1", "10.0.0.4")), in("other", allow("theirs", "x")),
		leads("a", "b"), allow("all", "x"), selects(allow("of-a", "x"), "a"), selects(allow("of-c", "x"), "c"),
		asks("ask", "a", "p"), providers("p", "ext.other.svc"), strict(),
	)...)
	bound := []string{
		"Address Pod/ns/wp-1", "Address ns/wp.ns", "Address Pod/ns/a", "Address ns/a.ns", "Service ns/a.ns", "Endpoint Pod/ns/a",
		"Authorization ns/all", "Authorization ns/of-a", "Authorization ns/ask", "Provider p", "Address other/ext.other", "Address Pod/other/ext",
	}
	backend := []string{"Address Pod/ns/b", "Address ns/b.ns", "Service ns/b.ns", "Endpoint Pod/ns/b"}
	for _, token := range []string{"pod ns/wp-1", "node n1"} {
		c := m.connectWaypoint(token, "wp-1")
		c.wantHolds(token, append(backend, bound...)...)
		c.cancel()
	}

	c := m.connectWaypoint("pod ns/wp-1", "wp-1")
	c.wantHolds("at first", append(backend, bound...)...)
	m.push(gone(leads("a", "b")))
	c.wantHolds("a route that goes takes what it leads to along", bound...)
	m.push(pod("b", "n1", "10.0.0.22"), in("other", pod("else", "n1", "10.0.0.23")))
	c.wantIdle("changes elsewhere are no news")
	m.push(throughWP(service("c", "10.1.1.3", "c")))
	c.wantHolds("what is bound comes", append(bound, "Address Pod/ns/c", "Address ns/c.ns", "Service ns/c.ns", "Endpoint Pod/ns/c", "Authorization ns/of-c")...)
	m.push(service("c", "10.1.1.3", "c"))
	c.wantHolds("and goes", bound...)
	m.push(gone(asks("ask", "a", "p")))
	c.wantHolds("who is not asked is not needed", slices.DeleteFunc(slices.Clone(bound), func(s string) bool {
		return strings.Contains(s, "ext") || s == "Provider p" || strings.Contains(s, "ask")
	})...)
	m.push(throughWP(service("a", "10.1.1.1", "nobody")), gone(pod("a", "", "")))
	c.wantHolds("without endpoints", "Address Pod/ns/wp-1", "Address ns/wp.ns", "Address ns/a.ns", "Service ns/a.ns", "Authorization ns/all")
	m.push(pod("new", "n1", "10.0.0.7"), throughWP(service("a", "10.1.1.1", "new")))
	c.wantHolds("with others", "Address Pod/ns/wp-1", "Address ns/wp.ns", "Address ns/a.ns", "Service ns/a.ns", "Address Pod/ns/new", "Endpoint Pod/ns/new", "Authorization ns/all")

	// What it held before it lost the connection, and may not have now, goes.
	held := c.held
	c.cancel()
	again := m.connectAs("pod ns/wp-1", false)
	again.held = held
	again.held[model.AddressURL]["Kubernetes//Pod/ns/c"] = "old"
	for _, url := range waypointTypes {
		again.subscribeAs(url, "wp-1")
	}
	again.wantHolds("again", "Address Pod/ns/wp-1", "Address ns/wp.ns", "Address ns/a.ns", "Service ns/a.ns", "Address Pod/ns/new", "Endpoint Pod/ns/new", "Authorization ns/all")

	// What it asks for by name it gets only if it may have it.
	again.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: model.AddressURL, ResourceNamesSubscribe: []string{"ns/b.ns.svc.cluster.local", "/10.0.0.3", "Kubernetes//Pod/ns/c"}})
	again.want("nothing of others", "Address: -/10.0.0.3 -Pod/ns/c -ns/b.ns.svc.cluster.local")
}

func TestWhoIsBelievedToBeAWaypoint(t *testing.T) {
	m := newMesh(t, discovery.Config{Reprove: 20 * time.Millisecond})
	stranger := labelled(pod("stranger", "n1", "10.0.0.8"), "gateway.networking.k8s.io/gateway-name", "wp")
	m.push(append(waypointObjects("wp", "10.1.0.1"), stranger, pod("app", "n1", "10.0.0.9"),
		labelled(pod("lost", "n1", "10.0.0.7"), "gateway.networking.k8s.io/gateway-name", "nobody"))...)
	for _, tt := range []struct{ name, token, pod, want string }{
		{"the Gateway's account", "pod ns/wp-1", "wp-1", ""},
		{"the proof of its node", "node n1", "wp-1", ""},
		{"the proof of another node", "node n2", "wp-1", `PermissionDenied desc = neither the proxy of a node nor of a Gateway: pod ns/wp-1 does not run on node "n2"`},
		{"the label without the account", "pod ns/stranger", "stranger", `service account "default", which is not that of the proxy of Gateway wp`},
		{"the same by its node", "node n1", "stranger", `service account "default", which is not that of the proxy of Gateway wp`},
		{"no label", "pod ns/app", "app", "PermissionDenied desc = neither the proxy of a node nor of a Gateway: pod ns/app is of no Gateway"},
		{"a Gateway that is not there", "pod ns/lost", "lost", "of Gateway nobody, which is not there"},
		{"a pod that nobody knows", "pod ns/none", "none", "Unavailable desc = cannot tell who calls"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := m.connectWaypoint(tt.token, tt.pod)
			c.t = t
			if tt.want != "" {
				c.wantEnd("refused", tt.want)
				return
			}
			c.next("served")
		})
	}

	t.Run("the account is taken away", func(t *testing.T) {
		c := m.connectWaypoint("pod ns/wp-1", "wp-1")
		c.t = t
		c.next("served")
		other := waypointObjects("wp", "10.1.0.1")[0]
		other.Object.SetAnnotations(map[string]string{"gateway.istio.io/service-account": "another"})
		m.push(other)
		c.wantEnd("cut", "which is not that of the proxy of Gateway wp")
	})
}

// The oracle of a scope that follows changes is one that is found anew: whatever
// happens, who has been connected holds what somebody gets who comes now.
func TestAScopeThatFollowsChangesIsTheOneFoundAnew(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 7))
	m := newMesh(t, discovery.Config{Debounce: time.Microsecond})
	m.push(append(waypointObjects("wp", "10.1.0.1"), waypointObjects("wq", "10.2.0.1")...)...)
	old := m.connectWaypoint("pod ns/wp-1", "wp-1")
	apps := strings.Split("a b c d", " ")
	app := func() string { return apps[rng.IntN(len(apps))] }
	for round := range 150 {
		var events []model.Event
		for range 1 + rng.IntN(3) {
			name := app()
			e := []func() model.Event{
				func() model.Event { return throughWP(service(name, "10.1.1."+name, app())) },
				func() model.Event {
					return labelled(service(name, "10.1.1."+name, app()), "istio.io/use-waypoint", "wq")
				},
				func() model.Event { return service(name, "10.1.1."+name, app()) },
				func() model.Event { return pod(name, "n1", fmt.Sprint("10.0.0.", 1+rng.IntN(9))) },
				func() model.Event { return labelled(pod(name, "n1", "10.0.0.1"), "istio.io/use-waypoint", "wp") },
				func() model.Event { return leads(name, app()) },
				func() model.Event { return allow(name, "x") },
				func() model.Event { return selects(allow(name, "x"), app()) },
				func() model.Event { return asks(name, app(), "p") },
				func() model.Event { return providers("p", app()+".ns.svc") },
				func() model.Event { return providers("p", app()) },
			}[rng.IntN(11)]()
			if e.Key.Kind == model.KindService {
				e.Object.(*corev1.Service).Spec.ClusterIP = fmt.Sprint("10.1.1.", strings.Index("abcd", e.Key.Name)+1)
			}
			if rng.IntN(3) == 0 {
				e = gone(e)
			}
			events = append(events, e)
		}
		m.push(events...)
		if round%5 != 0 {
			continue
		}
		fresh := m.connectWaypoint("pod ns/wp-1", "wp-1")
		for range waypointTypes {
			fresh.next("everything")
		}
		old.settle()
		if !maps.EqualFunc(old.held, fresh.held, func(a, b map[string]string) bool { return maps.Equal(a, b) }) {
			t.Fatalf("round %d: who stays holds\n%s\nwho comes\n%s", round, strings.Join(old.holds(), "\n"), strings.Join(fresh.holds(), "\n"))
		}
		fresh.cancel()
	}
}
