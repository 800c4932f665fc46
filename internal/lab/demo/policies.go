package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lab/labapp"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// takesEffect is how long a manifest may take until it is in force everywhere.
const takesEffect = 3 * time.Second

const allowTeller = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: only-tellers
  namespace: bank
spec:
  selector:
    matchLabels:
      app: ledger
  action: ALLOW
  rules:
  - from:
    - source:
        principals: ["cluster.local/ns/bank/sa/teller"]
`

const denyWeb = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: no-web
  namespace: bank
spec:
  selector:
    matchLabels:
      app: ledger
  action: DENY
  rules:
  - from:
    - source:
        principals: ["cluster.local/ns/shop/sa/web"]
`

const denyShop = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: no-shop
  namespace: bank
spec:
  selector:
    matchLabels:
      app: ledger
  action: DENY
  rules:
  - from:
    - source:
        namespaces: ["shop"]
`

const strictBank = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: default
  namespace: bank
spec:
  mtls:
    mode: STRICT
`

// allowRule lets only the teller call the ledger.
func allowRule(ctx context.Context, l *lab.Lab) (evidence string, err error) {
	undo, err := applyPolicy(ctx, l, "policy-only-tellers", allowTeller)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, undo()) }()

	web, teller, ledger := l.Pod("shop", "web"), l.Pod("bank", "teller"), l.Pod("bank", "ledger")
	rec, err := refused(ctx, web, ledger)
	if err != nil {
		return "", err
	}
	// That no ALLOW rule matched is the reason; the one that there is must be
	// named, so that a person knows where to look.
	if !strings.Contains(rec.Policy+" "+rec.Error, "bank/only-tellers") {
		return "", fmt.Errorf("the refusal does not name bank/only-tellers: policy=%q error=%q", rec.Policy, rec.Error)
	}
	ok, err := helloThrough(ctx, teller, ledger, ledger.At(labapp.HTTPPort), identityOf("bank", "teller"))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%v let in by %s; %v refused: %s", teller, ok.Policy, web, rec.Error), nil
}

// denyRule keeps the web pod away from the ledger.
func denyRule(ctx context.Context, l *lab.Lab) (evidence string, err error) {
	undo, err := applyPolicy(ctx, l, "policy-no-web", denyWeb)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, undo()) }()

	web, cart, ledger := l.Pod("shop", "web"), l.Pod("shop", "cart"), l.Pod("bank", "ledger")
	rec, err := refused(ctx, web, ledger)
	if err != nil {
		return "", err
	}
	if !strings.Contains(rec.Policy+" "+rec.Error, "bank/no-web") {
		return "", fmt.Errorf("the refusal does not name bank/no-web: policy=%q error=%q", rec.Policy, rec.Error)
	}
	if _, err := helloThrough(ctx, cart, ledger, ledger.At(labapp.HTTPPort), identityOf("shop", "cart")); err != nil {
		return "", fmt.Errorf("the rule does not name %v: %w", cart, err)
	}
	return fmt.Sprintf("%v refused: %s; %v let in", web, rec.Error, cart), nil
}

// strict refuses plaintext, and not the mesh.
func strict(ctx context.Context, l *lab.Lab) (evidence string, err error) {
	visitor, web, ledger := l.Pod("outside", "visitor"), l.Pod("shop", "web"), l.Pod("bank", "ledger")
	if _, err := visitor.Hello(ctx, ledger.At(labapp.HTTPPort)); err != nil {
		return "", fmt.Errorf("before STRICT: %w", err)
	}
	undo, err := applyPolicy(ctx, l, "policy-strict", strictBank)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, undo()) }()
	rec, err := refused(ctx, visitor, ledger)
	if err != nil {
		return "", err
	}
	if _, err := helloThrough(ctx, web, ledger, ledger.At(labapp.HTTPPort), identityOf("shop", "web")); err != nil {
		return "", fmt.Errorf("STRICT must not stop %v: %w", web, err)
	}
	return fmt.Sprintf("%v in plaintext refused: %s; %v over mTLS let in", visitor, rec.Error, web), nil
}

// applyPolicy writes a manifest; undo removes it and waits until the ledger is
// open for all again, so that lines do not meet.
func applyPolicy(ctx context.Context, l *lab.Lab, file, text string) (undo func() error, err error) {
	if err := l.Manifests().Apply(file, text); err != nil {
		return nil, err
	}
	return func() error {
		if err := l.Manifests().Delete(file); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, takesEffect)
		defer cancel()
		for _, from := range []*lab.Pod{l.Pod("shop", "web"), l.Pod("outside", "visitor")} {
			if err := untilOpen(ctx, from, l.Pod("bank", "ledger")); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// untilOpen asks until there is an answer.
func untilOpen(ctx context.Context, from, to *lab.Pod) error {
	for {
		_, err := from.Hello(ctx, to.At(labapp.HTTPPort))
		if err == nil {
			return nil
		}
		if lifecycle.Sleep(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("after the policy was taken away: %w", err)
		}
	}
}

// refused asks until the server's ztunnel refuses, and returns the record of
// that. Before the policy is in force there are answers.
func refused(ctx context.Context, from, to *lab.Pod) (lab.AccessLine, error) {
	log, err := to.Node.AccessLog()
	if err != nil {
		return lab.AccessLine{}, err
	}
	deadline := time.Now().Add(takesEffect)
	for {
		r, err := from.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: to.At(labapp.HTTPPort).String()})
		if err != nil {
			return lab.AccessLine{}, err
		}
		if r.Error != "" {
			break
		}
		if time.Now().After(deadline) {
			return lab.AccessLine{}, fmt.Errorf("%v still got an answer from %v after %v", from, to, takesEffect)
		}
		if err := lifecycle.Sleep(ctx, 20*time.Millisecond); err != nil {
			return lab.AccessLine{}, err
		}
	}
	return log.Wait(ctx, fmt.Sprintf("a refused connection from %v to %v", from, to), func(r lab.AccessLine) bool {
		return r.Direction == "inbound" && r.From(from.Address) && r.To(to.At(labapp.HTTPPort)) && strings.Contains(r.Error, "policy")
	})
}

// cutWithin is the promise of liveCut.
const cutWithin = time.Second

// denyShopInBank is denyShop for the whole namespace.
const denyShopInBank = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: no-shop
  namespace: bank
spec:
  action: DENY
  rules:
  - from:
    - source:
        namespaces: ["shop"]
`

// liveCut changes the policies of a workload under its connections.
func liveCut(ctx context.Context, l *lab.Lab) (string, error) {
	return cutBy(ctx, l, denyShop)
}

// liveCutByNamespace changes those of a namespace: the Rust ztunnel evaluates a
// live connection with the workload as it was when the connection began, so a
// policy that the workload names only since then does not cut there.
func liveCutByNamespace(ctx context.Context, l *lab.Lab) (string, error) {
	return cutBy(ctx, l, denyShopInBank)
}

// cutBy holds connections to a ticker, across nodes and on one node, and adds a
// policy under them.
func cutBy(ctx context.Context, l *lab.Lab, policy string) (evidence string, err error) {
	ledger := l.Pod("bank", "ledger")
	var live []*lab.Session
	for _, from := range []*lab.Pod{l.Pod("shop", "web"), l.Pod("shop", "cart")} {
		s, err := hold(ctx, from, ledger)
		if err != nil {
			return "", err
		}
		defer s.Close()
		live = append(live, s)
	}
	undo, err := applyPolicy(ctx, l, "policy-no-shop", policy)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, undo()) }()
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, cutWithin)
	defer cancel()
	var took []string
	for _, s := range live {
		r, err := untilDone(ctx, s)
		if err != nil {
			return "", fmt.Errorf("the connection lives on %v after the policy came: %w", cutWithin, err)
		}
		took = append(took, fmt.Sprintf("%v (%s)", time.Since(start).Round(time.Millisecond), r.Ended))
	}
	return "connections across nodes and on one node cut after the manifest was written: " + strings.Join(took, ", "), nil
}

// hold makes a connection to the ticker of a pod and waits for its first line.
func hold(ctx context.Context, from, to *lab.Pod) (*lab.Session, error) {
	s, err := from.Begin(ctx, labapp.Request{Do: labapp.DoWatch, Address: to.At(labapp.TickerPort).String(), Timeout: 3 * time.Second})
	if err != nil {
		return nil, err
	}
	r, err := s.Next(ctx)
	if err == nil && r.Done {
		err = errors.New(r.Error)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("no connection from %v to %v: %w", from, to, err)
	}
	return s, nil
}

// untilDone reads the lines of a client until its last one.
func untilDone(ctx context.Context, s *lab.Session) (labapp.Reply, error) {
	for {
		if r, err := s.Next(ctx); err != nil || r.Done {
			return r, err
		}
	}
}
