package gateways

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// parameters are the ConfigMaps that class and Gateway name, in their order.
func (c *Controller) parameters(ctx context.Context, g *gateway.Gateway, class *gateway.GatewayClass) ([]map[string]string, error) {
	var all []map[string]string
	read := func(group, kind, namespace, name string) error {
		if group != "" || kind != "ConfigMap" {
			return &ParametersError{fmt.Errorf("parametersRef: kind %s of group %q: want a ConfigMap", kind, group)}
		}
		data, ok, err := c.deps.Client.ConfigMap(ctx, namespace, name)
		if err != nil {
			return err
		}
		if !ok {
			return &ParametersError{fmt.Errorf("parametersRef: there is no ConfigMap %s/%s", namespace, name)}
		}
		all = append(all, data)
		return nil
	}
	if ref := class.Spec.ParametersRef; ref != nil {
		if ref.Namespace == nil {
			return nil, &ParametersError{fmt.Errorf("parametersRef of GatewayClass %s names no namespace", class.Name)}
		}
		if err := read(string(ref.Group), string(ref.Kind), string(*ref.Namespace), ref.Name); err != nil {
			return nil, err
		}
	}
	if g.Spec.Infrastructure != nil && g.Spec.Infrastructure.ParametersRef != nil {
		ref := g.Spec.Infrastructure.ParametersRef
		if err := read(string(ref.Group), string(ref.Kind), g.Namespace, ref.Name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// apply applies what a Gateway consists of. What is there and is not the Gateway's is
// left alone.
func (c *Controller) apply(ctx context.Context, g *gateway.Gateway, objects []kube.Made) error {
	scaled := false
	for _, o := range objects {
		t, err := kube.TargetOf(o)
		if err != nil {
			return err
		}
		owner, there, err := c.deps.Client.ControllerOf(ctx, t)
		if err != nil {
			return err
		}
		if there && owner != g.UID {
			return errNotOurs(t)
		}
		switch o := o.(type) {
		case *appsv1.Deployment:
			err = c.applyDeployment(ctx, o, leastOf(objects))
		default:
			err = c.deps.Client.ApplyObject(ctx, manager, o, true)
		}
		if err != nil {
			return err
		}
		_, isScaler := o.(*autoscalingv2.HorizontalPodAutoscaler)
		scaled = scaled || isScaler
	}
	if scaled {
		return nil
	}
	return c.removeAutoscaler(ctx, g)
}

// leastOf is the least number of instances that an autoscaler among objects keeps;
// zero without one.
func leastOf(objects []kube.Made) int32 {
	for _, o := range objects {
		if a, ok := o.(*autoscalingv2.HorizontalPodAutoscaler); ok && a.Spec.MinReplicas != nil {
			return *a.Spec.MinReplicas
		}
	}
	return 0
}

// applyDeployment applies the Deployment. Where an autoscaler decides how many
// instances there are, its number is kept, and only the first one is ours: a
// Deployment that nobody gives a number to has one instance.
func (c *Controller) applyDeployment(ctx context.Context, d *appsv1.Deployment, least int32) error {
	if d.Spec.Replicas != nil {
		return c.deps.Client.ApplyObject(ctx, manager, d, true)
	}
	t, err := kube.TargetOf(d)
	if err != nil {
		return err
	}
	scale := func(n int32) error {
		return c.deps.Client.Apply(ctx, scaler, t, map[string]any{"spec": map[string]any{"replicas": n}})
	}
	n, there, err := c.deps.Client.Replicas(ctx, d.Namespace, d.Name)
	if err != nil {
		return err
	}
	if there { // the field must not fall back when we stop saying it
		if err := scale(max(n, least)); err != nil {
			return err
		}
	}
	if err := c.deps.Client.ApplyObject(ctx, manager, d, true); err != nil || there {
		return err
	}
	return scale(max(1, least))
}

// removeAutoscaler removes the autoscaler of a Gateway that has none any more.
func (c *Controller) removeAutoscaler(ctx context.Context, g *gateway.Gateway) error {
	t, err := kube.TargetOf(&autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: model.WaypointName(g), Namespace: g.Namespace}})
	if err != nil {
		return err
	}
	owner, there, err := c.deps.Client.ControllerOf(ctx, t)
	if err != nil || !there || owner != g.UID {
		return err
	}
	return c.deps.Client.Delete(ctx, t)
}
