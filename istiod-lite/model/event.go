package model

import (
	"fmt"
	"strings"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
)

// Kind is the kind of an object that the model reads.
type Kind string

// The kinds that the model reads. The Go types are those of k8s.io/api,
// istio.io/client-go (v1) and sigs.k8s.io/gateway-api.
const (
	KindNamespace           Kind = "Namespace"
	KindNode                Kind = "Node"
	KindServiceAccount      Kind = "ServiceAccount"
	KindPod                 Kind = "Pod"
	KindService             Kind = "Service"
	KindEndpointSlice       Kind = "EndpointSlice"
	KindAuthorizationPolicy Kind = "AuthorizationPolicy"
	KindPeerAuthentication  Kind = "PeerAuthentication"
	// KindRequestAuthentication says which tokens are believed.
	KindRequestAuthentication Kind = "RequestAuthentication"
	// KindConfigMap is read for the configuration of the mesh; others count for nothing.
	KindConfigMap       Kind = "ConfigMap"
	KindWorkloadEntry   Kind = "WorkloadEntry"
	KindServiceEntry    Kind = "ServiceEntry"
	KindGatewayClass    Kind = "GatewayClass"
	KindGateway         Kind = "Gateway"
	KindHTTPRoute       Kind = "HTTPRoute"
	KindGRPCRoute       Kind = "GRPCRoute"
	KindTLSRoute        Kind = "TLSRoute"
	KindTCPRoute        Kind = "TCPRoute"
	KindReferenceGrant  Kind = "ReferenceGrant"
	KindVirtualService  Kind = "VirtualService"
	KindDestinationRule Kind = "DestinationRule"
	KindServiceProfile  Kind = "ServiceProfile"
	// KindBackendPolicy says how the backends of routes are treated.
	KindBackendPolicy Kind = "XBackendTrafficPolicy"
	// KindRateLimit bounds the requests of rules that name it.
	KindRateLimit Kind = "RateLimit"
)

// ClusterScoped reports whether objects of the kind have no namespace.
func (k Kind) ClusterScoped() bool {
	return k == KindNamespace || k == KindNode || k == KindGatewayClass
}

// Key names an object. It is comparable.
type Key struct {
	Kind      Kind
	Namespace string // empty for kinds without one
	Name      string
}

// String is "Pod shop/web".
func (k Key) String() string {
	if k.Namespace == "" {
		return string(k.Kind) + " " + k.Name
	}
	return string(k.Kind) + " " + k.Namespace + "/" + k.Name
}

// Object is a pointer to one of the Go types named at [Kind].
type Object = metav1.Object

// Event is one change of the world: an object came, changed, or went.
type Event struct {
	Key    Key
	Object Object // nil: the object is gone
}

// Type is the type of what a [Change] is about.
type Type uint8

// The types of changes, in the order in which proxies should learn of them.
const (
	TypeAuthorization          Type = iota + 1 // a policy
	TypeAddress                                // a workload or a service
	TypeWaypointAuthorization                  // a policy with what it asks of requests
	TypeWaypointAuthentication                 // which tokens are believed
	TypeWaypointProvider                       // who is asked about requests
	TypeWaypointEndpoint                       // what waypoints know of a workload
	TypeWaypointService                        // how waypoints treat requests of a service
	TypeCondition                              // what the author of an object should know
)

// String is a short name for people.
func (t Type) String() string {
	switch t {
	case TypeAuthorization:
		return "authorization"
	case TypeAddress:
		return "address"
	case TypeWaypointAuthorization:
		return "waypoint authorization"
	case TypeWaypointAuthentication:
		return "waypoint authentication"
	case TypeWaypointProvider:
		return "waypoint provider"
	case TypeWaypointEndpoint:
		return "waypoint endpoint"
	case TypeWaypointService:
		return "waypoint service"
	case TypeCondition:
		return "condition"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Resource is one resource as proxies receive it. It is never changed.
type Resource struct {
	Type Type
	Name string

	// Wire holds name, version (a hash of the content), aliases and content. It
	// may be sent to many proxies at once.
	Wire *discoveryv3.Resource

	// IsService tells services from workloads among addresses.
	IsService bool
	// Services are the resource names of the services that a workload backs. They are
	// groups, too.
	Services []string
	// Groups are names of what else it belongs to, and Needs what a waypoint that has
	// it must have as well.
	Groups []string
	Needs  []Need
	// Node is the node of a pod.
	Node string
	// Healthy reports whether a workload takes new connections.
	Healthy bool
}

// Version is a hash of the content.
func (r *Resource) Version() string { return r.Wire.Version }

// Message is the content.
func (r *Resource) Message() (proto.Message, error) {
	var m proto.Message = &workloadapi.Address{}
	switch r.Type {
	case TypeAuthorization:
		m = &securityapi.Authorization{}
	case TypeWaypointAuthorization:
		m = &waypointapi.Authorization{}
	case TypeWaypointAuthentication:
		m = &waypointapi.Authentication{}
	case TypeWaypointProvider:
		m = &waypointapi.Provider{}
	case TypeWaypointEndpoint:
		m = &waypointapi.Endpoint{}
	case TypeWaypointService:
		m = &waypointapi.Service{}
	}
	return m, r.Wire.Resource.UnmarshalTo(m)
}

// Change is one difference that an [Event] made.
type Change struct {
	Type Type

	// Name of the resource. Empty for conditions.
	Name string
	// Resource is what stands now. Nil: it is gone.
	Resource *Resource

	// Object is whose conditions changed, and Conditions are all it has now.
	Object     Key
	Conditions []Condition

	// Links is true when the content is what it was, and what it belongs to or needs
	// differs: who has the resource has it as it is.
	Links bool
	// Urgent changes must not wait for others: something went, or takes no new
	// connections any more.
	Urgent bool
}

// String is one line.
func (c Change) String() string {
	switch {
	case c.Type == TypeCondition:
		return fmt.Sprintf("condition %v: %s", c.Object, joinConditions(c.Conditions))
	case c.Resource == nil:
		return fmt.Sprintf("- %v %s", c.Type, c.Name)
	}
	return fmt.Sprintf("+ %v %s@%s", c.Type, c.Name, c.Resource.Version())
}

// Condition is what the author of an object should know. It is comparable.
type Condition struct {
	// Parent is which of the object's parents it is about: the number in
	// spec.parentRefs, from 1 on. Zero: it is about the object.
	Parent  int
	Type    string // such as ZtunnelAccepted
	True    bool
	Reason  string // one word
	Message string
}

// String is "ZtunnelAccepted=False UnsupportedValue: why".
func (c Condition) String() string {
	value := "False"
	if c.True {
		value = "True"
	}
	text := c.Type + "=" + value + " " + c.Reason
	if c.Parent > 0 {
		text = fmt.Sprintf("parentRefs[%d]: %s", c.Parent-1, text)
	}
	if c.Message != "" {
		text += ": " + c.Message
	}
	return text
}

// joinConditions writes conditions in one line.
func joinConditions(all []Condition) string {
	var texts []string
	for _, c := range all {
		texts = append(texts, c.String())
	}
	return strings.Join(texts, "; ")
}
