package check

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ambit-mesh/ambit/ambit/internal/install"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// parts checks that what was installed runs.
func parts(w *World, _ time.Time) (out []Finding) {
	if w.Inventory == nil {
		return nil
	}
	if !w.Inventory.Complete {
		out = append(out, Finding{Level: Error, Where: "installation", What: "it was interrupted: not all objects are there", Do: "ambit install again, or ambit upgrade"})
	}
	for _, r := range w.Rollouts {
		if r.Done() {
			continue
		}
		f := Finding{
			Level: Error, Where: strings.ToLower(r.Kind) + " " + r.Name, What: r.String(),
			Do: fmt.Sprintf("kubectl -n %s describe %s %s; ambit bug-report collects what there is to know", w.Namespace, strings.ToLower(r.Kind), r.Name),
		}
		for i := range w.Pods {
			p := &w.Pods[i]
			if p.Namespace != w.Namespace || !r.Has(p.Labels) {
				continue
			}
			if why := install.ExplainPod(p, ""); why != "" {
				f.What += fmt.Sprintf("\npod %s on %s: %s", p.Name, p.Spec.NodeName, why)
			}
		}
		out = append(out, f)
	}
	return out
}

// agents checks that each node has an agent that can take pods in.
func agents(w *World, _ time.Time) (out []Finding) {
	if w.Inventory == nil {
		return nil
	}
	there := map[string]bool{}
	for i := range w.Pods {
		if p := &w.Pods[i]; p.Namespace == w.Namespace && hasLabel(p, agentLabel) {
			there[p.Spec.NodeName] = true // why it does not run, if so, parts says
		}
	}
	for _, a := range w.Agents {
		switch {
		case a.Err != nil:
			out = append(out, Finding{Level: Warning, Where: "node " + a.Node, What: fmt.Sprintf("its agent could not be asked: %v", a.Err), Do: "you need the right to create pods/portforward in " + w.Namespace})
		case a.Unready != "":
			out = append(out, Finding{
				Level: Error, Where: "node " + a.Node, What: "its agent takes no pods in: " + a.Unready,
				Do: fmt.Sprintf("kubectl -n %s logs %s; pods that should be in the mesh do not start there until it does", w.Namespace, a.Pod),
			})
		}
	}
	for i := range w.Nodes {
		n := &w.Nodes[i]
		if !there[n.Name] && n.Status.NodeInfo.OperatingSystem == "linux" && ready(n) {
			out = append(out, Finding{
				Level: Error, Where: "node " + n.Name, What: "no agent runs there: its pods cannot be in the mesh",
				Do: fmt.Sprintf("kubectl -n %s get pods -o wide -l %s", w.Namespace, agentLabel),
			})
		}
	}
	return out
}

// ready tells whether a node is.
func ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// enrolment checks that those who should be in the mesh are: by what agents
// measured, and by what they wrote on pods.
func enrolment(w *World, _ time.Time) (out []Finding) {
	if w.Inventory == nil {
		return nil
	}
	missing := map[string][]string{} // by node
	for i := range w.Pods {
		p := &w.Pods[i]
		if Running(p) && w.InMesh(p) && p.Annotations[install.RedirectionAnnotation] != "enabled" {
			missing[p.Spec.NodeName] = append(missing[p.Spec.NodeName], nameOf(p))
		}
	}
	for node, names := range missing {
		out = append(out, Finding{
			Level: Error, Where: "node " + node, What: fmt.Sprintf("%d pods should be in the mesh and are not: %s", len(names), few(sorted(names), 5)),
			Do: "kubectl describe pod says why (events); ambit pods shows all",
		})
	}
	for _, a := range w.Agents {
		expected, enrolled, fenced := a.Numbers["ambit_pods_expected"], a.Numbers["ambit_pods_enrolled"], a.Numbers["ambit_pods_fenced"]
		if a.Err == nil && (expected != enrolled || fenced > 0) {
			out = append(out, Finding{
				Level: Error, Where: "node " + a.Node,
				What: fmt.Sprintf("of %.0f pods that should be in the mesh, %.0f are, and %.0f are fenced: they have no traffic", expected, enrolled, fenced),
				Do:   fmt.Sprintf("kubectl -n %s logs %s; kubectl get events -A --field-selector reason=NotEnrolled", w.Namespace, a.Pod),
			})
		}
	}
	return out
}

// policies finds objects whose status says that they do not hold as written.
func policies(w *World, _ time.Time) (out []Finding) {
	for i := range w.MeshPolicies {
		o := &w.MeshPolicies[i]
		for _, condition := range conditionsOf(o) {
			kind, _ := condition["type"].(string)
			value, _ := condition["status"].(string)
			reason, _ := condition["reason"].(string)
			message, _ := condition["message"].(string)
			where := strings.ToLower(o.GetKind()) + " " + o.GetNamespace() + "/" + o.GetName()
			switch {
			case value == "False" && (strings.HasSuffix(kind, "Accepted") || kind == model.ConditionBound || kind == model.ConditionResolvedRefs):
				out = append(out, Finding{Level: Error, Where: where, What: fmt.Sprintf("it is not enforced as written (%s): %s", reason, message), Do: "correct it; its status says when it holds"})
			case value == "True" && reason == model.ReasonUnsupported:
				out = append(out, Finding{Level: Warning, Where: where, What: "a part of it is not enforced: " + message, Do: "correct it, or serve it by a waypoint"})
			}
		}
	}
	return out
}

// conditionsOf are those of an object's status, of a route those that the mesh wrote
// about its parents.
func conditionsOf(o *unstructured.Unstructured) (all []map[string]any) {
	add := func(of map[string]any) {
		list, _ := of["conditions"].([]any)
		for _, c := range list {
			if condition, ok := c.(map[string]any); ok {
				all = append(all, condition)
			}
		}
	}
	status, _ := o.Object["status"].(map[string]any)
	add(status)
	parents, _ := status["parents"].([]any)
	for _, p := range parents {
		if parent, ok := p.(map[string]any); ok && parent["controllerName"] == model.MeshController {
			add(parent)
		}
	}
	return all
}

// versions compares what runs with what was installed and with this command.
func versions(w *World, _ time.Time) (out []Finding) {
	if w.Inventory == nil {
		return nil
	}
	if w.Inventory.Version != w.CLIVersion {
		out = append(out, Finding{
			Level: Info, Where: "installation", What: fmt.Sprintf("it is %s, and this command is %s", w.Inventory.Version, w.CLIVersion),
			Do: "ambit upgrade",
		})
	}
	tags := map[string][]string{}
	for i := range w.Pods {
		p := &w.Pods[i]
		if p.Namespace == w.Namespace && p.Labels[install.PartOfLabel] == install.PartOf && p.DeletionTimestamp == nil && len(p.Spec.Containers) > 0 {
			image := p.Spec.Containers[0].Image
			tag := image[strings.LastIndexAny(image, ":@")+1:]
			tags[tag] = append(tags[tag], p.Name)
		}
	}
	if len(tags) > 1 {
		var texts []string
		for tag, pods := range tags {
			texts = append(texts, fmt.Sprintf("%s (%d pods)", tag, len(pods)))
		}
		out = append(out, Finding{Level: Warning, Where: "installation", What: "several versions run: " + strings.Join(sorted(texts), ", "), Do: "wait until the upgrade has ended, or ambit upgrade again"})
	}
	return out
}
