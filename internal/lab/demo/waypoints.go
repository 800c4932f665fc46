package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// vault is a service over the ledger that is bound to a waypoint, with two others
// for routes to lead to.
func vault() []any {
	return []any{
		bankService("vault", "labels: {istio.io/use-waypoint: waypoint}", "ledger", 1),
		bankService("vault-old", "labels: {part: old}", "ledger", 2), bankService("vault-new", "labels: {part: new}", "teller", 3),
	}
}

// bankService is a service of the bank over the pods of an app, at the i-th address;
// more is the rest of its metadata.
func bankService(name, more, app string, i int) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s, namespace: bank, %s}
spec: {clusterIP: %s, selector: {app: %s}, ports: [{name: http, port: %d, targetPort: %d}]}
`, name, more, lab.ExtraServiceAddr(i), app, lab.ServicePort, lab.HTTPPort)
}

// vaultAddress is where clients call the vault.
func vaultAddress() string {
	return fmt.Sprintf("%s:%d", lab.ExtraServiceAddr(1), lab.ServicePort)
}

// withWaypoint runs fn while a waypoint serves the vault.
func withWaypoint(ctx context.Context, l *lab.Lab, fn func(w *lab.Waypoint) (string, error)) (evidence string, err error) {
	w, err := l.StartWaypoint(ctx, "bank", "waypoint", 1)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.StopWaypoint(context.WithoutCancel(ctx), w)) }()
	if err := l.Manifests().Apply("vault", vault()...); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, closeVault(ctx, l)) }()
	if err := until(ctx, servedWithin, "the vault is served", func(ctx context.Context) error {
		return ask(ctx, l.Pod("bank", "teller"), "")
	}); err != nil {
		return "", err
	}
	return fn(w)
}

// closeVault takes the vault away, and waits until the ledger lets everybody in again.
func closeVault(ctx context.Context, l *lab.Lab) error {
	undone := l.Manifests().Delete("vault")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takesEffect)
	defer cancel()
	return errors.Join(undone, untilOpen(ctx, l.Pod("shop", "web"), l.Pod("bank", "ledger")))
}

// askTime bounds one call: to an address that is not known yet there is no answer.
const askTime = time.Second

// servedWithin is how long a waypoint that is ready may take until it serves.
const servedWithin = 8 * time.Second

// ask calls the vault once; the error is why there was no answer.
func ask(ctx context.Context, from *lab.Pod, header string) error {
	r, err := from.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: vaultAddress(), Header: header, Timeout: askTime})
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	return err
}

// vaultRule lets the teller GET a path, and nobody else.
func vaultRule(path string) string {
	return `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: vault-rule, namespace: bank}
spec:
  targetRefs: [{group: "", kind: Service, name: vault}]
  rules:
  - from: [{source: {principals: [cluster.local/ns/bank/sa/teller]}}]
    to: [{operation: {methods: [GET], paths: ["` + path + `"]}}]
`
}

// waypointRule asks for a path that a rule allows, and for one that it does not.
func waypointRule(ctx context.Context, l *lab.Lab) (string, error) {
	return withWaypoint(ctx, l, func(w *lab.Waypoint) (evidence string, err error) {
		defer func() { err = errors.Join(err, l.Manifests().Delete("vault-rule")) }()
		teller, cart := l.Pod("bank", "teller"), l.Pod("shop", "cart")
		refuses := func(from *lab.Pod) error {
			return until(ctx, takesEffect, fmt.Sprintf("%v is refused", from), func(ctx context.Context) error {
				switch err := ask(ctx, from, ""); {
				case err == nil:
					return errors.New("still got an answer")
				case !strings.Contains(err.Error(), "403"):
					return err
				}
				return nil
			})
		}
		if err := l.Manifests().Apply("vault-rule", vaultRule("/accounts/*")); err != nil {
			return "", err
		}
		if err := refuses(teller); err != nil {
			return "", err
		}
		if _, err := w.WaitLine(ctx, "403", "bank/vault-rule", teller.Principal()); err != nil {
			return "", err
		}
		if err := l.Manifests().Apply("vault-rule", vaultRule("/")); err != nil {
			return "", err
		}
		if err := until(ctx, takesEffect, "the teller is let in", func(ctx context.Context) error { return ask(ctx, teller, "") }); err != nil {
			return "", err
		}
		if err := refuses(cart); err != nil {
			return "", err
		}
		return fmt.Sprintf("%v: / let in, while only /accounts/* was allowed 403 by bank/vault-rule; %v 403", teller, cart), nil
	})
}

const canaryRoute = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: vault-canary, namespace: bank, creationTimestamp: "2026-01-02T00:00:00Z"}
spec:
  parentRefs: [{group: "", kind: Service, name: vault}]
  rules:
  - matches: [{headers: [{name: x-canary, value: "true"}]}]
    backendRefs: [{name: vault-new, port: 80}]
  - backendRefs: [{name: vault-old, port: 80, weight: 90}, {name: vault-new, port: 80, weight: 10}]
`

// canaryRequests is over how many requests the shares are counted: with so many,
// chance is within two points of 10 % in all but a few of 1,000 runs.
const canaryRequests = 2000

// waypointCanary counts where requests go.
func waypointCanary(ctx context.Context, l *lab.Lab) (string, error) {
	return withWaypoint(ctx, l, func(*lab.Waypoint) (evidence string, err error) {
		if err := l.Manifests().Apply("vault-route", canaryRoute); err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, l.Manifests().Delete("vault-route")) }()
		cart := l.Pod("shop", "cart")
		asked := func(count int, header string) (map[string]int, error) {
			r, err := cart.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: vaultAddress(), Header: header, Count: count, Timeout: askTime})
			if err == nil && r.Error != "" {
				err = errors.New(r.Error)
			}
			got := map[string]int{}
			for _, h := range r.Hellos {
				got[h.Pod]++
			}
			return got, err
		}
		err = until(ctx, servedWithin, "the header leads to the new version", func(context.Context) error {
			got, err := asked(20, "X-Canary: true")
			if err == nil && got["bank/teller"] != 20 {
				err = fmt.Errorf("of 20 with the header: %v", got)
			}
			return err
		})
		if err != nil {
			return "", err
		}
		got, err := asked(canaryRequests, "")
		if err != nil {
			return "", err
		}
		if share := got["bank/teller"]; share < canaryRequests*8/100 || share > canaryRequests*12/100 {
			return "", fmt.Errorf("of %d without the header %d went to the new version, want 10 %% within 2 points", canaryRequests, share)
		}
		return fmt.Sprintf("20 of 20 with the header at the new version; of %d without it %v", canaryRequests, got), nil
	})
}

// waypointAway ends the waypoint: what is bound to it is refused, not sent around it.
func waypointAway(ctx context.Context, l *lab.Lab) (string, error) {
	return withWaypoint(ctx, l, func(w *lab.Waypoint) (string, error) {
		cart := l.Pod("shop", "cart")
		log, err := cart.Node.AccessLog()
		if err != nil {
			return "", err
		}
		if err := w.Process.Stop(); err != nil {
			return "", err
		}
		if err := ask(ctx, cart, ""); err == nil {
			return "", errors.New("without the waypoint cart still got an answer")
		}
		rec, err := log.Wait(ctx, "a refused connection of cart", func(r lab.AccessLine) bool { return r.Direction == "outbound" && r.Error != "" })
		if err != nil {
			return "", err
		}
		return "refused; the caller's record says: " + rec.Error, nil
	})
}

// waypointOnly calls the pod behind the waypoint by its own address.
func waypointOnly(ctx context.Context, l *lab.Lab) (string, error) {
	return withWaypoint(ctx, l, func(*lab.Waypoint) (string, error) {
		cart, ledger := l.Pod("shop", "cart"), l.Pod("bank", "ledger")
		rec, err := refused(ctx, cart, ledger)
		if err != nil {
			return "", err
		}
		if !strings.Contains(rec.Policy+" "+rec.Error, "ambit_through_waypoint_vault") {
			return "", fmt.Errorf("the refusal does not name the waypoint's policy: policy=%q error=%q", rec.Policy, rec.Error)
		}
		start := time.Now()
		if err := ask(ctx, cart, ""); err != nil {
			return "", fmt.Errorf("through the waypoint: %w", err)
		}
		return fmt.Sprintf("%v at %v refused: %s; through the waypoint answered in %v", cart, ledger.Address, rec.Error, time.Since(start).Round(100*time.Microsecond)), nil
	})
}

// Sabotages of the lines about waypoints.
const (
	openVault = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: open-vault, namespace: bank}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}, {group: "", kind: Service, name: vault}], rules: [{}]}
`
	noCart = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-cart, namespace: bank}
spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/cart]}}]}]}
`
	olderRoute = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: half, namespace: bank, creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  parentRefs: [{group: "", kind: Service, name: vault}]
  rules:
  - matches: [{path: {value: /}}]
    backendRefs: [{name: vault-old, port: 80, weight: 50}, {name: vault-new, port: 80, weight: 50}]
`
)

// sameAddress is another service at the vault's address that asks for no waypoint.
func sameAddress() string {
	return bankService("a-vault", "labels: {}", "ledger", 1)
}

// bypass leads clients of the vault to the ledger without a waypoint. The other
// service alone would not do: what is behind the vault refuses all but its waypoint,
// whatever else leads there.
func bypass(ctx context.Context, l *lab.Lab) (func(context.Context) error, error) {
	bound, err := optOut(ctx, l)
	if err != nil {
		return bound, err
	}
	gone, err := withManifest("service-a-vault", sameAddress(), nil)(ctx, l)
	if err != nil {
		return bound, err
	}
	return func(ctx context.Context) error { return errors.Join(gone(ctx), bound(ctx)) }, nil
}

// optOut takes the demand for a waypoint from the ledger.
func optOut(_ context.Context, l *lab.Lab) (func(context.Context) error, error) {
	const label = "ambit.dev/only-through-waypoint"
	ledger := l.Pod("bank", "ledger")
	return func(context.Context) error { return l.Label(ledger, label, "") }, l.Label(ledger, label, "false")
}
