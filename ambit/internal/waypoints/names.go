package waypoints

import (
	"context"

	"istio.io/api/label"
	corev1 "k8s.io/api/core/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/gateways"
)

// Name names a waypoint.
type Name struct{ Namespace, Name, Class string }

// String is "shop/waypoint".
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Names are the waypoints of a namespace, of all when it is empty: as [State.List], of
// which nothing but the names is wanted.
func Names(ctx context.Context, client *kube.Client, namespace string) ([]Name, error) {
	found, err := list[gateway.Gateway](ctx, client, gatewaysResource(), namespace)
	if err != nil {
		return nil, err
	}
	classes := map[string]*gateway.GatewayClass{}
	all, err := list[gateway.GatewayClass](ctx, client, classesResource(), "")
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		classes[c.Name] = c
	}
	var names []Name
	for _, g := range found {
		if class := string(g.Spec.GatewayClassName); ours(class, classes[class]) {
			names = append(names, Name{g.Namespace, g.Name, class})
		}
	}
	return names, nil
}

// IsInstance tells whether a pod is one of a waypoint that the control plane made.
func IsInstance(p *corev1.Pod) bool {
	return p.Labels[gateways.PartOfLabel] == gateways.PartOf && p.Labels[gateways.MadeByLabel] == gateways.MadeBy &&
		p.Labels[label.IoK8sNetworkingGatewayGatewayName.Name] != ""
}
