package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// withRule runs fn while a waypoint serves the vault by what a manifest says.
func withRule(ctx context.Context, l *lab.Lab, file, manifest string, fn func(cart *lab.Pod) (string, error)) (string, error) {
	return withWaypoint(ctx, l, func(*lab.Waypoint) (evidence string, err error) {
		if err := l.Manifests().Apply(file, manifest); err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, l.Manifests().Delete(file)) }()
		return fn(l.Pod("shop", "cart"))
	})
}

// askMany asks the vault several times and counts answers other than 200.
func askMany(ctx context.Context, from *lab.Pod, count int, header string) (labapp.Reply, error) {
	r, err := from.Do(ctx, labapp.Request{
		Do: labapp.DoHTTP, Address: vaultAddress(), Header: header, Count: count, Statuses: true, Timeout: 5 * time.Second,
	})
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	return r, err
}

// vaultRoute is a route of the vault with one rule.
func vaultRoute(name string, day int, rule string) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: bank, creationTimestamp: "2026-01-%02dT00:00:00Z"}
spec:
  parentRefs: [{group: "", kind: Service, name: vault}]
  rules: [{%s, backendRefs: [{name: vault-old, port: 80}]}]
`, name, day, rule)
}

// failures is how many times a request fails before it is answered.
const failures = 2

// waypointRetry asks for what fails twice and is then answered.
func waypointRetry(ctx context.Context, l *lab.Lab) (string, error) {
	route := vaultRoute("vault-retry", 2, `retry: {attempts: 3, codes: [503], backoff: 10ms}`)
	return withRule(ctx, l, "vault-route", route, func(cart *lab.Pod) (string, error) {
		var evidence string
		n := 0
		err := until(ctx, takesEffect, "a request that fails twice is answered", func(ctx context.Context) error {
			n++
			r, err := askMany(ctx, cart, 1, fmt.Sprintf("%s: demo-%d-%d %d", labapp.AskFailFirst, time.Now().UnixNano(), n, failures))
			if err != nil {
				return err
			}
			if len(r.Hellos) != 1 || r.Hellos[0].Try != failures+1 {
				return fmt.Errorf("the client got %v, and tries %v", r.Statuses, r.Hellos)
			}
			evidence = fmt.Sprintf("one request of %v: the server said 503 twice, the client got 200 from try %d", cart, r.Hellos[0].Try)
			return nil
		})
		return evidence, err
	})
}

const (
	// routeTimeout is what the route allows a request.
	routeTimeout = 200 * time.Millisecond
	// serverWait is how long the server takes: so much longer that the two cannot be
	// mixed up on a busy machine.
	serverWait = 2 * time.Second
)

// waypointTimeout asks for what takes longer than its route allows.
func waypointTimeout(ctx context.Context, l *lab.Lab) (string, error) {
	route := vaultRoute("vault-timeout", 2, fmt.Sprintf(`timeouts: {request: %v}`, routeTimeout))
	return withRule(ctx, l, "vault-route", route, func(cart *lab.Pod) (string, error) {
		var evidence string
		err := until(ctx, servedWithin, "a request that takes too long is given up", func(ctx context.Context) error {
			start := time.Now()
			r, err := askMany(ctx, cart, 1, fmt.Sprintf("%s: %v", labapp.AskWait, serverWait))
			took := time.Since(start)
			if err != nil {
				return err
			}
			if r.Statuses[504] != 1 || took >= serverWait {
				return fmt.Errorf("after %v the client got %d answers and %v", took.Round(time.Millisecond), len(r.Hellos), r.Statuses)
			}
			evidence = fmt.Sprintf("the server takes %v, the route allows %v: 504 after %v", serverWait, routeTimeout, took.Round(time.Millisecond))
			return nil
		})
		return evidence, err
	})
}

// outlierAfter is after how many failures in a row an endpoint is put out.
const outlierAfter = 3

// vaultOutlier puts an endpoint out.
func vaultOutlier(name string, day int, detection string) string {
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: %s, namespace: bank, creationTimestamp: "2026-01-%02dT00:00:00Z"}
spec:
  host: vault.bank.svc.cluster.local
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, %s}
`, name, day, detection)
}

// secondEndpoint puts the teller behind the vault as well.
func secondEndpoint(ctx context.Context, l *lab.Lab, fn func() (string, error)) (evidence string, err error) {
	const label = "app"
	teller := l.Pod("bank", "teller")
	if err := l.Label(teller, label, "ledger"); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.Label(teller, label, teller.App)) }()
	return fn()
}

// waypointOutlier has one of two endpoints fail, until it is put out.
func waypointOutlier(ctx context.Context, l *lab.Lab) (string, error) {
	rule := vaultOutlier("vault-outlier", 2, fmt.Sprintf("outlierDetection: {consecutive5xxErrors: %d, baseEjectionTime: 60s, maxEjectionPercent: 50}", outlierAfter))
	return withRule(ctx, l, "vault-outlier", rule, func(cart *lab.Pod) (string, error) {
		return secondEndpoint(ctx, l, func() (string, error) {
			err := until(ctx, servedWithin, "two pods are behind the vault", func(ctx context.Context) error {
				r, err := askMany(ctx, cart, 10, "")
				seen := map[string]bool{}
				for _, h := range r.Hellos {
					seen[h.Pod] = true
				}
				if err == nil && len(seen) != 2 {
					err = fmt.Errorf("10 requests reached %v", seen)
				}
				return err
			})
			if err != nil {
				return "", err
			}
			const count = 40
			r, err := askMany(ctx, cart, count, labapp.AskFailAt+": bank/teller")
			if err != nil {
				return "", err
			}
			if r.Statuses[503] != outlierAfter {
				return "", fmt.Errorf("of %d requests %v failed, want %d before the endpoint is put out", count, r.Statuses, outlierAfter)
			}
			return fmt.Sprintf("of %d requests, two endpoints in turn, one of them failing: %d got 503, then it was put out and %d were answered", count, outlierAfter, len(r.Hellos)), nil
		})
	})
}
