package istiodlite_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/e2e/kubetest"
	"github.com/ambit-mesh/ambit/istiod-lite/ca"
)

// freshRoot is a new root, as the values of a Secret.
func freshRoot(t *testing.T) map[string][]byte {
	t.Helper()
	a, err := ca.New(ca.Config{TrustDomain: "cluster.local"}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	values, err := a.MakeRoot()
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// setSecret makes or replaces a Secret.
func (x *installation) setSecret(name string, values map[string][]byte) {
	x.t.Helper()
	secrets := x.client.CoreV1().Secrets(x.namespace)
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: x.namespace}, Data: values, Type: "istio.io/ca-root"}
	_, err := secrets.Get(x.t.Context(), name, metav1.GetOptions{})
	if err == nil {
		_, err = secrets.Update(x.t.Context(), s, metav1.UpdateOptions{})
	} else {
		_, err = secrets.Create(x.t.Context(), s, metav1.CreateOptions{})
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

// caStatus is the part of /status that `ambit ca` reads.
func (p *plane) caStatus() (s struct {
	Secret, Issuer, Error string
	Roots                 []string
	NotAfter              time.Time
}) {
	p.t.Helper()
	_, body := p.get("/status")
	var page struct {
		CA json.RawMessage `json:"ca"`
	}
	if err := json.Unmarshal([]byte(body), &page); err != nil {
		p.t.Fatal(err)
	}
	if err := json.Unmarshal(page.CA, &s); err != nil {
		p.t.Fatal(err)
	}
	return s
}

func TestGivenRootIsUsed(t *testing.T) {
	x := install(t)
	given := freshRoot(t)
	x.setSecret("cacerts", given)
	p := x.replica("one")
	p.ready()
	if root := x.waitRoot(x.namespace); root != string(given["ca-cert.pem"]) {
		t.Errorf("the namespace trusts\n%s", root)
	}
	if s := p.caStatus(); s.Secret != x.namespace+"/cacerts" || len(s.Issuer) != 64 || !slices.Equal(s.Roots, []string{s.Issuer}) || s.NotAfter.IsZero() || s.Error != "" {
		t.Errorf("status %+v", s)
	}
	if _, err := x.client.CoreV1().Secrets(x.namespace).Get(t.Context(), "istio-ca-secret", metav1.GetOptions{}); err == nil {
		t.Error("a root was made beside the given one")
	}
	// What cannot be used is refused and said; what was good stays.
	x.setSecret("cacerts", map[string][]byte{"ca-cert.pem": given["ca-cert.pem"], "ca-key.pem": []byte("rubbish")})
	kubetest.Eventually(t, "the refusal is said", func() error {
		if s := p.caStatus(); !strings.Contains(s.Error, "cacerts/ca-key.pem") {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if code, body := p.get("/readyz"); code != 200 {
		t.Errorf("not ready: %s", body)
	}
}

// The root changes by its Secret alone: every replica follows, and so do all
// namespaces; proxies that trust both never see a port that they do not.
func TestRotationReachesEverybody(t *testing.T) {
	x := install(t)
	one, two := x.replica("one"), x.replica("two")
	one.ready()
	two.ready()
	x.waitRoot(x.namespace)
	secret, err := x.client.CoreV1().Secrets(x.namespace).Get(t.Context(), "istio-ca-secret", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	old, next := secret.Data, freshRoot(t)
	both := func(a, b map[string][]byte) map[string][]byte {
		return map[string][]byte{"ca-cert.pem": a["ca-cert.pem"], "ca-key.pem": a["ca-key.pem"], "extra-roots.pem": b["ca-cert.pem"]}
	}
	x.app("web", "node-1", "10.0.2.1")
	_, token := x.ztunnel("node-1")
	everybody := func(why string, roots ...map[string][]byte) {
		t.Helper()
		var want []byte
		for _, r := range roots {
			want = append(want, r["ca-cert.pem"]...)
		}
		kubetest.Eventually(t, why, func() error {
			for _, namespace := range []string{x.namespace, "default", "kube-system"} {
				if got := x.root(namespace); got != string(want) {
					return fmt.Errorf("%s trusts\n%s", namespace, got)
				}
			}
			for _, p := range []*plane{one, two} {
				if s := p.caStatus(); len(s.Roots) != len(roots) || s.Roots[0] != s.Issuer {
					return fmt.Errorf("%+v", s)
				}
			}
			return nil
		})
		for _, p := range []*plane{one, two} {
			chain, err := p.request(p.dialWith(want), token, x.namespace, "web")
			if err != nil {
				t.Fatalf("%s: %v", why, err)
			}
			if !bytes.Equal([]byte(chain[len(chain)-1]), want) {
				t.Errorf("%s: certificates come with\n%s", why, chain[len(chain)-1])
			}
		}
	}
	everybody("as it was", old)
	before := one.caStatus().Issuer
	x.setSecret("istio-ca-secret", both(old, next))
	everybody("both are trusted", old, next)
	if got := two.caStatus().Issuer; got != before {
		t.Errorf("the issuer is %s before the switch, was %s", got, before)
	}
	x.setSecret("istio-ca-secret", both(next, old))
	everybody("the new one signs", next, old)
	if got := two.caStatus().Issuer; got == before {
		t.Errorf("the issuer is %s still", got)
	}
	x.setSecret("istio-ca-secret", next)
	everybody("the old one is dropped", next)

	// Whoever deletes the Secret gets the same one back: a new root would be trusted
	// by nobody.
	if err := x.client.CoreV1().Secrets(x.namespace).Delete(t.Context(), "istio-ca-secret", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, "it comes back", func() error {
		s, err := x.client.CoreV1().Secrets(x.namespace).Get(t.Context(), "istio-ca-secret", metav1.GetOptions{})
		if err == nil && !bytes.Equal(s.Data["ca-cert.pem"], next["ca-cert.pem"]) {
			t.Fatal("it is another one")
		}
		return err
	})
}

// While the API server says nothing, those who are connected stay, those who come
// again are known, and what stands is served; afterwards what happened is caught up.
func TestWhileTheAPIServerIsAway(t *testing.T) {
	x := install(t)
	p := newPlane(t, nil)
	p.cfg = x.config("one")
	p.cfg.Discovery.Reprove = 300 * time.Millisecond
	p.start()
	p.ready()
	root := []byte(x.waitRoot(x.namespace))
	x.app("web", "node-1", "10.0.3.1")
	_, token := x.ztunnel("node-1")
	web := "Kubernetes//Pod/" + x.namespace + "/web"
	has := func(name string) func(map[string]*discoveryv3.Resource) bool {
		return func(held map[string]*discoveryv3.Resource) bool { return held[name] != nil }
	}
	cc := p.dialWith(root)
	connected := p.subscribeIn(x.namespace, cc, token, "node-1")
	connected.wait("the pod", has(web))

	resume := x.Pause(t)
	paused := time.Now()
	if _, err := p.request(cc, token, x.namespace, "web"); err != nil {
		t.Errorf("a certificate for a pod that is known: %v", err)
	}
	p.subscribeIn(x.namespace, p.dialWith(root), token, "node-1").wait("the pod, on a new stream", has(web))
	if code, body := p.get("/readyz"); code != 200 {
		t.Errorf("not ready: %s", body)
	}
	for time.Since(paused) < 2*time.Second { // some proofs are asked for anew
		p.get("/healthz")
	}
	resume()
	x.app("late", "node-1", "10.0.3.2")
	connected.wait("what happened meanwhile", has("Kubernetes//Pod/"+x.namespace+"/late"))
}
