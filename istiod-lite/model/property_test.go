package model_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/istiod-lite/files"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// Whatever the history, what stands is what a model that is told of the same
// objects at once makes of them; and the changes that were returned lead there.
func TestIncrementalEqualsFromScratch(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 1))
			m := model.New(model.Config{RootNamespace: "root"})
			objects := map[model.Key]model.Object{}
			follower := map[string]string{} // what a client that applies all changes holds
			for step := range 40 {
				var events []model.Event
				for range 1 + r.IntN(3) {
					e := randomEvent(t, r)
					if r.IntN(3) == 0 {
						e.Object = nil
					}
					events = append(events, e)
					if objects[e.Key] = e.Object; e.Object == nil {
						delete(objects, e.Key)
					}
				}
				for _, c := range m.Apply(events...) {
					followChange(t, follower, c)
				}
				scratch := model.New(model.Config{RootNamespace: "root"})
				for key, o := range objects {
					scratch.Apply(model.Event{Key: key, Object: o}) // in the map's order
				}
				got, want := state(m), state(scratch)
				if got != want {
					t.Fatalf("step %d, after %v: incremental\n%s\nfrom scratch\n%s", step, events, got, want)
				}
				if got, want := links(m), links(scratch); got != want {
					t.Fatalf("step %d, after %v: groups and needs, incremental\n%s\nfrom scratch\n%s", step, events, got, want)
				}
				if text := joined(follower); text != want {
					t.Fatalf("step %d: the changes lead to\n%s\nwant\n%s", step, text, want)
				}
			}
		})
	}
}

// followChange applies a change the way a client does.
func followChange(t *testing.T, held map[string]string, c model.Change) {
	t.Helper()
	name := c.Type.String() + " " + c.Name + c.Object.String()
	switch {
	case c.Links:
		if held[name] != c.Resource.Version() {
			t.Errorf("%s is said to be what it was", name)
		}
	case c.Type == model.TypeCondition && len(c.Conditions) > 0:
		held[name] = fmt.Sprint(c.Conditions)
	case c.Type != model.TypeCondition && c.Resource != nil:
		if held[name] == c.Resource.Version() {
			t.Errorf("%s came again in the same version", name)
		}
		held[name] = c.Resource.Version()
	default:
		if _, ok := held[name]; !ok {
			t.Errorf("%s went, but was not there", name)
		}
		delete(held, name)
	}
}

// state writes all that stands.
func state(m *model.Model) string {
	held := map[string]string{}
	for _, r := range m.Resources() {
		held[r.Type.String()+" "+r.Name+model.Key{}.String()] = r.Version()
	}
	for key, conditions := range m.Conditions() {
		held[model.TypeCondition.String()+" "+key.String()] = fmt.Sprint(conditions)
	}
	return joined(held)
}

// links writes what belongs to what and needs what.
func links(m *model.Model) string {
	held := map[string]string{}
	for _, r := range m.Resources() {
		held[r.Type.String()+" "+r.Name] = fmt.Sprint(r.Groups, r.Needs)
	}
	return joined(held)
}

// joined writes a map in order.
func joined(held map[string]string) string {
	var lines []string
	for name, value := range held {
		lines = append(lines, name+" = "+value)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// randomEvent makes an object out of a small world, so that objects meet.
func randomEvent(t *testing.T, r *rand.Rand) model.Event {
	t.Helper()
	pick := func(options ...string) string { return options[r.IntN(len(options))] }
	ns, app := pick("a", "b", "root"), pick("u", "v", "w")
	selector := pick("", "selector: {matchLabels: {app: "+app+"}}, ", "selector: {}, ")
	mode := func() string { return pick("STRICT", "PERMISSIVE", "UNSET", "DISABLE") }
	meta := func(names ...string) string {
		return fmt.Sprintf("metadata: {name: %s, namespace: %s, labels: {app: %s, istio.io/use-waypoint: %s, istio.io/use-waypoint-namespace: %s, istio.io/use-waypoint-canary: %s}, creationTimestamp: %q}\n",
			pick(names...), ns, app, pick("none", "wp", "web", `""`), pick("a", `""`), pick("wp", `""`), pick("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"))
	}
	hosts := pick("[h1]", "[h1, h2]", "[web.a.svc.cluster.local]")
	texts := []string{
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: " + ns + ", labels: {ambit.dev/on-waypoint-failure: " + pick("open", "refuse") + ", istio.io/use-waypoint: " + pick("none", "wp", `""`) + ", istio.io/use-waypoint-canary: " + pick("wp", "web", `""`) + "}, annotations: {istio.io/use-waypoint-canary-weight: '" + pick("10", "x") + "', networking.istio.io/traffic-distribution: " + pick("PreferClose", "Odd") + "}}\n",
		"apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: " + pick("wp", "web") + ", namespace: " + ns + ", labels: {istio.io/waypoint-for: " + pick("all", "none", "service", "workload", `""`) + "}}\nspec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: " + pick("All", "Same", "Selector, selector: {matchLabels: {istio.io/use-waypoint: wp}}") + "}}}]}\n",
		"apiVersion: v1\nkind: Node\nmetadata: {name: " + pick("n1", "n2") + ", labels: {topology.kubernetes.io/zone: " + pick("z1", "z2") + "}}\nstatus: {conditions: [{type: Ready, status: '" + pick("True", "Unknown") + "'}]}\n",
		"apiVersion: v1\nkind: Pod\n" + meta("p1", "p2", "p3") + "spec: {nodeName: " + pick("n1", "n2") + ", containers: [{name: c, ports: [{name: " + pick("http", "sql") + ", containerPort: 8080}]}]}\nstatus: {podIP: 10.0.0." + pick("1", "2") + ", phase: " + pick("Running", "Succeeded") + ", conditions: [{type: Ready, status: '" + pick("True", "False") + "'}, {type: ContainersReady, status: '" + pick("True", "False") + "'}]}\n",
		"apiVersion: v1\nkind: Service\n" + meta("web", "db") + "spec: {type: " + pick("ClusterIP", "ExternalName") + pick("", ", selector: {app: "+app+"}") + ", ports: [{name: p, port: 80, targetPort: " + pick("http", "80") + "}]}\n",
		"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s1, namespace: " + ns + ", labels: {kubernetes.io/service-name: " + pick("web", "db") + "}}\naddressType: IPv4\nports: [{name: p, port: 8080}]\nendpoints: [{addresses: [10.1.0.1]}, {addresses: [10.0.0.1], targetRef: {kind: Pod, name: " + pick("p1", "p2") + "}, conditions: {terminating: " + pick("true", "false") + "}}]\n",
		"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n" + meta("ap1", "ap2") + "spec: {" + selector + "action: " + pick("ALLOW", "DENY", "AUDIT", "CUSTOM, provider: {name: p}") + ", rules: [{to: [{operation: {" + pick("ports: ['80']", "methods: [GET]") + "}}]}]}\n",
		"apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n" + meta("pa1", "pa2") + "spec: {selector: {matchLabels: {app: " + app + "}}, mtls: {mode: " + mode() + "}, portLevelMtls: {80: {mode: " + mode() + "}}}\n",
		"apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n" + meta("pa1", "pa2", "pa3") + "spec: {mtls: {mode: " + mode() + "}}\n",
		"apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n" + meta("we1", "we2") + "spec: {address: 10.2.0." + pick("1", "2") + pick("", ", labels: {app: "+pick("u", "v")+"}") + "}\n",
		"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n" + meta("se1", "se2", "se3") + "spec: {hosts: " + hosts + ", ports: [{number: 80, name: http}], resolution: " + pick("STATIC", "NONE", "DNS") + pick("", ", workloadSelector: {labels: {app: "+app+"}}", ", endpoints: [{address: 10.3.0.1}]") + "}\n",
	}
	route := func(kind, version, rules string) string {
		return "apiVersion: " + version + "\nkind: " + kind + "\n" + meta("r1", "r2") + rules
	}
	texts = append(texts,
		route("HTTPRoute", "gateway.networking.k8s.io/v1", "spec: {parentRefs: [{group: '', kind: Service, name: "+pick("web", "db")+pick("", ", namespace: a", ", port: 80")+"}], rules: [{"+pick("", "filters: [{type: ExtensionRef, extensionRef: {group: ambit.dev, kind: RateLimit, name: "+pick("l1", "l2")+"}}], ")+"backendRefs: [{name: "+pick("web", "db")+", port: "+pick("80", "81")+pick("", ", namespace: b")+"}]}]}\n"),
		route("XBackendTrafficPolicy", "gateway.networking.x-k8s.io/v1alpha1", "spec: {targetRefs: [{group: '', kind: Service, name: "+pick("web", "db")+"}], retryConstraint: {}}\n"),
		"apiVersion: ambit.dev/v1alpha1\nkind: RateLimit\n"+meta("l1", "l2")+"spec: {requests: "+pick("1", "2")+", per: 1s}\n",
		route("VirtualService", "networking.istio.io/v1", "spec: {hosts: ["+pick("web", "h1", "web.a.svc.cluster.local", "")+"], http: [{"+pick("", "match: [{port: 80}], ")+pick("delegate: {name: "+pick("r1", "r2")+", namespace: "+pick("a", "b")+"}",
			"route: [{destination: {host: "+pick("db", "h2", "web.b.svc.cluster.local")+", subset: "+pick("s1", "s2")+"}}]")+"}]}\n"),
		route("DestinationRule", "networking.istio.io/v1", "spec: {host: "+pick("db", "h1", "web.a.svc.cluster.local")+", subsets: [{name: s1, labels: {app: u}}]}\n"),
		"apiVersion: linkerd.io/v1alpha2\nkind: ServiceProfile\nmetadata: {name: web."+ns+".svc.cluster.local, namespace: "+pick("a", "b")+"}\nspec: {routes: [{name: r, condition: {method: GET, pathRegex: /x}, isRetryable: true, timeout: 2s}]}\n",
		route("AuthorizationPolicy", "security.istio.io/v1", "spec: {targetRefs: [{"+pick("group: '', kind: Service, name: web", "group: gateway.networking.k8s.io, kind: Gateway, name: wp", "group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint", "group: networking.istio.io, kind: ServiceEntry, name: se1")+"}], rules: [{}]}\n"),
	)
	return mustEvents(t, texts[r.IntN(len(texts))])[0]
}

// Whatever a manifest says, decoding and translating it never panics, and a
// workload never names a policy that is not published.
func FuzzManifest(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, section := range strings.Split(string(text), "-- apply --\n")[1:] {
			manifests, _, _ := strings.Cut(section, "-- changes --")
			f.Add(manifests)
		}
	}
	f.Fuzz(func(t *testing.T, manifests string) {
		events, err := files.Decode("fuzz.yaml", []byte(manifests))
		if err != nil {
			return
		}
		m := model.New(model.Config{})
		m.Apply(events...)
		published := names(m)
		for _, r := range m.Resources() {
			if r.Type != model.TypeAddress {
				continue
			}
			for _, policy := range mustAddress(t, m, r.Name).GetWorkload().GetAuthorizationPolicies() {
				if !slices.Contains(published, policy) {
					t.Errorf("%s names %s, which is not published", r.Name, policy)
				}
			}
		}
		for i := range events {
			events[i].Object = nil
		}
		m.Apply(events...)
		if left := m.Resources(); len(left) > 0 || len(m.Conditions()) > 0 {
			t.Errorf("when all objects are gone %v and %v are left", left, m.Conditions())
		}
	})
}

// BenchmarkApply measures the translation alone: a mesh of 10,000 pods in 20
// namespaces with 200 services, first as a whole, then one change at a time.
func BenchmarkApply(b *testing.B) {
	var all []model.Event
	for i := range 10_000 {
		ns := fmt.Sprintf("ns-%d", i%20)
		text := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: pod-%d, namespace: %s, labels: {app: app-%d}, annotations: {ambient.istio.io/redirection: enabled}}\nspec: {nodeName: node-%d, serviceAccountName: sa, containers: [{name: c}]}\nstatus: {podIP: 10.%d.%d.%d, conditions: [{type: Ready, status: 'True'}]}\n",
			i, ns, i%200, i%100, i>>16, i>>8&255, i&255)
		all = append(all, mustEvents(b, text)...)
	}
	for i := range 200 {
		all = append(all, mustEvents(b, fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: app-%d, namespace: ns-%d}\nspec: {clusterIP: 10.96.0.%d, selector: {app: app-%d}, ports: [{port: 80}]}\n", i, i%20, i, i))...)
	}
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if got := len(model.New(model.Config{}).Apply(all...)); got != 10_200 {
				b.Fatalf("%d changes", got)
			}
		}
	})
	m := model.New(model.Config{})
	m.Apply(all...)
	b.Run("one pod", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if got := len(m.Apply(model.Event{Key: all[0].Key})) + len(m.Apply(all[0])); got != 2 {
				b.Fatalf("%d changes", got)
			}
		}
	})
	strict := mustEvents(b, peer("istio-system", "default", "2026-01-01T00:00:00Z", "STRICT", ""))[0]
	b.Run("mesh strict and back", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if got := len(m.Apply(strict)) + len(m.Apply(model.Event{Key: strict.Key})); got != 20_002 {
				b.Fatalf("%d changes", got)
			}
		}
	})
}
