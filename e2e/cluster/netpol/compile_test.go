package netpol

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pod makes a pod whose only port is named "http" and is 8080.
func pod(namespace, name, node, ip string, set map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: set},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}},
		Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: ip}}},
	}
}

// world is two namespaces with two pods each, and the policies of a YAML text.
func world(t *testing.T, policies string) World {
	t.Helper()
	w := World{
		Pods: []*corev1.Pod{
			pod("shop", "web", "node-1", "10.244.1.2", map[string]string{"app": "web"}),
			pod("shop", "db", "node-1", "10.244.1.3", map[string]string{"app": "db"}),
			pod("bank", "web", "node-2", "10.244.2.2", map[string]string{"app": "web"}),
			pod("bank", "db", "node-2", "10.244.2.3", map[string]string{"app": "db"}),
		},
		Namespaces: map[string]labels.Set{"shop": {"team": "shop"}, "bank": {"team": "bank"}},
	}
	for doc := range strings.SplitSeq(policies, "---") {
		p := &networkingv1.NetworkPolicy{}
		if err := yaml.UnmarshalStrict([]byte(doc), p); err != nil {
			t.Fatal(err)
		}
		if p.Namespace != "" {
			w.Policies = append(w.Policies, p)
		}
	}
	return w
}

// ask is a connection whose fate is asked for.
type ask struct {
	src, dst string
	protocol corev1.Protocol
	port     uint16
}

// allowed reports what the guards of all nodes do to a connection.
func allowed(t *testing.T, w World, a ask) bool {
	t.Helper()
	src, dst := netip.MustParseAddr(a.src), netip.MustParseAddr(a.dst)
	for _, node := range []string{"node-1", "node-2"} {
		guards, err := Compile(w, node)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range guards {
			if g.Pod == src && !g.Egress.lets(dst, a) || g.Pod == dst && !g.Ingress.lets(src, a) {
				return false
			}
		}
	}
	return true
}

// lets reports what a direction does to a connection with a peer.
func (d *Direction) lets(peer netip.Addr, a ask) bool {
	in := func(all []netip.Prefix) bool {
		return slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(peer) })
	}
	return d == nil || slices.ContainsFunc(d.Rules, func(r Rule) bool {
		port := r.Ports == nil || slices.ContainsFunc(r.Ports, func(p Port) bool {
			return p.Protocol == a.protocol && p.First <= a.port && a.port <= p.Last
		})
		return port && (r.Any || in(r.Peers) && !in(r.Except))
	})
}

func TestCompile(t *testing.T) {
	const head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n"
	const web, db, bankWeb, outside = "10.244.1.2", "10.244.1.3", "10.244.2.2", "192.0.2.7"
	tcp := func(src, dst string, port uint16) ask { return ask{src, dst, corev1.ProtocolTCP, port} }
	tests := []struct {
		name   string
		spec   string
		allows []ask
		drops  []ask
	}{
		{"no policy", "", []ask{tcp(bankWeb, db, 1)}, nil},
		{
			"deny all ingress", "  podSelector: {}\n",
			[]ask{tcp(web, bankWeb, 80)},
			[]ask{tcp(web, db, 80), tcp(bankWeb, db, 80), tcp(outside, web, 80)},
		},
		{
			"deny all egress", "  podSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n",
			[]ask{tcp(db, web, 80), tcp(bankWeb, web, 80)},
			[]ask{tcp(web, db, 80), tcp(web, outside, 80)},
		},
		{
			"pods of the same namespace", "  podSelector: {matchLabels: {app: db}}\n  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]\n",
			[]ask{tcp(web, db, 5432)},
			[]ask{tcp(bankWeb, db, 5432), tcp(outside, db, 5432)},
		},
		{
			"a whole namespace", "  podSelector: {}\n  ingress: [{from: [{namespaceSelector: {matchLabels: {team: bank}}}]}]\n",
			[]ask{tcp(bankWeb, db, 1)},
			[]ask{tcp(web, db, 1)},
		},
		{
			"both selectors mean both", "  podSelector: {}\n  ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}]}]\n",
			[]ask{tcp("10.244.2.3", web, 1)},
			[]ask{tcp(bankWeb, web, 1)},
		},
		{
			"blocks and exceptions", "  podSelector: {}\n  ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.4/30]}}]}]\n",
			[]ask{tcp("192.0.2.1", web, 1)},
			[]ask{tcp(outside, web, 1), tcp(bankWeb, web, 1)},
		},
		{
			"ports by number, range and protocol", "  podSelector: {}\n  ingress: [{ports: [{port: 80}, {port: 1000, endPort: 1009}, {port: 53, protocol: UDP}]}]\n",
			[]ask{tcp(web, db, 80), tcp(web, db, 1009), {web, db, corev1.ProtocolUDP, 53}},
			[]ask{tcp(web, db, 81), tcp(web, db, 1010), tcp(web, db, 53)},
		},
		{
			"a port's name is that of the pod that is reached", "  podSelector: {}\n  ingress: [{ports: [{port: http}]}]\n",
			[]ask{tcp(outside, db, 8080)},
			[]ask{tcp(outside, db, 80)},
		},
		{
			"on the way out too", "  podSelector: {}\n  policyTypes: [Egress]\n  egress: [{ports: [{port: http}]}]\n",
			[]ask{tcp(web, bankWeb, 8080)},
			[]ask{tcp(web, bankWeb, 80), tcp(web, outside, 8080)},
		},
		{
			"a name that no port has allows nothing", "  podSelector: {}\n  ingress: [{ports: [{port: nope}]}]\n",
			nil,
			[]ask{tcp(web, db, 8080)},
		},
		{
			"two policies allow what either allows",
			"  podSelector: {}\n---\n" + strings.Replace(head, "name: p", "name: q", 1) + "  podSelector: {}\n  ingress: [{ports: [{port: 80}]}]\n",
			[]ask{tcp(web, db, 80)},
			[]ask{tcp(web, db, 81)},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := ""
			if tt.spec != "" {
				text = head + tt.spec
			}
			w := world(t, text)
			for _, a := range tt.allows {
				if !allowed(t, w, a) {
					t.Errorf("%+v is dropped", a)
				}
			}
			for _, a := range tt.drops {
				if allowed(t, w, a) {
					t.Errorf("%+v is allowed", a)
				}
			}
			guards, err := Compile(w, "node-1")
			if err != nil {
				t.Fatal(err)
			}
			accepted(t, Table(guards))
		})
	}
}

// accepted has the kernel take a table, in a namespace of the test's own.
func accepted(t *testing.T, table string) {
	t.Helper()
	netnstest.Require(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Fatal("missing: nft (apt-get install nftables)")
	}
	ns := netnstest.New(t)
	err := ns.Do(func() error {
		// The second time finds the table of the first.
		for range 2 {
			if err := Write(t.Context(), table); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Errorf("%v\n%s", err, table)
	}
}

func TestErrorsNameThePolicy(t *testing.T) {
	w := world(t, "metadata: {name: bad, namespace: shop}\nspec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: nonsense}}]}]}\n")
	if _, err := Compile(w, "node-1"); err == nil || !strings.Contains(err.Error(), "shop/bad") {
		t.Errorf("error = %v, want one that names shop/bad", err)
	}
}

// naive decides by the words of the API, without anything of Compile.
func naive(w World, src, dst *corev1.Pod, port uint16) bool {
	ok := func(isolated *corev1.Pod, ingress bool) bool {
		selected := false
		for _, p := range w.Policies {
			in := len(p.Spec.PolicyTypes) == 0 || slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
			out := len(p.Spec.PolicyTypes) == 0 && len(p.Spec.Egress) > 0 || slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
			if p.Namespace != isolated.Namespace || !has(&p.Spec.PodSelector, isolated.Labels) || ingress && !in || !ingress && !out {
				continue
			}
			selected = true
			peer := src
			var entries []networkingv1.NetworkPolicyIngressRule
			if ingress {
				entries = p.Spec.Ingress
			} else {
				peer = dst
				for _, e := range p.Spec.Egress {
					entries = append(entries, networkingv1.NetworkPolicyIngressRule{From: e.To, Ports: e.Ports})
				}
			}
			for _, e := range entries {
				from := len(e.From) == 0 || slices.ContainsFunc(e.From, func(f networkingv1.NetworkPolicyPeer) bool {
					if f.NamespaceSelector == nil {
						return peer.Namespace == p.Namespace && has(f.PodSelector, peer.Labels)
					}
					return has(f.NamespaceSelector, w.Namespaces[peer.Namespace]) && (f.PodSelector == nil || has(f.PodSelector, peer.Labels))
				})
				at := len(e.Ports) == 0 || slices.ContainsFunc(e.Ports, func(q networkingv1.NetworkPolicyPort) bool {
					return q.Port.Type == intstr.Int && uint16(q.Port.IntVal) == port || q.Port.Type == intstr.String && q.Port.StrVal == "http" && port == 8080
				})
				if from && at {
					return true
				}
			}
		}
		return !selected
	}
	return ok(dst, true) && ok(src, false)
}

func has(s *metav1.LabelSelector, set map[string]string) bool {
	for k, v := range s.MatchLabels {
		if set[k] != v {
			return false
		}
	}
	return true
}

// Random policies decide as the naive reading of the API does.
func TestCompileAgainstOracle(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := world(t, "")
		for i := range r.IntN(4) {
			w.Policies = append(w.Policies, randomPolicy(r, i))
		}
		for _, src := range w.Pods {
			for _, dst := range w.Pods {
				for _, port := range []uint16{80, 443, 8080} {
					a := ask{src.Status.PodIPs[0].IP, dst.Status.PodIPs[0].IP, corev1.ProtocolTCP, port}
					if got, want := allowed(t, w, a), naive(w, src, dst, port); got != want {
						text, err := yaml.Marshal(w.Policies)
						t.Fatalf("seed %d: %+v is allowed: %v, want %v\n%s %v", seed, a, got, want, text, err)
					}
				}
			}
		}
	}
}

func randomPolicy(r *rand.Rand, i int) *networkingv1.NetworkPolicy {
	pick := func(choices ...map[string]string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: choices[r.IntN(len(choices))]}
	}
	apps := []map[string]string{nil, {"app": "web"}, {"app": "db"}}
	teams := []map[string]string{nil, {"team": "shop"}, {"team": "bank"}}
	p := &networkingv1.NetworkPolicy{}
	p.Name, p.Namespace = fmt.Sprint("p", i), []string{"shop", "bank"}[r.IntN(2)]
	p.Spec.PodSelector = *pick(apps...)
	p.Spec.PolicyTypes = [][]networkingv1.PolicyType{nil, {"Ingress"}, {"Egress"}, {"Ingress", "Egress"}}[r.IntN(4)]
	entry := func() (peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
		for range r.IntN(3) {
			peer := networkingv1.NetworkPolicyPeer{PodSelector: pick(apps...)}
			if r.IntN(2) == 0 {
				peer.NamespaceSelector = pick(teams...)
			}
			peers = append(peers, peer)
		}
		for range r.IntN(3) {
			port := []intstr.IntOrString{intstr.FromInt32(80), intstr.FromInt32(443), intstr.FromString("http")}[r.IntN(3)]
			ports = append(ports, networkingv1.NetworkPolicyPort{Port: &port})
		}
		return peers, ports
	}
	for range r.IntN(3) {
		peers, ports := entry()
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: peers, Ports: ports})
	}
	for range r.IntN(2) {
		peers, ports := entry()
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: peers, Ports: ports})
	}
	return p
}
