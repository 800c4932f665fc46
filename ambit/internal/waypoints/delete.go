package waypoints

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/gateways"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// Deletion says how waypoints are removed.
type Deletion struct {
	Force    bool // although something is bound to them: its traffic is refused afterwards
	Unenroll bool // take the labels away from namespaces and services that are bound to them
}

// BoundError means that something is bound to waypoints that are to go.
type BoundError struct{ Bound []Bound }

func (e *BoundError) Error() string {
	var lines []string
	for _, b := range e.Bound {
		lines = append(lines, fmt.Sprintf("  %s (to %s): %s", b, b.Waypoint, b.unbind()))
	}
	return "still bound:\n" + strings.Join(lines, "\n") +
		"\nwithout the waypoint its traffic is refused, not sent around it: unbind it first, or say --unenroll (for namespaces and services) or --force"
}

// Find picks the waypoints called names out of a namespace; all of it without names.
func (s *State) Find(namespace string, names []string) ([]Waypoint, error) {
	all := s.List(namespace)
	if len(names) == 0 {
		return all, nil
	}
	var found []Waypoint
	for _, name := range names {
		at := slices.IndexFunc(all, func(w Waypoint) bool { return w.Name == name })
		if at >= 0 {
			found = append(found, all[at])
			continue
		}
		for _, g := range s.gateways {
			if g.Namespace == namespace && g.Name == name {
				return nil, fmt.Errorf("gateway %s/%s is of class %s, which is not of ambit", namespace, name, g.Spec.GatewayClassName)
			}
		}
		return nil, fmt.Errorf("there is no waypoint %s/%s", namespace, name)
	}
	return found, nil
}

// Delete removes the Gateways of waypoints; Kubernetes removes what the control plane
// made for them. Nothing is changed when something is in the way.
func Delete(ctx context.Context, client *kube.Client, all []Waypoint, d Deletion, say func(format string, args ...any)) error {
	var inTheWay []Bound
	var subjects []Subject
	for _, w := range all {
		for _, b := range w.Bound {
			switch {
			case d.Unenroll && b.Kind == string(model.KindNamespace):
				subjects = append(subjects, Subject{Namespace: b.Name})
			case d.Unenroll && b.Kind == string(model.KindService):
				subjects = append(subjects, Subject{Namespace: b.Namespace, Service: b.Name})
			default:
				inTheWay = append(inTheWay, b)
			}
		}
	}
	if len(inTheWay) > 0 && !d.Force {
		return &BoundError{inTheWay}
	}
	for _, s := range subjects {
		if _, err := Bind(ctx, client, s, Name{}); err != nil {
			return fmt.Errorf("%v: %w", s, err)
		}
		say("%v has no label of a waypoint any more", s)
	}
	for _, w := range all {
		err := client.Dynamic.Resource(gatewaysResource()).Namespace(w.Namespace).Delete(ctx, w.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("gateway %s: %w", w, err)
		}
		say("removed waypoint %s", w)
	}
	for _, b := range inTheWay {
		say("traffic to %s is refused now: %s", b, b.unbind())
	}
	return nil
}

// DeleteClasses removes the GatewayClasses that the control plane made, unless Gateways
// are of them; it says which stay.
func DeleteClasses(ctx context.Context, client *kube.Client, say func(format string, args ...any)) error {
	classes := client.Dynamic.Resource(classesResource())
	found, err := classes.List(ctx, metav1.ListOptions{LabelSelector: gateways.Selector})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list GatewayClasses: %w", err)
	}
	used := map[string][]string{}
	all, err := Names(ctx, client, "")
	if err != nil {
		return err
	}
	for _, w := range all {
		used[w.Class] = append(used[w.Class], w.String())
	}
	for i := range found.Items {
		c := &found.Items[i]
		spec, _ := c.Object["spec"].(map[string]any)
		switch {
		case spec["controllerName"] != string(model.WaypointController):
			continue
		case len(used[c.GetName()]) > 0:
			say("kept GatewayClass %s: Gateway %s is of it", c.GetName(), strings.Join(used[c.GetName()], ", "))
			continue
		}
		if err := classes.Delete(ctx, c.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("GatewayClass %s: %w", c.GetName(), err)
		}
		say("removed GatewayClass %s", c.GetName())
	}
	return nil
}
