package waypoints

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"istio.io/api/label"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// Waypoint is a Gateway of a class of ours, and what became of it.
type Waypoint struct {
	Namespace  string      `json:"namespace"`
	Name       string      `json:"name"`
	Class      string      `json:"class"`
	For        string      `json:"for"` // service, workload, all or none
	Programmed bool        `json:"programmed"`
	Reason     string      `json:"reason,omitempty"` // why it is not Programmed
	Conditions []Condition `json:"conditions"`
	Addresses  []string    `json:"addresses"`
	Wanted     int         `json:"wanted"` // instances that there should be; 0: not made yet
	Instances  []Instance  `json:"instances"`
	Bound      []Bound     `json:"bound"`
	Created    time.Time   `json:"created"`
}

// Condition is one of a Gateway's status.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"` // True, False or Unknown
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}

// Instance is a pod of a waypoint.
type Instance struct {
	Pod   string `json:"pod"`
	Node  string `json:"node"` // empty: none has been found for it
	Ready bool   `json:"ready"`
}

// Bound is what asks for a waypoint by a label of its own.
type Bound struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"` // empty for a namespace
	Name      string `json:"name"`
	Waypoint  string `json:"waypoint"`          // namespace/name
	Canary    bool   `json:"canary,omitempty"`  // it has a share, beside another waypoint
	Refused   string `json:"refused,omitempty"` // why its traffic is refused; empty: it is not
	Around    string `json:"around,omitempty"`  // why its traffic goes around the waypoint; empty: it does not
}

// String is "service shop/web".
func (b Bound) String() string {
	if b.Namespace == "" {
		return strings.ToLower(b.Kind) + " " + b.Name
	}
	return strings.ToLower(b.Kind) + " " + b.Namespace + "/" + b.Name
}

// unbind is the command that takes the label away.
func (b Bound) unbind() string {
	if b.Kind == string(model.KindNamespace) {
		return fmt.Sprintf("kubectl label namespace %s %s-", b.Name, label.IoIstioUseWaypoint.Name)
	}
	return fmt.Sprintf("kubectl -n %s label %s %s %s-", b.Namespace, strings.ToLower(b.Kind), b.Name, label.IoIstioUseWaypoint.Name)
}

// String is "shop/waypoint".
func (w Waypoint) String() string { return w.Namespace + "/" + w.Name }

// Ready is how many instances are.
func (w Waypoint) Ready() (n int) {
	for _, i := range w.Instances {
		if i.Ready {
			n++
		}
	}
	return n
}

// Refused are those of what is bound whose traffic is refused.
func (w Waypoint) Refused() []Bound {
	return slices.DeleteFunc(slices.Clone(w.Bound), func(b Bound) bool { return b.Refused == "" })
}

// List tells of the waypoints in a namespace; of all when it is empty.
func (s *State) List(namespace string) []Waypoint {
	all := []Waypoint{}
	for _, g := range s.gateways {
		if (namespace == "" || g.Namespace == namespace) && ours(string(g.Spec.GatewayClassName), s.classes[string(g.Spec.GatewayClassName)]) {
			all = append(all, s.describe(g))
		}
	}
	slices.SortFunc(all, func(a, b Waypoint) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// describe tells of one.
func (s *State) describe(g *gateway.Gateway) Waypoint {
	key := model.Key{Kind: model.KindGateway, Namespace: g.Namespace, Name: g.Name}
	w := Waypoint{
		Namespace: g.Namespace, Name: g.Name, Class: string(g.Spec.GatewayClassName), For: s.world.ServedBy(key), Created: g.CreationTimestamp.Time,
		Conditions: []Condition{}, Addresses: []string{}, Instances: []Instance{}, Bound: s.boundTo(g.Namespace + "/" + g.Name),
	}
	w.Programmed, w.Reason = programmed(g)
	for _, c := range g.Status.Conditions {
		w.Conditions = append(w.Conditions, Condition{c.Type, string(c.Status), c.Reason, c.Message})
	}
	for _, a := range g.Status.Addresses {
		w.Addresses = append(w.Addresses, a.Value)
	}
	if d := s.deployments[model.Key{Namespace: g.Namespace, Name: model.WaypointName(g)}]; d != nil {
		w.Wanted = 1 // what the API means by none
		if d.Spec.Replicas != nil {
			w.Wanted = int(*d.Spec.Replicas)
		}
	}
	for _, p := range s.pods {
		if p.Namespace == g.Namespace && p.Labels[label.IoK8sNetworkingGatewayGatewayName.Name] == g.Name && !model.HasEnded(p) && p.DeletionTimestamp == nil {
			w.Instances = append(w.Instances, Instance{p.Name, p.Spec.NodeName, ready(p)})
		}
	}
	slices.SortFunc(w.Instances, func(a, b Instance) int { return cmp.Compare(a.Pod, b.Pod) })
	return w
}

// ready tells whether a pod is.
func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// programmed tells whether the control plane says that a Gateway, as it stands now,
// is; and if not, why.
func programmed(g *gateway.Gateway) (ok bool, why string) {
	for _, of := range []string{model.ConditionAccepted, model.ConditionProgrammed} {
		for _, c := range g.Status.Conditions {
			switch {
			case c.Type != of:
			case c.ObservedGeneration != g.Generation || c.Status == metav1.ConditionUnknown:
				return false, "the control plane has not said anything about it yet: ambit check says whether it runs"
			case c.Status != metav1.ConditionTrue:
				return false, fmt.Sprintf("%s is %s (%s): %s", c.Type, c.Status, c.Reason, c.Message)
			case of == model.ConditionProgrammed:
				return true, ""
			}
		}
	}
	return false, "the control plane has not said anything about it yet: ambit check says whether it runs"
}

// boundTo is what asks for one waypoint.
func (s *State) boundTo(waypoint string) []Bound {
	return slices.DeleteFunc(s.Bindings(), func(b Bound) bool { return b.Waypoint != waypoint })
}

// Bindings is all that asks for a waypoint.
func (s *State) Bindings() []Bound {
	all := []Bound{}
	for _, b := range s.world.Bindings() {
		all = append(all, Bound{string(b.Object.Kind), b.Object.Namespace, b.Object.Name, b.Waypoint.Namespace + "/" + b.Waypoint.Name, b.Canary, b.Refused, b.Around})
	}
	return all
}

// Missing is what asks for waypoints of which there is no Gateway, by waypoint.
func (s *State) Missing() map[string][]Bound {
	missing := map[string][]Bound{}
	for _, b := range s.Bindings() {
		if !slices.ContainsFunc(s.gateways, func(g *gateway.Gateway) bool { return g.Namespace+"/"+g.Name == b.Waypoint }) {
			missing[b.Waypoint] = append(missing[b.Waypoint], b)
		}
	}
	return missing
}

// Tell says how calls of a pod or a Service have to travel where waypoints are concerned,
// a line each; none when no waypoint is asked for.
func (s *State) Tell(kind model.Kind, namespace, name string) (lines []string) {
	key := model.Key{Kind: kind, Namespace: namespace, Name: name}
	if b, ok := s.world.BindingOf(key); ok {
		switch {
		case b.Refused != "":
			lines = append(lines, "calls to it are REFUSED: "+b.Refused)
		case b.Around != "":
			lines = append(lines, "calls to it go around its waypoint: "+b.Around)
		default:
			lines = append(lines, fmt.Sprintf("calls to it go through waypoint %s/%s", b.Waypoint.Namespace, b.Waypoint.Name))
		}
	}
	if kind == model.KindPod {
		for _, service := range s.world.DemandsAt(namespace, name) {
			text := fmt.Sprintf("on the ports of service %s/%s it lets in nobody but the waypoint of that service: calls to its own address are refused", service.Namespace, service.Name)
			if b, ok := s.world.BindingOf(service); ok && b.Refused != "" {
				text += "; and " + b.Refused
			}
			lines = append(lines, text)
		}
	}
	return lines
}

// WaysAround are the labels by which traffic may go around waypoints.
func (s *State) WaysAround() []model.WayAround { return s.world.WaysAround() }

// Count says how many of which kind are bound: "1 namespace, 2 services".
func Count(all []Bound) string {
	n := map[string]int{}
	for _, b := range all {
		n[strings.ToLower(b.Kind)]++
	}
	var texts []string
	for _, kind := range slices.Sorted(maps.Keys(n)) {
		switch {
		case n[kind] == 1:
			texts = append(texts, "1 "+kind)
		case strings.HasSuffix(kind, "entry"):
			texts = append(texts, fmt.Sprintf("%d %sies", n[kind], strings.TrimSuffix(kind, "y")))
		default:
			texts = append(texts, fmt.Sprintf("%d %ss", n[kind], kind))
		}
	}
	return strings.Join(texts, ", ")
}
