package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// Fault is a sabotage that must turn one line red.
type Fault struct {
	// Name is what --break takes.
	Name string
	// Line is the name of the line that must notice.
	Line string
	// Does says what is broken, and how.
	Does string
	// Sign is part of what the line must then say: a line that is red for
	// another reason has not noticed.
	Sign string

	// apply breaks the mesh; undo repairs it. undo is never nil when err is nil.
	apply func(ctx context.Context, l *lab.Lab) (undo func(context.Context) error, err error)
}

// Faults returns all faults, in the order of their lines. There is at least one
// for each line.
func Faults() []Fault {
	return []Fault{
		{"wrong-identity", "cross-node", "shop/web runs under another service account", "want \"spiffe://cluster.local/ns/shop/sa/web\"", asAccount("cart")},
		{"source-lost", "cross-node", "a nat rule in the server's pod hides the source address", "saw source address", hideSource},
		{"no-local-path", "same-node", "ztunnel of node-1 is started with AMBIT_LOCAL_PATH=off", "want local", withZtunnelEnv(1, "AMBIT_LOCAL_PATH=off")},
		{"strict-everywhere", "outside-to-mesh", "a PeerAuthentication makes the whole mesh STRICT", "outside/visitor to", withManifest("policy-mesh-strict", strictMesh, refusesVisitor)},
		{"wrong-annotation", "mesh-to-outside", "the manifest of the outside pod says that it is in the mesh", "shop/cart to", annotateOutside},
		{"endpoints-gone", "service-spread", "the manifests of two endpoints say not ready", "reached 1 of 3 endpoints", notReady},
		{"mesh-off", "wire", "a nat rule lets the client's packets by its redirection", "could be read on the wire", uncapture},
		{"policy-ignored", "allow", "istiod-lite reads a copy of the manifests that is never changed", "still got an answer", withFrozenManifests},
		{"stolen-account", "deny", "shop/web runs under the service account of shop/cart", "still got an answer", asAccount("cart")},
		{"plaintext-let-through", "strict", "a PeerAuthentication for the workload says PERMISSIVE", "still got an answer", withManifest("policy-permissive", permissiveLedger, nil)},
		{"policy-late", "live-cut", "istiod-lite is stopped (SIGSTOP) and pushes nothing", "lives on", freezeIstiod},
		{"fin-lost", "half-close", "a filter rule in the client's pod drops its FIN", "no answer after the client's end", dropFIN},
		{"server-mute", "server-first", "the programs in the server's pods are stopped (SIGSTOP)", "heard nothing", muteServers},
		{"ca-away", "rotation", "istiod-lite is stopped (SIGSTOP) and signs nothing", "was not renewed", freezeIstiod},
		{"tokens-lost", "istiod-away", "the node tokens are changed, so the restarted istiod-lite knows no node", "is not in force", loseTokens},
		{"socket-gone", "ztunnel-killed", "the agent's socket is moved away, so the new ztunnel hears of no pod", "after the start of the new ztunnel", hideSocket},
		{"rule-outvoted", "waypoint-rule", "another AuthorizationPolicy lets everybody into the vault", "still got an answer", withManifest("policy-open-vault", openVault, nil)},
		{"shares-equal", "waypoint-canary", "an older HTTPRoute without the header gives both versions half", "want 10 %", withManifest("route-half", olderRoute, nil)},
		{"no-retry", "waypoint-retry", "an older HTTPRoute of the vault has no retries", "the client got map[503:1]", withManifest("older-route", vaultRoute("hasty", 1, "matches: [{path: {value: /}}]"), nil)},
		{"no-timeout", "waypoint-timeout", "an older HTTPRoute of the vault allows any time", "the client got 1 answers", withManifest("older-route", vaultRoute("patient", 1, "matches: [{path: {value: /}}]"), nil)},
		{"no-outlier", "waypoint-outlier", "an older DestinationRule of the vault has no outlier detection", "want 3 before", withManifest("older-rule", vaultOutlier("lenient", 1, "connectionPool: {}"), nil)},
		{"waypoint-bypassed", "waypoint-away", "another Service has the vault's address and asks for no waypoint, and the ledger may be reached around it", "still got an answer", bypass},
		{"around-refused", "waypoint-open", "a rule of the bank keeps shop/cart out, whichever way it comes", "until traffic goes around the waypoint", withManifest("policy-no-cart", noCart, nil)},
		{"shares-bypassed", "waypoint-shares", "another Service has the vault's address and asks for no waypoint, and the ledger may be reached around it", "the canary gets a call", bypass},
		{"opted-out", "waypoint-only", "the label of the ledger says that it may be reached around the waypoint", "still got an answer", optOut},
		{"agent-asleep", "leave-mesh", "the agent of the node is stopped (SIGSTOP) and takes nothing away", "does not say within 5 s that shop/cart is outside", freezeAgent},
	}
}

// FaultNamed finds a fault.
func FaultNamed(name string) (Fault, error) {
	var names []string
	for _, f := range Faults() {
		if f.Name == name {
			return f, nil
		}
		names = append(names, f.Name)
	}
	return Fault{}, fmt.Errorf("no fault %q: want one of %s, or all, or list", name, strings.Join(names, ", "))
}

const strictMesh = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: default
  namespace: istio-system
spec:
  mtls:
    mode: STRICT
`

const permissiveLedger = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: ledger
  namespace: bank
spec:
  selector:
    matchLabels:
      app: ledger
  mtls:
    mode: PERMISSIVE
`

// applyFunc is the type of Fault.apply.
type applyFunc = func(ctx context.Context, l *lab.Lab) (func(context.Context) error, error)

// asAccount starts shop/web again under another service account.
func asAccount(account string) applyFunc {
	return func(ctx context.Context, l *lab.Lab) (func(context.Context) error, error) {
		right := l.Pod("shop", "web").PodSpec
		wrong := right
		wrong.ServiceAccount = account
		swap := func(ctx context.Context, to lab.PodSpec) error {
			if err := l.StopPod(ctx, l.Pod("shop", "web")); err != nil {
				return err
			}
			_, err := l.StartPod(ctx, to)
			return err
		}
		return func(ctx context.Context) error { return swap(ctx, right) }, swap(ctx, wrong)
	}
}

func hideSource(_ context.Context, l *lab.Lab) (func(context.Context) error, error) {
	api := l.Pod("books", "api-2")
	return repair(api), api.Masquerade(l.Pod("shop", "web").Address)
}

func uncapture(_ context.Context, l *lab.Lab) (func(context.Context) error, error) {
	web := l.Pod("shop", "web")
	return repair(web), web.Uncapture(l.Pod("books", "api-2").Address)
}

func dropFIN(_ context.Context, l *lab.Lab) (func(context.Context) error, error) {
	web := l.Pod("shop", "web")
	return repair(web), web.DropFIN(labapp.SumPort)
}

// repair undoes the packet rules in pods.
func repair(pods ...*lab.Pod) func(context.Context) error {
	return func(context.Context) error {
		var errs []error
		for _, p := range pods {
			errs = append(errs, p.Repair())
		}
		return errors.Join(errs...)
	}
}

// withZtunnelEnv starts the ztunnel of a node again with a changed environment.
func withZtunnelEnv(node int, env string) applyFunc {
	return func(ctx context.Context, l *lab.Lab) (func(context.Context) error, error) {
		again := func(ctx context.Context, extra ...string) error {
			n := l.Node(node)
			if err := n.Ztunnel.Stop(); err != nil {
				return err
			}
			if err := l.StartZtunnel(ctx, n, extra...); err != nil {
				return err
			}
			return l.WaitZtunnel(ctx, n)
		}
		return func(ctx context.Context) error { return again(ctx) }, again(ctx, env)
	}
}

// withManifest adds a manifest and waits until it is in force.
func withManifest(file, text string, inForce func(context.Context, *lab.Lab) error) applyFunc {
	return func(ctx context.Context, l *lab.Lab) (func(context.Context) error, error) {
		if err := l.Manifests().Apply(file, text); err != nil {
			return nil, err
		}
		undo := func(context.Context) error { return l.Manifests().Delete(file) }
		if inForce == nil {
			return undo, nil
		}
		return undo, inForce(ctx, l)
	}
}

// refusesVisitor waits until the outside pod is refused.
func refusesVisitor(ctx context.Context, l *lab.Lab) error {
	_, err := refused(ctx, l.Pod("outside", "visitor"), l.Pod("books", "api-2"))
	return err
}

// annotateOutside lets the control plane believe that the visitor takes HBONE.
func annotateOutside(ctx context.Context, l *lab.Lab) (func(context.Context) error, error) {
	visitor := l.Pod("outside", "visitor")
	undo := func(context.Context) error { return l.Annotate(visitor, false) }
	if err := l.Annotate(visitor, true); err != nil {
		return nil, err
	}
	return undo, untilSpread(ctx, func() (bool, error) {
		r, err := l.Pod("shop", "cart").Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: visitor.At(labapp.HTTPPort).String()})
		return r.Error != "", err
	})
}

// notReady takes two of three endpoints away.
func notReady(ctx context.Context, l *lab.Lab) (func(context.Context) error, error) {
	set := func(ready bool) error {
		return errors.Join(l.SetReady(l.Pod("books", "api-2"), ready), l.SetReady(l.Pod("books", "api-3"), ready))
	}
	if err := set(false); err != nil {
		return nil, err
	}
	undo := func(context.Context) error { return set(true) }
	return undo, untilSpread(ctx, func() (bool, error) {
		r, err := l.Pod("shop", "web").Do(ctx, labapp.Request{
			Do: labapp.DoHTTP, Address: l.Service("books", "api").AddrPort().String(), Count: 10,
		})
		for _, h := range r.Hellos {
			if h.Pod != "books/api-1" {
				return false, err
			}
		}
		return len(r.Hellos) == 10, err
	})
}

// withFrozenManifests starts istiod-lite on a copy of the manifests.
func withFrozenManifests(ctx context.Context, l *lab.Lab) (func(context.Context) error, error) {
	copyDir := filepath.Join(l.Dir(), "frozen")
	if err := os.CopyFS(copyDir, os.DirFS(l.Manifests().Dir)); err != nil {
		return nil, err
	}
	restart := func(ctx context.Context, dir string) error {
		if err := l.StopIstiod(); err != nil {
			return err
		}
		return l.StartIstiodWith(ctx, dir)
	}
	undo := func(ctx context.Context) error {
		return errors.Join(restart(ctx, l.Manifests().Dir), os.RemoveAll(copyDir))
	}
	return undo, restart(ctx, copyDir)
}

// freezeIstiod stops istiod-lite where it stands.
func freezeIstiod(_ context.Context, l *lab.Lab) (func(context.Context) error, error) {
	p := l.Istiod()
	return func(context.Context) error { return p.Signal(syscall.SIGCONT) }, p.Signal(syscall.SIGSTOP)
}

// freezeAgent stops the agent of shop/cart's node where it stands.
func freezeAgent(_ context.Context, l *lab.Lab) (func(context.Context) error, error) {
	p := l.Pod("shop", "cart").Node.Agent
	return func(context.Context) error { return p.Signal(syscall.SIGCONT) }, p.Signal(syscall.SIGSTOP)
}

// muteServers stops the programs of two pods: the kernel still accepts for them.
func muteServers(_ context.Context, l *lab.Lab) (func(context.Context) error, error) {
	send := func(sig syscall.Signal) error {
		return errors.Join(l.Pod("books", "api-1").Programs.Signal(sig), l.Pod("books", "api-2").Programs.Signal(sig))
	}
	return func(context.Context) error { return send(syscall.SIGCONT) }, send(syscall.SIGSTOP)
}

// loseTokens replaces the tokens of all nodes in the file that istiod-lite reads.
func loseTokens(ctx context.Context, l *lab.Lab) (func(context.Context) error, error) {
	back, err := l.ReplaceTokens()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		return errors.Join(back(), l.StopIstiod(), l.StartIstiod(ctx))
	}, nil
}

// hideSocket moves the socket away at which the agent of node 2 hands out pods.
func hideSocket(_ context.Context, l *lab.Lab) (func(context.Context) error, error) {
	path := l.Pod("books", "api-2").Node.ZDSSocket()
	hidden := path + ".hidden"
	return func(context.Context) error { return os.Rename(hidden, path) }, os.Rename(path, hidden)
}

// untilSpread asks until a sabotage has reached the data plane.
func untilSpread(ctx context.Context, reached func() (bool, error)) error {
	return until(ctx, takesEffect, "the sabotage takes effect", func(context.Context) error {
		ok, err := reached()
		if err == nil && !ok {
			err = errors.New("not yet")
		}
		return err
	})
}
