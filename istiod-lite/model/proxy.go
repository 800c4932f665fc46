package model

import (
	"errors"
	"fmt"
	"slices"

	"istio.io/api/label"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// ErrUnknownPod is in the error of [Model.ProxyOf] when nobody has told of the pod,
// yet or any more.
var ErrUnknownPod = errors.New("there is no such pod")

// Proxy is the part of a Gateway that a pod plays.
type Proxy struct {
	// Gateway is whose proxy it is.
	Gateway Key
	// Service is the resource name of the waypoint's own service.
	Service string
}

// ProxyOf says of which Gateway a pod is the proxy: the one that its label names, else
// the one whose Service selects it. It is one only as the Gateway's own service
// account: labels are what anybody may write who may make a pod, and so what a pod
// says of itself counts for nothing without it. With a node, the pod must run there.
func (m *Model) ProxyOf(namespace, name, node string) (Proxy, error) {
	s := m.spaces[namespace]
	if s == nil || s.pods[name] == nil || HasEnded(s.pods[name]) {
		return Proxy{}, fmt.Errorf("%w: %s/%s", ErrUnknownPod, namespace, name)
	}
	p := s.pods[name]
	if node != "" && p.Spec.NodeName != node {
		return Proxy{}, fmt.Errorf("pod %s/%s does not run on node %q", namespace, name, node)
	}
	of, labelled := p.Labels[label.IoK8sNetworkingGatewayGatewayName.Name]
	var found []*gateway.Gateway
	for _, g := range s.gateways {
		service := s.services[WaypointName(g)]
		selected := !labelled && service != nil && len(service.Spec.Selector) > 0 && selects(service.Spec.Selector, p.Labels)
		if labelled && g.Name == of || selected {
			found = append(found, g)
		}
	}
	switch {
	case labelled && len(found) == 0:
		return Proxy{}, fmt.Errorf("pod %s/%s is labelled as of Gateway %s, which is not there", namespace, name, of)
	case len(found) == 0:
		return Proxy{}, fmt.Errorf("pod %s/%s is of no Gateway: it has no label %s, and no Service of a Gateway selects it", namespace, name, label.IoK8sNetworkingGatewayGatewayName.Name)
	}
	wrong := AccountOf(p)
	found = slices.DeleteFunc(found, func(g *gateway.Gateway) bool { return WaypointAccount(g) != wrong })
	if len(found) != 1 {
		return Proxy{}, fmt.Errorf("pod %s/%s runs as service account %q, which is not that of %s", namespace, name, wrong, gatewaysFor(labelled, of))
	}
	g := found[0]
	return Proxy{
		Gateway: Key{KindGateway, g.Namespace, g.Name},
		Service: g.Namespace + "/" + WaypointName(g) + "." + g.Namespace + ".svc." + m.cfg.ClusterDomain,
	}, nil
}

// gatewaysFor names in an error whose account a pod lacks.
func gatewaysFor(labelled bool, name string) string {
	if labelled {
		return "the proxy of Gateway " + name
	}
	return "exactly one of the Gateways whose Services select it"
}
