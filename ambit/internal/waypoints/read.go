package waypoints

import (
	"context"
	"encoding/json"
	"fmt"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/gateways"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// Where the kinds of others are.
func gatewaysResource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: gateway.GroupName, Version: "v1", Resource: "gateways"}
}

func classesResource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: gateway.GroupName, Version: "v1", Resource: "gatewayclasses"}
}

// State is what a cluster holds that has to do with waypoints. It is not changed
// after [Read] and may be read from many goroutines.
type State struct {
	world       *model.Model
	gateways    []*gateway.Gateway
	classes     map[string]*gateway.GatewayClass
	deployments map[model.Key]*appsv1.Deployment // that the control plane made
	pods        []*corev1.Pod
}

// Read reads a cluster.
func Read(ctx context.Context, client *kube.Client) (*State, error) {
	var namespaces []*corev1.Namespace
	spaces := func(l *corev1.NamespaceList) ([]corev1.Namespace, string) { return l.Items, l.Continue }
	if err := kube.All(ctx, client.Kube.CoreV1().Namespaces().List, spaces, metav1.ListOptions{}, func(n *corev1.Namespace) { namespaces = append(namespaces, n) }); err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var pods []*corev1.Pod
	items := func(l *corev1.PodList) ([]corev1.Pod, string) { return l.Items, l.Continue }
	if err := kube.All(ctx, client.Kube.CoreV1().Pods("").List, items, metav1.ListOptions{}, func(p *corev1.Pod) { pods = append(pods, p) }); err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	return ReadWith(ctx, client, namespaces, pods)
}

// ReadWith reads what a caller who has read namespaces and pods still lacks.
func ReadWith(ctx context.Context, client *kube.Client, namespaces []*corev1.Namespace, pods []*corev1.Pod) (*State, error) {
	var all []model.Object
	for _, n := range namespaces {
		all = append(all, n)
	}
	for _, p := range pods {
		all = append(all, p)
	}
	services := func(l *corev1.ServiceList) ([]corev1.Service, string) { return l.Items, l.Continue }
	if err := kube.All(ctx, client.Kube.CoreV1().Services("").List, services, metav1.ListOptions{}, func(o *corev1.Service) { all = append(all, o) }); err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	deployments, err := client.Kube.AppsV1().Deployments("").List(ctx, metav1.ListOptions{LabelSelector: gateways.Selector})
	if err != nil {
		return nil, fmt.Errorf("list deployments: %w", err)
	}
	for i := range deployments.Items {
		all = append(all, &deployments.Items[i])
	}
	for _, more := range []func() ([]model.Object, error){
		func() ([]model.Object, error) { return objects[gateway.GatewayClass](ctx, client, classesResource()) },
		func() ([]model.Object, error) { return objects[gateway.Gateway](ctx, client, gatewaysResource()) },
		func() ([]model.Object, error) {
			return objects[networking.WorkloadEntry](ctx, client, networking.SchemeGroupVersion.WithResource("workloadentries"))
		},
		func() ([]model.Object, error) {
			return objects[networking.ServiceEntry](ctx, client, networking.SchemeGroupVersion.WithResource("serviceentries"))
		},
	} {
		found, err := more()
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return Of(all...), nil
}

// Of is the state of a cluster that holds these objects. Those of kinds that have
// nothing to do with waypoints count for nothing.
func Of(all ...model.Object) *State {
	s := &State{world: model.New(model.Config{}), classes: map[string]*gateway.GatewayClass{}, deployments: map[model.Key]*appsv1.Deployment{}}
	var events []model.Event
	for _, o := range all {
		kind := model.Kind("")
		switch o := o.(type) {
		case *corev1.Namespace:
			kind = model.KindNamespace
		case *corev1.Pod:
			kind = model.KindPod
			s.pods = append(s.pods, o)
		case *corev1.Service:
			kind = model.KindService
		case *networking.WorkloadEntry:
			kind = model.KindWorkloadEntry
		case *networking.ServiceEntry:
			kind = model.KindServiceEntry
		case *gateway.GatewayClass:
			kind = model.KindGatewayClass
			s.classes[o.Name] = o
		case *gateway.Gateway:
			kind = model.KindGateway
			s.gateways = append(s.gateways, o)
		case *appsv1.Deployment:
			s.deployments[model.Key{Namespace: o.Namespace, Name: o.Name}] = o
			continue
		default:
			continue
		}
		events = append(events, model.Event{Key: model.Key{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}, Object: o})
	}
	s.world.Apply(events...)
	return s
}

// objects reads all objects of a kind, as [list] does.
func objects[T any, P interface {
	*T
	model.Object
}](ctx context.Context, client *kube.Client, of schema.GroupVersionResource) (all []model.Object, err error) {
	found, err := list[T](ctx, client, of, "")
	for _, o := range found {
		all = append(all, P(o))
	}
	return all, err
}

// list reads all objects of a kind; none when the kind is not defined.
func list[T any](ctx context.Context, client *kube.Client, of schema.GroupVersionResource, namespace string) ([]*T, error) {
	found, err := client.Dynamic.Resource(of).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", of.Resource, err)
	}
	var all []*T
	for i := range found.Items {
		o, err := typed[T](found.Items[i].Object)
		if err != nil {
			return nil, fmt.Errorf("%s %s/%s: %w", of.Resource, found.Items[i].GetNamespace(), found.Items[i].GetName(), err)
		}
		all = append(all, o)
	}
	return all, nil
}

// typed is content as an object of its Go type.
func typed[T any](content map[string]any) (*T, error) {
	text, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	o := new(T)
	return o, json.Unmarshal(text, o)
}

// ours tells whether a Gateway is of a class of ours, by what stands in the cluster;
// without any class, by the names that ours have.
func ours(class string, is *gateway.GatewayClass) bool {
	if is != nil {
		return is.Spec.ControllerName == model.WaypointController
	}
	return class == model.WaypointClass || class == model.IstioWaypointClass
}
