package check

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/ambit/internal/install"
)

// otherMeshes finds what would do our work too: two agents would write rules into
// the same pods, and two control planes the same objects.
func otherMeshes(w *World, _ time.Time) (out []Finding) {
	for i := range w.DaemonSets {
		d := &w.DaemonSets[i]
		if what := rivalOnNodes(d.Name, d.ObjectMeta, d.Spec.Template.Labels); what != "" {
			out = append(out, rival("DaemonSet "+d.Namespace+"/"+d.Name, what))
		}
	}
	for i := range w.Deployments {
		d := &w.Deployments[i]
		if d.Labels[install.PartOfLabel] != install.PartOf && (d.Spec.Template.Labels["app"] == "istiod" || d.Spec.Template.Labels["istio"] == "pilot") {
			out = append(out, rival("Deployment "+d.Namespace+"/"+d.Name, "is a control plane that writes the same objects: istio-ca-root-cert in every namespace, and the status of policies"))
		}
	}
	for _, ns := range w.Namespaces {
		if f, ok := OtherMesh(ns); ok {
			out = append(out, f)
		}
	}
	return out
}

// rival is the finding that the cluster has an owner.
func rival(where, what string) Finding {
	return Finding{
		Level: Error, Blocks: true, Where: where, What: what,
		Do: "ambit does not fight it: remove that installation first. Labels, annotations and the root (Secret cacerts or istio-ca-secret in " +
			"istio-system) may stay: ambit understands them",
	}
}

// rivalOnNodes says what a DaemonSet does that ours do, if it does.
func rivalOnNodes(name string, meta metav1.ObjectMeta, pods map[string]string) string {
	if meta.Labels[install.PartOfLabel] == install.PartOf {
		return ""
	}
	switch {
	case pods["k8s-app"] == "istio-cni-node" || name == "istio-cni-node":
		return "is a CNI agent that takes pods into an ambient mesh"
	case pods["app"] == "ztunnel" || name == "ztunnel":
		return "is a node proxy of an ambient mesh"
	case pods["app"] == "kmesh" || name == "kmesh":
		return "redirects the traffic of pods on every node"
	}
	return ""
}

// optIn is how another mesh marks a namespace.
type optIn struct {
	mesh  string
	key   string
	value string // empty: any but "false" and "disabled"
	label bool   // else an annotation
}

// optIns are the marks that are known. Source: the documentation of each mesh.
var optIns = [...]optIn{
	{"Istio's sidecars", "istio-injection", "enabled", true},
	{"Istio's sidecars", "istio.io/rev", "", true},
	{"Linkerd", "linkerd.io/inject", "", false},
	{"Kuma", "kuma.io/sidecar-injection", "enabled", true},
	{"Consul", "consul.hashicorp.com/connect-inject", "true", false},
	{"Open Service Mesh", "openservicemesh.io/sidecar-injection", "enabled", false},
}

// OtherMesh says whether a namespace is opted in to another mesh, and how to move.
func OtherMesh(ns *corev1.Namespace) (Finding, bool) {
	for _, o := range optIns {
		from, kind := ns.Annotations, "annotate"
		if o.label {
			from, kind = ns.Labels, "label"
		}
		value, there := from[o.key]
		if !there || o.value != "" && value != o.value || value == "disabled" || value == "false" {
			continue
		}
		ours := ns.Labels[install.ModeLabel] == install.ModeAmbient
		f := Finding{
			Level: Info, Where: "namespace " + ns.Name,
			What: fmt.Sprintf("is opted in to %s (%s=%s): pods that have its proxy are not captured", o.mesh, o.key, value),
			Do: fmt.Sprintf("to move it: kubectl %s namespace %s %s-; restart its pods; kubectl label namespace %s %s=%s",
				kind, ns.Name, o.key, ns.Name, install.ModeLabel, install.ModeAmbient),
		}
		if ours {
			f.Level = Warning
			f.What = fmt.Sprintf("is opted in to %s (%s=%s) and to ambit: pods that have its proxy stay outside ours", o.mesh, o.key, value)
			f.Do = fmt.Sprintf("kubectl %s namespace %s %s-, and restart its pods", kind, ns.Name, o.key)
		}
		return f, true
	}
	return Finding{}, false
}

// sidecar is the proxy of another mesh in a pod.
type sidecar struct {
	there bool
	mesh  string
}

// sidecarOf finds the proxy of another mesh in p.
func sidecarOf(p *corev1.Pod) sidecar {
	if p.Annotations["sidecar.istio.io/status"] != "" {
		return sidecar{true, "Istio's"}
	}
	proxies := map[string]string{"istio-proxy": "Istio's", "linkerd-proxy": "Linkerd's", "kuma-sidecar": "Kuma's", "consul-dataplane": "Consul's"}
	for _, c := range append(append([]corev1.Container{}, p.Spec.InitContainers...), p.Spec.Containers...) {
		if mesh, ok := proxies[c.Name]; ok && !strings.HasPrefix(p.Labels["gateway.istio.io/managed"], "istio.io") {
			return sidecar{true, mesh}
		}
	}
	return sidecar{}
}

// sidecars finds pods that want to be in the mesh and carry another's proxy.
func sidecars(w *World, _ time.Time) (out []Finding) {
	found := map[string][]string{} // by namespace
	mesh := map[string]string{}
	for i := range w.Pods {
		if p := &w.Pods[i]; Running(p) && w.wants(p) && sidecarOf(p).there {
			found[p.Namespace] = append(found[p.Namespace], p.Name)
			mesh[p.Namespace] = sidecarOf(p).mesh
		}
	}
	for ns, names := range found {
		out = append(out, Finding{
			Level: Warning, Where: "namespace " + ns,
			What: fmt.Sprintf("%d pods want to be in the mesh and have %s sidecar, so they are not captured: %s", len(names), mesh[ns], few(sorted(names), 3)),
			Do:   "take the mark of the other mesh off, then kubectl rollout restart what owns them",
		})
	}
	return out
}

// WhyOutside says why a pod is not in the mesh and should not be.
func WhyOutside(w *World, p *corev1.Pod) string {
	switch {
	case p.Spec.HostNetwork:
		return "it has the network of its node"
	case p.Namespace == "kube-system":
		return "its namespace is left out"
	case p.Labels[install.ModeLabel] == "none":
		return "its own label says none"
	case w.wants(p) && sidecarOf(p).there:
		return "it has " + sidecarOf(p).mesh + " sidecar"
	}
	return "neither it nor its namespace has the label " + install.ModeLabel
}
