package gateways

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// keepClass makes a class of ours when there is none of its name, and says in its
// status that it is served. One that somebody else has made is left alone.
func (c *Controller) keepClass(ctx context.Context, key model.Key) error {
	if c.deps.Version(model.KindGatewayClass) == "" {
		return nil // not defined yet
	}
	o, conditions := c.deps.World.Look(key)
	class, ok := o.(*gateway.GatewayClass)
	if !ok {
		if !slices.Contains(classKeys(), key) {
			return nil
		}
		err := c.deps.Client.ApplyObject(ctx, manager, newClass(key.Name), false)
		if errors.Is(err, kube.ErrConflict) {
			return nil // somebody else made it in this moment
		}
		if err == nil {
			c.log.Info("class made", zap.String("class", key.Name))
		}
		return err
	}
	if class.Spec.ControllerName != model.WaypointController || class.DeletionTimestamp != nil {
		return nil
	}
	want := standing(class.Status.Conditions, conditions, class.Generation, time.Now())
	if reflect.DeepEqual(class.Status.Conditions, want) {
		return nil
	}
	return c.writeStatus(ctx, key, map[string]any{"conditions": want})
}

// newClass is a class as we make it.
func newClass(name string) *gateway.GatewayClass {
	about := "waypoints of ambit: HTTP rules for what is bound to them" // at most 64 bytes
	return &gateway.GatewayClass{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{PartOfLabel: PartOf, MadeByLabel: MadeBy}},
		Spec:       gateway.GatewayClassSpec{ControllerName: model.WaypointController, Description: &about},
	}
}
