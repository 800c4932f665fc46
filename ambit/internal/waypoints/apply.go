package waypoints

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"istio.io/api/label"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// fieldManager owns what this package applies.
const fieldManager = "ambit-waypoint"

const (
	// lookEvery is how often somebody who waits looks.
	lookEvery = 500 * time.Millisecond

	// patience is how long nothing may change before it is said what is in the way
	// of the Deployment, and how long a last look may take.
	patience = 10 * time.Second
)

// Wanted is a waypoint that a person asks for.
type Wanted struct {
	Namespace, Name string
	For             string // service, workload, all or none
	Class           string // a GatewayClass of ours
	// Allowed are the namespaces beside its own that may be bound to it; [AllNamespaces]
	// alone: every one.
	Allowed []string
}

// Key is its name.
func (w Wanted) Key() Name { return Name{Namespace: w.Namespace, Name: w.Name} }

// AllNamespaces in Wanted.Allowed means every namespace.
const AllNamespaces = "all"

// Allows reports whether a namespace may be bound to it.
func (w Wanted) Allows(namespace string) bool {
	return namespace == w.Namespace || slices.Contains(w.Allowed, namespace) || slices.Contains(w.Allowed, AllNamespaces)
}

// allowed is Allowed as a listener says it; nil: its own namespace only.
func (w Wanted) allowed() *gateway.AllowedRoutes {
	from := gateway.NamespacesFromSelector
	namespaces := &gateway.RouteNamespaces{From: &from}
	switch {
	case len(w.Allowed) == 0:
		return nil
	case slices.Contains(w.Allowed, AllNamespaces):
		from = gateway.NamespacesFromAll
	default:
		names := append(slices.Clone(w.Allowed), w.Namespace)
		slices.Sort(names)
		namespaces.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpIn, Values: slices.Compact(names)},
		}}
	}
	return &gateway.AllowedRoutes{Namespaces: namespaces}
}

// Serves are the values of Wanted.For.
func Serves() []string { return []string{"service", "workload", "all", "none"} }

// Classes are the GatewayClasses that the control plane makes.
func Classes() []string { return []string{model.WaypointClass, model.IstioWaypointClass} }

// Gateway is the object that asks for it.
func (w Wanted) Gateway() *gateway.Gateway {
	return &gateway.Gateway{
		TypeMeta: metav1.TypeMeta{APIVersion: gateway.GroupVersion.String(), Kind: "Gateway"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.Namespace, Name: w.Name,
			Labels: map[string]string{label.IoIstioWaypointFor.Name: w.For},
		},
		Spec: gateway.GatewaySpec{
			GatewayClassName: gateway.ObjectName(w.Class),
			Listeners:        []gateway.Listener{{Name: "mesh", Port: model.WaypointPort, Protocol: "HBONE", AllowedRoutes: w.allowed()}},
		},
	}
}

// Object is the Gateway without what only a server fills in.
func (w Wanted) Object() (*unstructured.Unstructured, error) {
	text, err := json.Marshal(w.Gateway())
	if err != nil {
		return nil, err
	}
	o := &unstructured.Unstructured{}
	if err := json.Unmarshal(text, &o.Object); err != nil {
		return nil, err
	}
	delete(o.Object, "status")
	unstructured.RemoveNestedField(o.Object, "metadata", "creationTimestamp")
	return o, nil
}

// Apply writes the Gateway. It takes no Gateway over that is of another class. Unless
// forced it takes no field over that somebody else has set to something else, and does
// not shut out what is bound to the waypoint.
func Apply(ctx context.Context, client *kube.Client, w Wanted, force bool) error {
	if err := checkClass(ctx, client, w.Class); err != nil {
		return err
	}
	there, err := get(ctx, client, w.Namespace, w.Name)
	if err != nil {
		return err
	}
	if there != nil {
		name := string(there.Spec.GatewayClassName)
		class, err := getClass(ctx, client, name)
		if err != nil {
			return err
		}
		if !ours(name, class) {
			return fmt.Errorf("gateway %s/%s is there, of class %s, which is not of ambit: choose another name", w.Namespace, w.Name, name)
		}
		if err := w.checkBound(ctx, client); err != nil && !force {
			return err
		}
	}
	o, err := w.Object()
	if err != nil {
		return err
	}
	_, err = client.Dynamic.Resource(gatewaysResource()).Namespace(w.Namespace).Apply(ctx, w.Name, o, metav1.ApplyOptions{FieldManager: fieldManager, Force: force})
	switch {
	case apierrors.IsConflict(err):
		return fmt.Errorf("gateway %s/%s: somebody else has set it otherwise (--force takes it over): %w", w.Namespace, w.Name, err)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("there is no namespace %s", w.Namespace)
	case err != nil:
		return fmt.Errorf("gateway %s/%s: %w", w.Namespace, w.Name, err)
	}
	return nil
}

// checkBound refuses to shut out what is bound now and is served.
func (w Wanted) checkBound(ctx context.Context, client *kube.Client) error {
	state, err := Read(ctx, client)
	if err != nil {
		return err
	}
	for _, b := range state.boundTo(w.Key().String()) {
		namespace := b.Namespace
		if b.Kind == string(model.KindNamespace) {
			namespace = b.Name
		}
		if b.Refused == "" && !w.Allows(namespace) {
			return fmt.Errorf("%s is bound to waypoint %v, and its traffic would be refused: allow namespace %s (--allow-namespaces), unbind it first (%s), or say --force", b, w.Key(), namespace, b.unbind())
		}
	}
	return nil
}

// checkClass refuses a class that would not become a waypoint of ours.
func checkClass(ctx context.Context, client *kube.Client, name string) error {
	class, err := getClass(ctx, client, name)
	if err != nil {
		return err
	}
	switch {
	case class == nil && !ours(name, nil):
		return fmt.Errorf("there is no GatewayClass %s", name)
	case class == nil:
		return fmt.Errorf("there is no GatewayClass %s: the control plane makes it (is it installed, and does it run? ambit check)", name)
	case !ours(name, class):
		return fmt.Errorf("GatewayClass %s is served by %s, not by ambit", name, class.Spec.ControllerName)
	}
	return nil
}

// getClass reads a GatewayClass; nil when there is none.
func getClass(ctx context.Context, client *kube.Client, name string) (*gateway.GatewayClass, error) {
	o, err := client.Dynamic.Resource(classesResource()).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("GatewayClass %s: %w", name, err)
	}
	return typed[gateway.GatewayClass](o.Object)
}

// get reads a Gateway; nil when there is none.
func get(ctx context.Context, client *kube.Client, namespace, name string) (*gateway.Gateway, error) {
	o, err := client.Dynamic.Resource(gatewaysResource()).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("gateway %s/%s: %w", namespace, name, err)
	}
	return typed[gateway.Gateway](o.Object)
}

// Wait waits until a waypoint is Programmed. It says what is in the way whenever that
// changes, and when it does not for a while, what explain tells of its Deployment, by
// name (empty: nothing); when ctx ends, the error says it too.
func Wait(ctx context.Context, client *kube.Client, namespace, name string, explain func(ctx context.Context, deployment string) string, say func(format string, args ...any)) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var said, more string
	asked := time.Now()
	deployment := name
	for {
		g, err := get(ctx, client, namespace, name)
		if g != nil {
			deployment = model.WaypointName(g)
		}
		done, text := inTheWay(g, err)
		switch {
		case done:
			say("waypoint %s/%s is Programmed", namespace, name)
			return nil
		case text != said && (err == nil || said == "") && ctx.Err() == nil: // the API server may be away for a moment
			say("waiting: %s", text)
			said, more, asked = text, "", time.Now()
		case time.Since(asked) >= patience:
			if why := explain(ctx, deployment); why != "" && why != more {
				say("%s", why)
				more = why
			}
			asked = time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			looking, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
			defer cancel()
			return fmt.Errorf("%w: waypoint %s/%s: %s", context.Cause(ctx), namespace, name, strings.Join(slices.DeleteFunc([]string{said, explain(looking, deployment)}, func(s string) bool { return s == "" }), "\n"))
		}
	}
}

// inTheWay says what is in the way of a waypoint, or that it is done.
func inTheWay(g *gateway.Gateway, err error) (done bool, text string) {
	switch {
	case err != nil:
		return false, err.Error()
	case g == nil:
		return false, "somebody has removed its Gateway"
	}
	return programmed(g)
}
