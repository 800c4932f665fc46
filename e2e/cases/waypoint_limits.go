package cases

import (
	"context"
	"fmt"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// limitedRules name two RateLimits: what begins with /each has one for each caller, what
// begins with /all one for all together.
const limitedRules = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: limited}
spec:
  parentRefs: [{group: "", kind: Service, name: server}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /each}}]
    filters: [{type: ExtensionRef, extensionRef: {group: ambit.dev, kind: RateLimit, name: each}}]
    backendRefs: [{name: server, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /all}}]
    filters: [{type: ExtensionRef, extensionRef: {group: ambit.dev, kind: RateLimit, name: all}}]
    backendRefs: [{name: server, port: 80}]
  - backendRefs: [{name: server, port: 80}]
---
apiVersion: ambit.dev/v1alpha1
kind: RateLimit
metadata: {name: each}
spec: {requests: 20, per: 1h, perIdentity: true}
`

// limitForAll is made later than the rule that names it.
const limitForAll = `
apiVersion: ambit.dev/v1alpha1
kind: RateLimit
metadata: {name: all}
spec: {requests: 20, per: 1h}
`

func waypointLimits(ctx context.Context, e *Env) (string, error) {
	client, err := e.throughWaypoint(ctx, 1) // a limit is one instance's
	if err != nil {
		return "", err
	}
	if err := e.Deploy(ctx, App{Name: "other"}); err != nil {
		return "", err
	}
	other, err := e.Pod(ctx, "other")
	if err != nil {
		return "", err
	}
	ask := func(ctx context.Context, from Pod, path string, n int) (answered int, statuses map[int]int, err error) {
		r, err := from.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: "server:80", Path: path, Count: n, Statuses: true})
		return len(r.Hellos), r.Statuses, err
	}
	if err := e.Apply(ctx, limitedRules); err != nil {
		return "", err
	}
	err = e.Until(ctx, decided, "without its RateLimit a rule answers 500", func(ctx context.Context) (bool, error) {
		_, statuses, err := ask(ctx, client, "/all", 1)
		return statuses[500] == 1, err
	})
	if err != nil {
		return "", err
	}
	if err := e.saidOf(ctx, "httproute", "limited", "PartiallyInvalid", "there is no RateLimit "+e.Namespace+"/all"); err != nil {
		return "", err
	}
	if err := e.Apply(ctx, limitForAll); err != nil {
		return "", err
	}
	for _, name := range []string{"each", "all"} {
		if err := e.saidOf(ctx, "ratelimit", name, `"status":"True"`, "HTTPRoute "+e.Namespace+"/limited"); err != nil {
			return "", err
		}
	}
	const limit, asked = 20, 30
	err = e.Until(ctx, decided, "the limit for all in force", func(ctx context.Context) (bool, error) {
		answered, _, err := ask(ctx, client, "/all", 1)
		return answered == 1, err
	})
	if err != nil {
		return "", err
	}
	for _, tt := range []struct {
		from Pod
		path string
		want int
	}{
		{client, "/all", limit - 1}, {other, "/all", 0}, // one has been asked for
		{client, "/each", limit}, {other, "/each", limit},
		{client, "/", asked},
	} {
		answered, statuses, err := ask(ctx, tt.from, tt.path, asked)
		if err != nil {
			return "", err
		}
		if answered != tt.want || statuses[429] != asked-tt.want {
			return "", fmt.Errorf("of %d requests of %v for %s %d were answered, others %v; want %d, and 429", asked, tt.from, tt.path, answered, statuses, tt.want)
		}
	}
	return fmt.Sprintf("of a rule's %d requests in an hour each of two callers had all where each has its own, and both together where they share them; others got 429, and other rules did not count; without the object the rule was closed", limit), nil
}
