package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/ambit/internal/install"
)

// tunnelPort is where pods of the mesh are reached by others of it, whatever the
// port of the application. controlPort is where proxies reach the control plane.
const (
	tunnelPort  = 15008
	controlPort = 15012
)

// blame is a policy that lets pods talk on a port of the application, and not on
// that of the tunnel.
type blame struct {
	policy *networkingv1.NetworkPolicy
	rules  map[direction]map[int]bool // that have to name the port of the tunnel too
	level  Level
	client string // who is kept out
	server string // of whom
	port   int    // where the two may talk without the mesh
}

// networkPolicies simulates the policies on all pairs of pods that may talk today:
// in the mesh they talk on the port of the tunnel.
func networkPolicies(w *World, _ time.Time) []Finding {
	apps := crowds(w, func(p *corev1.Pod) bool { return p.Namespace != w.Namespace && p.Namespace != "kube-system" })
	blames := map[string]*blame{}
	for _, server := range apps {
		for _, client := range apps {
			judge(client, server, blames)
		}
	}
	var out []Finding
	for _, key := range slices.Sorted(maps.Keys(blames)) {
		out = append(out, blames[key].finding())
	}
	return append(out, controlPlanePolicies(w)...)
}

// judge adds to blames what keeps client from server in the mesh only.
func judge(client, server *crowd, blames map[string]*blame) {
	if len(server.applies[ingress]) == 0 && len(client.applies[egress]) == 0 {
		return
	}
	level := Info
	if client.inMesh && server.inMesh {
		level = Error
	}
	for _, port := range candidates(server, slices.Concat(server.rules(ingress), client.rules(egress))) {
		in, freeIn := allows(server, client, ingress, port)
		out, freeOut := allows(client, server, egress, port)
		if !freeIn && len(in) == 0 || !freeOut && len(out) == 0 {
			continue // they cannot talk on this port without the mesh either
		}
		for _, side := range []struct {
			subject, other *crowd
			way            direction
			by             []rule
		}{{server, client, ingress, in}, {client, server, egress, out}} {
			if tunnel, free := allows(side.subject, side.other, side.way, tunnelPort); free || len(tunnel) > 0 {
				continue
			}
			for _, r := range side.by {
				add(blames, r, side.way, level, client, server, port)
			}
		}
	}
}

// add blames the policy of r.
func add(blames map[string]*blame, r rule, way direction, level Level, client, server *crowd, port int) {
	key := policyName(r.policy)
	b := blames[key]
	if b == nil {
		b = &blame{policy: r.policy, rules: map[direction]map[int]bool{ingress: {}, egress: {}}, level: level, client: client.String(), server: server.String(), port: port}
		blames[key] = b
	}
	if level.rank() < b.level.rank() {
		b.level, b.client, b.server, b.port = level, client.String(), server.String(), port
	}
	b.rules[way][r.index] = true
}

// finding says what b does and how to correct it.
func (b *blame) finding() Finding {
	var ways []string
	for _, way := range []direction{ingress, egress} {
		if len(b.rules[way]) > 0 {
			ways = append(ways, strings.ToLower(string(way)))
		}
	}
	text := fmt.Sprintf("its %s rules let %s reach %s on port %d, and not on port %d, where pods of the mesh are reached", strings.Join(ways, " and "), b.client, b.server, b.port, tunnelPort)
	if b.level == Info {
		text += ": when both are in the mesh they cannot talk any more"
	}
	return Finding{
		Level: b.level, Where: policyName(b.policy), What: text,
		Do:    fmt.Sprintf("add TCP port %d to the ports of these rules: ambit check --patches | kubectl apply -f -", tunnelPort),
		Patch: b.patch(),
	}
}

// patch is the policy with the port of the tunnel in the rules that need it.
func (b *blame) patch() string {
	spec := b.policy.Spec.DeepCopy()
	tcp, port := corev1.ProtocolTCP, intstr.FromInt32(tunnelPort)
	more := networkingv1.NetworkPolicyPort{Protocol: &tcp, Port: &port}
	for index := range b.rules[ingress] {
		spec.Ingress[index].Ports = append(spec.Ingress[index].Ports, more)
	}
	for index := range b.rules[egress] {
		spec.Egress[index].Ports = append(spec.Egress[index].Ports, more)
	}
	return policyYAML(b.policy.Namespace, b.policy.Name, spec)
}

// policyYAML is a policy as people apply it.
func policyYAML(namespace, name string, spec *networkingv1.NetworkPolicySpec) string {
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
		"metadata": map[string]string{"namespace": namespace, "name": name},
		"spec":     spec,
	})
	if err != nil {
		return "" // a spec that came from YAML goes back into it
	}
	return string(text)
}

// controlPlanePolicies finds policies that keep proxies from the control plane.
func controlPlanePolicies(w *World) (out []Finding) {
	proxies := crowds(w, func(p *corev1.Pod) bool { return p.Namespace == w.Namespace && hasLabel(p, "app=ztunnel") })
	control := crowds(w, func(p *corev1.Pod) bool { return p.Namespace == w.Namespace && hasLabel(p, istiodLabel) })
	for _, proxy := range proxies {
		for _, istiod := range control {
			in, freeIn := allows(istiod, proxy, ingress, controlPort)
			eg, freeOut := allows(proxy, istiod, egress, controlPort)
			if (freeIn || len(in) > 0) && (freeOut || len(eg) > 0) {
				continue
			}
			var names []string
			for _, p := range slices.Concat(istiod.applies[ingress], proxy.applies[egress]) {
				names = append(names, p.Namespace+"/"+p.Name)
			}
			return []Finding{{
				Level: Error, Where: "namespace " + w.Namespace,
				What:  fmt.Sprintf("its network policies keep ztunnel from istiod-lite on port %d: %s", controlPort, few(sorted(names), 5)),
				Do:    "let ambit's own parts talk: ambit check --patches | kubectl apply -f -",
				Patch: ownPolicy(w.Namespace),
			}}
		}
	}
	return nil
}

// ownPolicy lets the parts of ambit talk with whom they need.
func ownPolicy(namespace string) string {
	return policyYAML(namespace, "ambit", &networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{install.PartOfLabel: install.PartOf}},
		PolicyTypes: []direction{ingress, egress},
		Ingress:     []networkingv1.NetworkPolicyIngressRule{{}},
		Egress:      []networkingv1.NetworkPolicyEgressRule{{}},
	})
}
