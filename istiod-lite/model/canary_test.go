package model_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// anotherGateway is a Gateway shop/wp2 with its Service and instance.
func anotherGateway(labels string) string {
	return strings.NewReplacer("name: wp,", "name: wp2,", "name: wp}", "name: wp2}", "name: wp-1", "name: wp2-1", "AccountName: wp,", "AccountName: wp2,",
		"10.96.0.9", "10.96.0.8", "10.0.0.9", "10.0.0.8").Replace(waypointGateway(labels, ""))
}

// canaryService is a Service shop/web, with a pod, that asks for wp and a canary.
func canaryService(canary, weight string) string {
	if weight != "" {
		weight = "istio.io/use-waypoint-canary-weight: '" + weight + "'"
	}
	return "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, labels: {" + ask + ", istio.io/use-waypoint-canary: " + canary + "}, annotations: {" + weight + "}}\n" +
		"spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]}\n" +
		"---\napiVersion: v1\nkind: Pod\nmetadata: {name: web-1, namespace: shop, labels: {app: web}}\nspec: {containers: [{name: c}]}\nstatus: {podIP: 10.0.0.1}\n"
}

func TestCanaryWaypoints(t *testing.T) {
	first, second := waypointGateway("", ""), anotherGateway("")
	for _, tt := range []struct {
		name   string
		world  []string
		shares string // hosts and weights
		says   string // reason
		words  string // in the message
	}{
		{"a tenth", []string{first, second, canaryService("wp2", "10")}, "wp.shop.svc.cluster.local 90, wp2.shop.svc.cluster.local 10", "WaypointAccepted", "and 10 % of the connections to its canary shop/wp2"},
		{"nothing said is nothing", []string{first, second, canaryService("wp2", "")}, "wp.shop.svc.cluster.local 100, wp2.shop.svc.cluster.local 0", "WaypointAccepted", "and 0 %"},
		{"everything", []string{first, second, canaryService("wp2", "100")}, "wp.shop.svc.cluster.local 0, wp2.shop.svc.cluster.local 100", "WaypointAccepted", "and 100 %"},
		{"a weight that is none", []string{first, second, canaryService("wp2", "ten")}, "", "CanaryInvalidWeight", `want a whole number from 0 to 100, not "ten"`},
		{"a weight beyond", []string{first, second, canaryService("wp2", "101")}, "", "CanaryInvalidWeight", `not "101"`},
		{"itself", []string{first, canaryService("wp", "10")}, "", "CanarySameAsPrimary", "names the same waypoint"},
		{"a canary that is not there", []string{first, canaryService("wp2", "10")}, "", "CanaryIsNotReady", "waypoint shop/wp has all connections, and its canary none: waypoint shop/wp2 is not ready"},
		{"a canary that serves something else", []string{first, anotherGateway("istio.io/waypoint-for: workload"), canaryService("wp2", "10")}, "", "CanaryIsNotReady", "does not serve services"},
		{"a first one that is not there", []string{second, canaryService("wp2", "10")}, "", "WaypointIsNotReady", "waypoint shop/wp is not ready"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := mustModel(t, model.Config{}, tt.world...)
			s := mustService(t, m, "shop/web.shop.svc.cluster.local")
			if s.GetWaypoint().GetHostname().GetHostname() != ready {
				t.Errorf("the first waypoint is %v", s.GetWaypoint())
			}
			var shares []string
			for _, w := range s.GetWeightedWaypoints() {
				shares = append(shares, fmt.Sprint(w.GetDestination().GetHostname().GetHostname(), " ", w.GetWeight()))
			}
			if got := strings.Join(shares, ", "); got != tt.shares {
				t.Errorf("shares = %q, want %q", got, tt.shares)
			}
			got := ""
			for _, c := range m.Conditions()[model.Key{Kind: model.KindService, Namespace: "shop", Name: "web"}] {
				got += c.String()
			}
			if !strings.Contains(got, " "+tt.says+": ") || !strings.Contains(got, tt.words) {
				t.Errorf("it is said %q, want %s with %q", got, tt.says, tt.words)
			}
		})
	}
}

// Both waypoints get in at the pods, each has the policies that are attached to it, and
// both count as bound.
func TestWhatACanaryMayAndMust(t *testing.T) {
	policy := func(name, gateway string) string {
		return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: " + name + ", namespace: shop}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: " + gateway + "}], rules: [{}]}"
	}
	m := mustModel(t, model.Config{}, waypointGateway("", ""), anotherGateway(""), canaryService("wp2", "10"), policy("p1", "wp"), policy("p2", "wp2"))
	demand := resource[*securityapi.Authorization](t, m, model.TypeAuthorization, "shop/ambit_through_waypoint_web")
	if text := fmt.Sprint(demand.GetRules()); !strings.Contains(text, "/sa/wp\"") || !strings.Contains(text, "/sa/wp2\"") {
		t.Errorf("who may call the pod: %v", text)
	}
	s := resource[*waypointapi.Service](t, m, model.TypeWaypointService, "shop/web.shop.svc.cluster.local")
	if got := fmt.Sprint(s.GetWaypoint().GetName(), s.GetPolicies(), s.GetCanary().GetWaypoint().GetName(), s.GetCanary().GetPolicies()); got != "wp[shop/p1]wp2[shop/p2]" {
		t.Errorf("waypoints and their policies: %s", got)
	}
	var bound []string
	for _, b := range m.Bindings() {
		bound = append(bound, fmt.Sprint(b.Waypoint.Name, " ", b.Canary, " ", b.Refused))
	}
	if got := strings.Join(bound, ", "); got != "wp false , wp2 true " {
		t.Errorf("bindings: %q", got)
	}
	m.Apply(mustEvents(t, canaryService("wp2", "ten"))...)
	for _, b := range m.Bindings() {
		if b.Refused != "" {
			t.Errorf("with a bad weight: %+v", b)
		}
	}
}

// Where a namespace wants traffic to go around a waypoint that fails, its pods let it
// in then, and only then.
func TestDemandWhileTrafficGoesAround(t *testing.T) {
	const demand = "shop/ambit_through_waypoint_web"
	m := mustModel(t, model.Config{}, namespaced("shop", open), waypointGateway("", ""), canaryService("none", ""))
	check := func(when string, want bool) {
		t.Helper()
		there := lookup(m, demand) != nil
		named := strings.Contains(fmt.Sprint(mustWorkload(t, m, "shop/web-1").GetAuthorizationPolicies()), demand)
		if there != want || named != want {
			t.Errorf("%s: the demand stands: %v, the pod names it: %v, want %v", when, there, named, want)
		}
	}
	check("the waypoint is there", true)
	instance := strings.Split(waypointService, "---\n")[1]
	m.Apply(mustEvents(t, strings.ReplaceAll(instance, "'True'", "'False'"))...)
	check("its last instance is not Ready", false)
	for _, b := range m.Bindings() {
		if b.Refused != "" || !strings.Contains(b.Around, "none of its instances") {
			t.Errorf("%+v", b)
		}
	}
	m.Apply(mustEvents(t, instance)...)
	check("it is Ready again", true)
	m.Apply(mustEvents(t, strings.ReplaceAll(instance, "'True'", "'False'")+"---\n"+namespaced("shop", "ambit.dev/on-waypoint-failure: refuse"))...)
	check("it is not Ready, and nobody wants to go around it", true)
}
