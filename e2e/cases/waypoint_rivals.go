package cases

import (
	"context"
	"fmt"
	"strings"
)

// rivals are two objects about one service, of which one counts. The names order those
// that are made in the same second.
type rivals struct {
	first, second string // kind/name: the one that counts, and the other
	manifests     string // %[1]s is the namespace
	firstSays     string // in its status; %[1]s likewise
	secondSays    string
}

// pairs of objects that contradict each other, each about a service of its own, but for
// those of the Gateway API, which may share one by port.
var pairs = []rivals{
	{
		"grpcroute/a", "httproute/b", `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: b}
spec: {parentRefs: [{group: "", kind: Service, name: routed, port: 80}], rules: [{backendRefs: [{name: routed, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: a}
spec: {parentRefs: [{group: "", kind: Service, name: routed, port: 80}], rules: [{backendRefs: [{name: routed, port: 80}]}]}
`,
		"on port 80 it comes before HTTPRoute %[1]s/b", "on port 80 GRPCRoute %[1]s/a comes first",
	},
	{
		"tcproute/a", "tcproute/b", `
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: a}
spec: {parentRefs: [{group: "", kind: Service, name: routed, port: 7000}], rules: [{backendRefs: [{name: routed, port: 7000}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: b}
spec: {parentRefs: [{group: "", kind: Service, name: routed, port: 7000}], rules: [{backendRefs: [{name: routed, port: 7000}]}]}
`,
		"on port 7000 it comes before TCPRoute %[1]s/b", "on port 7000 TCPRoute %[1]s/a comes first",
	},
	{
		"httproute/mixed", "virtualservice/mixed", `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mixed}
spec: {hosts: [mixed], http: [{route: [{destination: {host: mixed}}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mixed}
spec: {parentRefs: [{group: "", kind: Service, name: mixed}], rules: [{backendRefs: [{name: mixed, port: 80}]}]}
`,
		"it comes before VirtualService %[1]s/mixed", "the service has routes of the Gateway API, which come first",
	},
	{
		"virtualservice/a", "virtualservice/b", `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec: {hosts: [virtual], http: [{route: [{destination: {host: virtual}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: b}
spec: {hosts: [virtual], http: [{route: [{destination: {host: virtual}}]}]}
`,
		"it comes before VirtualService %[1]s/b", "VirtualService %[1]s/a is older or nearer, and comes first",
	},
	{
		"virtualservice/a", "serviceprofile.linkerd.io/virtual.%[1]s.svc.cluster.local", `
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: virtual.%[1]s.svc.cluster.local}
spec: {routes: [{name: all, condition: {pathRegex: "/.*"}}]}
`,
		"it comes before ServiceProfile %[1]s/virtual.%[1]s.svc.cluster.local", "the service has a VirtualService, which comes first",
	},
	{
		"destinationrule/a", "destinationrule/b", `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec: {host: virtual, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: b}
spec: {host: virtual, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
`,
		"it comes before DestinationRule %[1]s/b", "DestinationRule %[1]s/a is older or nearer, and comes first",
	},
	{
		"xbackendtrafficpolicy/a", "xbackendtrafficpolicy/b", `
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: a}
spec: {targetRefs: [{group: "", kind: Service, name: mixed}], retryConstraint: {budget: {percent: 1}}}
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: b}
spec: {targetRefs: [{group: "", kind: Service, name: mixed}], retryConstraint: {budget: {percent: 2}}}
`,
		"it comes before XBackendTrafficPolicy %[1]s/b", "XBackendTrafficPolicy a is older, and comes first",
	},
}

// waypointRivals makes pairs of objects that contradict each other, reads of both what
// became of them, and takes the first away: the other one counts then, and says so.
func waypointRivals(ctx context.Context, e *Env) (string, error) {
	if _, err := e.throughWaypoint(ctx, 1); err != nil {
		return "", err
	}
	for _, name := range []string{"routed", "mixed", "virtual"} {
		service := fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, labels: {%s: waypoint}}\n"+
			"spec: {selector: {app: server}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp-echo, port: 7000}]}\n", name, bind)
		if err := e.Apply(ctx, service); err != nil {
			return "", err
		}
	}
	of := func(text string) string {
		if strings.Contains(text, "%[1]s") {
			return fmt.Sprintf(text, e.Namespace)
		}
		return text
	}
	for _, p := range pairs {
		if err := e.Apply(ctx, of(p.manifests)); err != nil {
			return "", err
		}
	}
	for _, p := range pairs {
		first, second := of(p.first), of(p.second)
		if err := e.saidAbout(ctx, first, of(p.firstSays)); err != nil {
			return "", fmt.Errorf("beside %s: %w", second, err)
		}
		if err := e.saidAbout(ctx, second, of(p.secondSays)); err != nil {
			return "", fmt.Errorf("beside %s: %w", first, err)
		}
	}
	// The same VirtualService stands before two others.
	for _, p := range pairs {
		if _, err := e.Kubectl(ctx, "", "delete", "--ignore-not-found", of(p.first)); err != nil {
			return "", err
		}
	}
	for _, p := range pairs {
		if strings.HasPrefix(p.second, "serviceprofile") {
			continue // the second VirtualService comes first now
		}
		if err := e.saidAbout(ctx, of(p.second), `"status":"True"`); err != nil {
			return "", fmt.Errorf("when %s has gone: %w", of(p.first), err)
		}
		if err := e.silentAbout(ctx, of(p.second), of(p.secondSays)); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d pairs of objects, of 7 kinds: each status named the other one; when the first had gone the second counted", len(pairs)), nil
}

// saidAbout is saidOf for what is called kind/name.
func (e *Env) saidAbout(ctx context.Context, what string, want ...string) error {
	kind, name, _ := strings.Cut(what, "/")
	return e.saidOf(ctx, kind, name, want...)
}

// silentAbout waits until the status of what is called kind/name says something no more.
func (e *Env) silentAbout(ctx context.Context, what, not string) error {
	kind, name, _ := strings.Cut(what, "/")
	return e.Until(ctx, decided, fmt.Sprintf("%s whose status does not say %q", what, not), func(ctx context.Context) (bool, error) {
		text, err := e.Kubectl(ctx, "", "get", kind, name, "-o", "jsonpath={.status}")
		return !strings.Contains(text, not), err
	})
}
