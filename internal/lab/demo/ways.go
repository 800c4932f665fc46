package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// openLabel on a namespace, with the value open, has traffic go around waypoints that
// fail.
const openLabel = "ambit.dev/on-waypoint-failure"

// waypointOpen binds the vault to a waypoint that is not there: it is refused, until
// its namespace says that traffic is to go around.
func waypointOpen(ctx context.Context, l *lab.Lab) (evidence string, err error) {
	cart, ledger := l.Pod("shop", "cart"), l.Pod("bank", "ledger")
	log, err := cart.Node.AccessLog()
	if err != nil {
		return "", err
	}
	if err := l.Manifests().Apply("vault", vault()...); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, closeVault(ctx, l)) }()
	err = until(ctx, servedWithin, "the vault is refused by its name", func(ctx context.Context) error {
		if err := ask(ctx, cart, ""); err == nil {
			return errors.New("without a waypoint cart got an answer")
		}
		_, err := log.Wait(ctx, "a refusal that names the waypoint", func(r lab.AccessLine) bool {
			return strings.Contains(r.Error, "unknown waypoint: waypoint bank/waypoint.")
		})
		return err
	})
	if err != nil {
		return "", err
	}
	arrivals, err := ledger.Node.AccessLog()
	if err != nil {
		return "", err
	}
	if err := l.LabelNamespace("bank", openLabel, "open"); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.LabelNamespace("bank", openLabel, "")) }()
	if err := until(ctx, takesEffect, "traffic goes around the waypoint", func(ctx context.Context) error { return ask(ctx, cart, "") }); err != nil {
		return "", err
	}
	rec, err := arrivals.Wait(ctx, "a call of cart at the ledger", func(r lab.AccessLine) bool {
		return r.Direction == "inbound" && r.Error == "" && r.SrcIdentity == cart.Principal()
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("refused by default; with %s: open at the namespace %v came straight to %v, as %s", openLabel, cart, ledger, rec.SrcIdentity), nil
}

const (
	// sharedCalls is how many connections are counted, and canaryShare what part of
	// them the second waypoint is to have, in percent.
	sharedCalls, canaryShare = 400, 25
	// shareSlack is by how many points the share may be off: with so many calls chance
	// stays within it in all but one of ten thousand runs.
	shareSlack = 9
)

// waypointShares gives the vault a second waypoint, which gets a share of the
// connections.
func waypointShares(ctx context.Context, l *lab.Lab) (string, error) {
	return withWaypoint(ctx, l, func(first *lab.Waypoint) (evidence string, err error) {
		second, err := l.StartWaypointAs(ctx, lab.WaypointSpec{Namespace: "bank", Name: "canary", Node: 2, Address: lab.ExtraServiceAddr(4)})
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, l.StopWaypoint(context.WithoutCancel(ctx), second)) }()
		with := fmt.Sprintf("labels: {istio.io/use-waypoint: waypoint, istio.io/use-waypoint-canary: canary}, annotations: {istio.io/use-waypoint-canary-weight: '%d'}", canaryShare)
		if err := l.Manifests().Apply("vault", bankService("vault", with, "ledger", 1)); err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, l.Manifests().Apply("vault", vault()...)) }()
		cart := l.Pod("shop", "cart")
		if err := until(ctx, servedWithin, "the canary gets a call", func(ctx context.Context) error {
			if err := ask(ctx, cart, ""); err != nil {
				return err
			}
			if n, err := served(second); n == 0 {
				return errors.Join(err, errors.New("it has got none"))
			}
			return nil
		}); err != nil {
			return "", err
		}
		before, err := served(second)
		if err != nil {
			return "", err
		}
		r, err := cart.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: vaultAddress(), Count: sharedCalls, Timeout: askTime})
		if err == nil && r.Error != "" {
			err = errors.New(r.Error)
		}
		if err != nil {
			return "", err
		}
		var after int
		err = until(ctx, takesEffect, "the canary has its share", func(context.Context) error {
			if after, err = served(second); err != nil {
				return err
			}
			if got := 100 * (after - before) / sharedCalls; got < canaryShare-shareSlack || got > canaryShare+shareSlack {
				return fmt.Errorf("of %d connections it had %d, want %d %%", sharedCalls, after-before, canaryShare)
			}
			return nil
		})
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("of %d connections %d went through %v, which is to have %d %%, and the others through %v; every one was answered", sharedCalls, after-before, second.Pod, canaryShare, first.Pod), nil
	})
}

// served counts the requests in the log of a waypoint.
func served(w *lab.Waypoint) (int, error) {
	log, err := os.ReadFile(w.Process.Record.Log)
	return strings.Count(string(log), "request complete"), err
}
