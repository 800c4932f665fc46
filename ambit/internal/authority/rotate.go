package authority

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/ambit/internal/check"
	"github.com/ambit-mesh/ambit/ambit/internal/proxies"
	"github.com/ambit-mesh/ambit/istiod-lite/ca"
)

const (
	// lookEvery is how often those who have to acknowledge are asked.
	lookEvery = 2 * time.Second

	// unseenFile is how long a proxy that does not tell what its mounted root file
	// holds is given to read it: the kubelet writes it within its sync period and
	// the age of its cache, a minute and a half at most.
	unseenFile = 90 * time.Second
)

// Rotation says how to rotate.
type Rotation struct {
	From        string   // directory of the new CA in the cacerts layout; empty: a root is made
	DropOld     bool     // trust the old root no more; a step of its own
	SkipNodes   []string // that need not acknowledge
	TrustDomain string   // of the mesh
}

// Rotate goes on with the rotation that is under way, or begins one. It returns
// when everybody has acknowledged, or ctx ends; called again it goes on.
func (a *Authority) Rotate(ctx context.Context, r Rotation) error {
	secret, err := a.secret(ctx)
	if err != nil {
		return err
	}
	m := material(secret.Data)
	if r.DropOld {
		return a.dropOld(ctx, secret, r)
	}
	phase := m.phase()
	if phase == Idle {
		if secret, err = a.begin(ctx, secret, r); err != nil {
			return err
		}
		phase = Trusting
	} else {
		a.Say("going on with the rotation that is under way (%s)", phase)
	}
	if phase == Trusting {
		if secret, err = a.trust(ctx, secret, r); err != nil {
			return err
		}
	}
	if err := a.awaitSwitch(ctx, secret, r); err != nil {
		return err
	}
	a.Say("the new CA signs, and every node shows its certificates; the old root is still trusted")
	a.Say("next: ambit ca rotate --drop-old   trusts it no more; connections that are older than this rotation end then")
	return nil
}

// begin parks the new CA.
func (a *Authority) begin(ctx context.Context, secret *corev1.Secret, r Rotation) (*corev1.Secret, error) {
	if secret.Name == givenSecret && r.From == "" {
		return nil, fmt.Errorf("the CA was given (Secret %s): say with --from where the new one lies", givenSecret)
	}
	fresh, err := newCA(r)
	if err != nil {
		return nil, err
	}
	m, err := material(secret.Data).begin(fresh)
	if err != nil {
		return nil, err
	}
	a.Say("1/2 the new root is to be trusted beside the old one")
	return a.write(ctx, secret, m, Trusting)
}

// newCA makes or reads the new CA, and checks that it can sign.
func newCA(r Rotation) (material, error) {
	authority, err := ca.New(ca.Config{TrustDomain: r.TrustDomain}, zap.NewNop())
	if err != nil {
		return nil, err
	}
	if r.From == "" {
		return authority.MakeRoot()
	}
	m := material{}
	for _, key := range keys() {
		text, err := os.ReadFile(filepath.Join(r.From, key))
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && key != keyKey && key != certKey) {
			return nil, err
		}
		m[key] = text
	}
	if err := authority.Use(r.From, m); err != nil {
		return nil, fmt.Errorf("the new CA: %w", err)
	}
	return m, nil
}

// write updates the Secret, in one step; somebody else's change in between is an
// error.
func (a *Authority) write(ctx context.Context, secret *corev1.Secret, m material, phase Phase) (*corev1.Secret, error) {
	changed := secret.DeepCopy()
	changed.Data = m
	if changed.Annotations == nil {
		changed.Annotations = map[string]string{}
	}
	changed.Annotations[phaseAnnotation] = string(phase)
	if phase == Idle {
		delete(changed.Annotations, phaseAnnotation)
	}
	out, err := a.Client.Kube.CoreV1().Secrets(a.Namespace).Update(ctx, changed, metav1.UpdateOptions{FieldManager: "ambit"})
	if err != nil {
		return nil, fmt.Errorf("write Secret %s/%s: %w", a.Namespace, secret.Name, err)
	}
	return out, nil
}

// trust waits until everybody trusts both roots, and lets the new CA sign.
func (a *Authority) trust(ctx context.Context, secret *corev1.Secret, r Rotation) (*corev1.Secret, error) {
	m := material(secret.Data)
	roots, err := m.roots()
	if err != nil {
		return nil, err
	}
	want := fingerprints(roots)
	untold := false
	err = a.await(ctx, "trust the new root", func(ctx context.Context) (map[string]string, int, error) {
		missing := map[string]string{}
		total, err := a.replicasMissing(ctx, missing, "", want)
		if err != nil {
			return nil, 0, err
		}
		n, err := a.namespacesMissing(ctx, missing, roots)
		if err != nil {
			return nil, 0, err
		}
		nodes, err := a.nodesMissing(ctx, missing, r.SkipNodes, func(d *proxies.Dump) (bool, string) {
			untold = untold || d.ControlPlaneRoots == nil
			return d.Trusts(want)
		})
		return missing, total + n + nodes, err
	})
	if err != nil {
		return nil, err
	}
	if untold {
		a.Say("waiting: a proxy does not tell what its mounted root file holds: %v for the kubelets to write it", unseenFile)
		if err := sleep(ctx, unseenFile); err != nil {
			return nil, err
		}
	}
	if m, err = m.change(); err != nil {
		return nil, err
	}
	a.Say("2/2 the new CA signs")
	return a.write(ctx, secret, m, Switching)
}

// awaitSwitch waits until everybody shows certificates of the CA that signs.
func (a *Authority) awaitSwitch(ctx context.Context, secret *corev1.Secret, r Rotation) error {
	m := material(secret.Data)
	signs, err := decode(m[certKey])
	if err != nil {
		return err
	}
	roots, err := m.ownRoots()
	if err != nil {
		return err
	}
	return a.await(ctx, "show certificates of the new CA", func(ctx context.Context) (map[string]string, int, error) {
		missing := map[string]string{}
		total, err := a.replicasMissing(ctx, missing, proxies.Fingerprint(signs[0]), nil)
		if err != nil {
			return nil, 0, err
		}
		nodes, err := a.nodesMissing(ctx, missing, r.SkipNodes, func(d *proxies.Dump) (bool, string) { return d.Shows(roots) })
		return missing, total + nodes, err
	})
}

// dropOld trusts the old root no more.
func (a *Authority) dropOld(ctx context.Context, secret *corev1.Secret, r Rotation) error {
	m, err := material(secret.Data).drop()
	if err != nil {
		return err
	}
	if err := a.awaitSwitch(ctx, secret, r); err != nil {
		return fmt.Errorf("the old root stays trusted: %w", err)
	}
	if _, err := a.write(ctx, secret, m, Idle); err != nil {
		return err
	}
	a.Say("the old root is trusted no more")
	return nil
}

// await asks until nothing is missing. It says what is, whenever that changes.
func (a *Authority) await(ctx context.Context, what string, ask func(context.Context) (missing map[string]string, total int, err error)) error {
	var said string
	for {
		missing, total, err := ask(ctx)
		if err == nil && len(missing) == 0 {
			a.Say("    all %d %s", total, what)
			return nil
		}
		text := fmt.Sprintf("    %d of %d %s", total-len(missing), total, what)
		if err != nil {
			text = "    " + err.Error()
		}
		if len(missing) > 0 {
			text += ": " + problems(missing)
		}
		if text != said && ctx.Err() == nil {
			a.Say("%s", text)
			said = text
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return fmt.Errorf("gave up waiting: %s; nothing is lost: ambit ca rotate goes on from here (--skip-node leaves out a node that is gone)", strings.TrimSpace(said))
		}
	}
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// replicasMissing notes what replicas of the control plane do not have.
func (a *Authority) replicasMissing(ctx context.Context, missing map[string]string, issuer string, roots []string) (total int, err error) {
	replicas, err := a.askReplicas(ctx)
	if err != nil {
		return 0, err
	}
	if len(replicas) == 0 {
		missing["istiod-lite"] = "no replica runs"
	}
	for _, r := range replicas {
		if problem := replicaProblem(r, issuer, roots); problem != "" {
			missing["pod "+r.Pod] = problem
		}
	}
	return max(1, len(replicas)), nil
}

// namespacesMissing notes namespaces whose ConfigMap does not have all roots.
func (a *Authority) namespacesMissing(ctx context.Context, missing map[string]string, roots []*x509.Certificate) (total int, err error) {
	core := a.Client.Kube.CoreV1()
	namespaces, err := core.Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	published, err := core.ConfigMaps("").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=istio-ca-root-cert"})
	if err != nil {
		return 0, err
	}
	has := map[string]bool{}
	for _, cm := range published.Items {
		have, err := decode([]byte(cm.Data["root-cert.pem"]))
		has[cm.Namespace] = err == nil && len(without(roots, have)) == 0
	}
	for _, ns := range namespaces.Items {
		if ns.Status.Phase == corev1.NamespaceTerminating {
			continue
		}
		total++
		if !has[ns.Name] {
			missing["namespace "+ns.Name] = "its ConfigMap istio-ca-root-cert does not have it yet"
		}
	}
	return total, nil
}

// nodesMissing notes nodes whose proxy does not satisfy ok.
func (a *Authority) nodesMissing(ctx context.Context, missing map[string]string, skip []string, ok func(*proxies.Dump) (bool, string)) (total int, err error) {
	all, err := proxies.Read(ctx, a.Client, a.Namespace)
	if err != nil {
		return 0, err
	}
	for _, p := range all {
		if slices.Contains(skip, p.Node) {
			continue
		}
		total++
		name := "node " + p.Node
		if p.Ending {
			name += " (the proxy that goes)"
		}
		if p.Err != nil {
			missing[name] = p.Err.Error()
		} else if good, why := ok(p.Dump); !good {
			missing[name] = why
		}
	}
	return total, nil
}

// Ends tells whether a certificate that all others rest on ends soon.
func (s *Status) Ends(now time.Time) bool {
	for _, c := range append(slices.Clone(s.Roots), s.Signs) {
		if c.NotAfter.Sub(now) < check.ExpiryWarning {
			return true
		}
	}
	return false
}
