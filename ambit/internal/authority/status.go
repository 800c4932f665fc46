package authority

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/ambit/internal/check"
	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/ambit/internal/proxies"
)

// Status is how it stands with the authority of a mesh.
type Status struct {
	Secret   string        `json:"secret"`
	Phase    Phase         `json:"phase,omitempty"`
	Signs    Certificate   `json:"signs"` // the certificate under which leaves are signed
	Roots    []Certificate `json:"roots"` // that are trusted
	Replicas []Replica     `json:"replicas"`
	Nodes    []Node        `json:"nodes"`
}

// Certificate is one for people.
type Certificate struct {
	Subject     string    `json:"subject"`
	Fingerprint string    `json:"fingerprint"`
	NotAfter    time.Time `json:"notAfter"`
}

// Replica is a replica of the control plane.
type Replica struct {
	Pod     string `json:"pod"`
	InStep  bool   `json:"inStep"`            // it has what the Secret says
	Problem string `json:"problem,omitempty"` // what it says otherwise
}

// Node is what the proxy of a node holds.
type Node struct {
	Node         string    `json:"node"`
	Proxy        string    `json:"proxy"`
	Certificates int       `json:"certificates"`
	FirstEnds    time.Time `json:"firstEnds"` // when the first of them ends
	Trusts       bool      `json:"trusts"`    // all roots
	Problem      string    `json:"problem,omitempty"`
}

// Authority acts on the authority of one installation.
type Authority struct {
	Client    *kube.Client
	Namespace string
	Say       func(format string, args ...any)
}

// secret reads the Secret that counts.
func (a *Authority) secret(ctx context.Context) (*corev1.Secret, error) {
	for _, name := range []string{givenSecret, ownSecret} {
		s, err := a.Client.Kube.CoreV1().Secrets(a.Namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		return s, err
	}
	return nil, fmt.Errorf("there is neither a Secret %s nor %s in namespace %s: is ambit installed there?", givenSecret, ownSecret, a.Namespace)
}

// Status asks everybody.
func (a *Authority) Status(ctx context.Context) (*Status, error) {
	secret, err := a.secret(ctx)
	if err != nil {
		return nil, err
	}
	m := material(secret.Data)
	roots, err := m.roots()
	if err != nil {
		return nil, fmt.Errorf("the Secret %s/%s: %w", a.Namespace, secret.Name, err)
	}
	signs, err := decode(m[certKey])
	if err != nil {
		return nil, fmt.Errorf("the Secret %s/%s: %s: %w", a.Namespace, secret.Name, certKey, err)
	}
	out := &Status{Secret: a.Namespace + "/" + secret.Name, Phase: m.phase()}
	out.Signs = Certificate{signs[0].Subject.String(), proxies.Fingerprint(signs[0]), signs[0].NotAfter}
	for _, r := range roots {
		out.Roots = append(out.Roots, Certificate{r.Subject.String(), proxies.Fingerprint(r), r.NotAfter})
	}
	replicas, err := a.askReplicas(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range replicas {
		problem := replicaProblem(r, proxies.Fingerprint(signs[0]), fingerprints(roots))
		out.Replicas = append(out.Replicas, Replica{r.Pod, problem == "", problem})
	}
	all, err := proxies.Read(ctx, a.Client, a.Namespace)
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		out.Nodes = append(out.Nodes, nodeOf(p, fingerprints(roots)))
	}
	slices.SortFunc(out.Nodes, func(a, b Node) int { return cmp.Compare(a.Node, b.Node) })
	return out, nil
}

// nodeOf says what a proxy holds, and whether it trusts roots.
func nodeOf(p proxies.Proxy, roots []string) Node {
	n := Node{Node: p.Node, Proxy: p.Pod}
	if p.Err != nil {
		n.Problem = p.Err.Error()
		return n
	}
	n.Trusts, n.Problem = p.Dump.Trusts(roots)
	for _, c := range p.Dump.Certificates {
		if !c.Available() {
			continue
		}
		n.Certificates++
		if ends := c.Chain[0].NotAfter; n.FirstEnds.IsZero() || ends.Before(n.FirstEnds) {
			n.FirstEnds = ends
		}
	}
	return n
}

// askReplicas asks every replica of the control plane.
func (a *Authority) askReplicas(ctx context.Context) (out []check.Istiod, err error) {
	pods, err := a.Client.Kube.CoreV1().Pods(a.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=istiod-lite"})
	if err != nil {
		return nil, err
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning {
			out = append(out, check.AskIstiod(ctx, a.Client, pod))
		}
	}
	return out, nil
}

// replicaProblem says what a replica does not have yet.
func replicaProblem(r check.Istiod, issuer string, roots []string) string {
	switch {
	case r.Err != nil:
		return r.Err.Error()
	case r.CA == nil:
		return "it does not tell"
	case r.CA.Error != "":
		return r.CA.Error
	case issuer != "" && r.CA.Issuer != issuer:
		return "it still signs with " + short(r.CA.Issuer)
	}
	for _, root := range roots {
		if !slices.Contains(r.CA.Roots, root) {
			return "it does not have root " + short(root) + " yet"
		}
	}
	return ""
}

// short is a fingerprint as people compare them.
func short(fingerprint string) string {
	return fingerprint[:min(len(fingerprint), 12)]
}

// problems joins names with what is wrong with each.
func problems(of map[string]string) string {
	var out []string
	for name, what := range of {
		out = append(out, name+": "+what)
	}
	slices.Sort(out)
	if len(out) > 3 {
		out = append(out[:3], fmt.Sprintf("and %d more", len(out)-3))
	}
	return strings.Join(out, "; ")
}

// InStep tells whether all replicas and nodes have what the Secret says.
func (s *Status) InStep() bool {
	return !slices.ContainsFunc(s.Replicas, func(r Replica) bool { return !r.InStep }) &&
		!slices.ContainsFunc(s.Nodes, func(n Node) bool { return !n.Trusts })
}
