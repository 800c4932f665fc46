package model

import (
	"maps"
	"slices"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	experimental "sigs.k8s.io/gateway-api/apisx/v1alpha1"
)

// shelf holds the objects of one kind in one namespace.
type shelf interface {
	look(name string) Object
	names() []string
}

// shelfOf is a shelf of one Go type.
type shelfOf[T any, P interface {
	*T
	Object
}] map[string]*T

// look implements shelf.
func (s shelfOf[T, P]) look(name string) Object {
	if o := s[name]; o != nil {
		return P(o)
	}
	return nil
}

// names implements shelf.
func (s shelfOf[T, P]) names() []string { return slices.Collect(maps.Keys(s)) }

// shelf is where the objects of a kind are; nil for a kind that is kept
// elsewhere, or not at all.
func (s *space) shelf(kind Kind) shelf {
	switch kind {
	case KindPod:
		return shelfOf[corev1.Pod, *corev1.Pod](s.pods)
	case KindService:
		return shelfOf[corev1.Service, *corev1.Service](s.services)
	case KindEndpointSlice:
		return shelfOf[discoveryapi.EndpointSlice, *discoveryapi.EndpointSlice](s.slices)
	case KindAuthorizationPolicy:
		return shelfOf[security.AuthorizationPolicy, *security.AuthorizationPolicy](s.policies)
	case KindPeerAuthentication:
		return shelfOf[security.PeerAuthentication, *security.PeerAuthentication](s.peers)
	case KindRequestAuthentication:
		return shelfOf[security.RequestAuthentication, *security.RequestAuthentication](s.tokens)
	case KindWorkloadEntry:
		return shelfOf[networking.WorkloadEntry, *networking.WorkloadEntry](s.entries)
	case KindServiceEntry:
		return shelfOf[networking.ServiceEntry, *networking.ServiceEntry](s.serviceEntries)
	case KindGateway:
		return shelfOf[gateway.Gateway, *gateway.Gateway](s.gateways)
	case KindBackendPolicy:
		return shelfOf[experimental.XBackendTrafficPolicy, *experimental.XBackendTrafficPolicy](s.backends)
	case KindHTTPRoute:
		return shelfOf[gateway.HTTPRoute, *gateway.HTTPRoute](s.httpRoutes)
	case KindGRPCRoute:
		return shelfOf[gateway.GRPCRoute, *gateway.GRPCRoute](s.grpcRoutes)
	case KindTLSRoute:
		return shelfOf[gateway.TLSRoute, *gateway.TLSRoute](s.tlsRoutes)
	case KindTCPRoute:
		return shelfOf[gateway.TCPRoute, *gateway.TCPRoute](s.tcpRoutes)
	case KindReferenceGrant:
		return shelfOf[gateway.ReferenceGrant, *gateway.ReferenceGrant](s.grants)
	case KindVirtualService:
		return shelfOf[networking.VirtualService, *networking.VirtualService](s.virtuals)
	case KindDestinationRule:
		return shelfOf[networking.DestinationRule, *networking.DestinationRule](s.rules)
	case KindRateLimit:
		return shelfOf[RateLimit, *RateLimit](s.limits)
	case KindServiceProfile:
		return shelfOf[ServiceProfile, *ServiceProfile](s.profiles)
	}
	return nil
}

// Look is an object, nil when there is none, and its conditions. They must not be
// changed.
func (m *Model) Look(key Key) (Object, []Condition) {
	conditions := m.conditions[key]
	switch key.Kind {
	case KindNode:
		return shelfOf[corev1.Node, *corev1.Node](m.nodes).look(key.Name), conditions
	case KindGatewayClass:
		return shelfOf[gateway.GatewayClass, *gateway.GatewayClass](m.classes).look(key.Name), conditions
	case KindNamespace:
		if s := m.spaces[key.Name]; s != nil && s.namespace != nil {
			return s.namespace, conditions
		}
		return nil, conditions
	}
	if s := m.spaces[key.Namespace]; s != nil {
		if on := s.shelf(key.Kind); on != nil {
			return on.look(key.Name), conditions
		}
	}
	return nil, conditions
}

// Keys are the names of all objects of a kind, in no order.
func (m *Model) Keys(kind Kind) []Key {
	var keys []Key
	if kind == KindNode {
		for name := range m.nodes {
			keys = append(keys, Key{Kind: kind, Name: name})
		}
	}
	if kind == KindGatewayClass {
		for name := range m.classes {
			keys = append(keys, Key{Kind: kind, Name: name})
		}
	}
	for namespace, s := range m.spaces {
		if kind == KindNamespace && s.namespace != nil {
			keys = append(keys, Key{Kind: kind, Name: namespace})
		}
		if on := s.shelf(kind); on != nil {
			for _, name := range on.names() {
				keys = append(keys, Key{kind, namespace, name})
			}
		}
	}
	return keys
}
