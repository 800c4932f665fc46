package kube

import (
	"reflect"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	experimental "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// kind is how objects of one kind are read.
type kind struct {
	kind     model.Kind
	group    string
	versions []string // the first that is served is read
	resource string

	empty     func() runtime.Object
	emptyList func() runtime.Object
	// builtIn is the client of a kind of Kubernetes itself; nil for those that a
	// CustomResourceDefinition makes.
	builtIn func(kubernetes.Interface) rest.Interface
	// only restricts what is read; nil: everything.
	only fields.Selector
	// inRoot: only objects of the root namespace are read, which is namespace once a
	// source is made.
	inRoot    bool
	namespace string
	// trim keeps what the model reads. Trimming twice does no more.
	trim func(runtime.Object) model.Object
	// same reports whether an object says what it said before. It may be wrong in
	// saying no.
	same func(old, now model.Object) bool
	// ends reports whether an object is about to go, or holds one that is.
	ends func(old, now model.Object) bool
}

// isCustom reports whether a CustomResourceDefinition makes the kind.
func (k *kind) isCustom() bool { return k.builtIn == nil }

// crd is the name of the CustomResourceDefinition.
func (k *kind) crd() string { return k.resource + "." + k.group }

// core and discovery are clients of groups.
func core(c kubernetes.Interface) rest.Interface      { return c.CoreV1().RESTClient() }
func discovery(c kubernetes.Interface) rest.Interface { return c.DiscoveryV1().RESTClient() }

// Versions that the groups of custom kinds have had with one content, newest
// first.
func securityVersions() []string   { return []string{"v1", "v1beta1"} }
func networkingVersions() []string { return []string{"v1", "v1beta1", "v1alpha3"} }
func gatewayVersions() []string    { return []string{"v1", "v1beta1"} }

// kinds are all kinds that are read.
func kinds() []*kind {
	return []*kind{
		builtIn[corev1.Namespace, corev1.NamespaceList](model.KindNamespace, "", "namespaces", core, trimNamespace),
		builtIn[corev1.Node, corev1.NodeList](model.KindNode, "", "nodes", core, trimNode),
		podKind(),
		builtIn[corev1.Service, corev1.ServiceList](model.KindService, "", "services", core, trimService),
		sliceKind(),
		custom[security.AuthorizationPolicy, security.AuthorizationPolicyList](model.KindAuthorizationPolicy, "security.istio.io", securityVersions(), "authorizationpolicies"),
		custom[security.PeerAuthentication, security.PeerAuthenticationList](model.KindPeerAuthentication, "security.istio.io", securityVersions(), "peerauthentications"),
		meshConfigKind(),
		custom[security.RequestAuthentication, security.RequestAuthenticationList](model.KindRequestAuthentication, "security.istio.io", securityVersions(), "requestauthentications"),
		custom[networking.ServiceEntry, networking.ServiceEntryList](model.KindServiceEntry, "networking.istio.io", networkingVersions(), "serviceentries"),
		custom[networking.WorkloadEntry, networking.WorkloadEntryList](model.KindWorkloadEntry, "networking.istio.io", networkingVersions(), "workloadentries"),
		custom[gateway.GatewayClass, gateway.GatewayClassList](model.KindGatewayClass, "gateway.networking.k8s.io", gatewayVersions(), "gatewayclasses"),
		custom[gateway.Gateway, gateway.GatewayList](model.KindGateway, "gateway.networking.k8s.io", gatewayVersions(), "gateways"),
		custom[networking.VirtualService, networking.VirtualServiceList](model.KindVirtualService, "networking.istio.io", networkingVersions(), "virtualservices"),
		custom[networking.DestinationRule, networking.DestinationRuleList](model.KindDestinationRule, "networking.istio.io", networkingVersions(), "destinationrules"),
		custom[gateway.HTTPRoute, gateway.HTTPRouteList](model.KindHTTPRoute, "gateway.networking.k8s.io", gatewayVersions(), "httproutes"),
		custom[gateway.GRPCRoute, gateway.GRPCRouteList](model.KindGRPCRoute, "gateway.networking.k8s.io", []string{"v1"}, "grpcroutes"),
		custom[gateway.TLSRoute, gateway.TLSRouteList](model.KindTLSRoute, "gateway.networking.k8s.io", []string{"v1", "v1alpha3"}, "tlsroutes"),
		custom[gateway.TCPRoute, gateway.TCPRouteList](model.KindTCPRoute, "gateway.networking.k8s.io", []string{"v1", "v1alpha2"}, "tcproutes"),
		custom[experimental.XBackendTrafficPolicy, experimental.XBackendTrafficPolicyList](model.KindBackendPolicy, "gateway.networking.x-k8s.io", []string{"v1alpha1"}, "xbackendtrafficpolicies"),
		custom[gateway.ReferenceGrant, gateway.ReferenceGrantList](model.KindReferenceGrant, "gateway.networking.k8s.io", gatewayVersions(), "referencegrants"),
		custom[model.ServiceProfile, model.ServiceProfileList](model.KindServiceProfile, "linkerd.io", []string{"v1alpha2"}, "serviceprofiles"),
		custom[model.RateLimit, model.RateLimitList](model.KindRateLimit, model.RateLimitGroup, []string{"v1alpha1"}, "ratelimits"),
	}
}

// podKind reads the pods that have not ended: one that ends looks as if it went.
func podKind() *kind {
	k := builtIn[corev1.Pod, corev1.PodList](model.KindPod, "", "pods", core, trimPod)
	k.only = notEnded()
	k.ends = func(_, now model.Object) bool { return now == nil || now.GetDeletionTimestamp() != nil }
	return k
}

// meshConfigKind reads one object: the configuration of the mesh.
func meshConfigKind() *kind {
	k := builtIn[corev1.ConfigMap, corev1.ConfigMapList](model.KindConfigMap, "", "configmaps", core, trimMeshConfig)
	k.only, k.inRoot = fields.OneTermEqualSelector("metadata.name", model.MeshConfigMap), true
	return k
}

// sliceKind reads endpoints.
func sliceKind() *kind {
	k := builtIn[discoveryapi.EndpointSlice, discoveryapi.EndpointSliceList](model.KindEndpointSlice, "discovery.k8s.io", "endpointslices", discovery, trimSlice)
	k.ends = func(old, now model.Object) bool {
		before, _ := old.(*discoveryapi.EndpointSlice)
		after, _ := now.(*discoveryapi.EndpointSlice)
		return endpointsTaken(after) < endpointsTaken(before)
	}
	return k
}

// notEnded selects the pods that run or will.
func notEnded() fields.Selector {
	return fields.AndSelectors(
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)),
	)
}

// object is a pointer to a Go type of Kubernetes.
type object[T any] interface {
	*T
	runtime.Object
	model.Object
}

// list is the same of a list.
type list[T any] interface {
	*T
	runtime.Object
}

// builtIn is a kind of Kubernetes itself.
func builtIn[T, L any, P object[T], PL list[L]](name model.Kind, group, resource string, client func(kubernetes.Interface) rest.Interface, trim func(P) P) *kind {
	return &kind{
		kind: name, group: group, versions: []string{"v1"}, resource: resource, builtIn: client,
		empty:     func() runtime.Object { return P(new(T)) },
		emptyList: func() runtime.Object { return PL(new(L)) },
		trim:      func(o runtime.Object) model.Object { return trim(o.(P)) },
		same:      func(old, now model.Object) bool { return reflect.DeepEqual(old, now) },
	}
}

// custom is a kind that a CustomResourceDefinition makes. Its objects are few and
// kept whole but for what others note in their metadata.
func custom[T, L any, P object[T], PL list[L]](name model.Kind, group string, versions []string, resource string) *kind {
	return &kind{
		kind: name, group: group, versions: versions, resource: resource,
		empty:     func() runtime.Object { return P(new(T)) },
		emptyList: func() runtime.Object { return PL(new(L)) },
		trim: func(o runtime.Object) model.Object {
			object := o.(P)
			trimCustom(object)
			return object
		},
		// Others read these at the same time, and protocol buffers fill themselves in
		// as they are read.
		same: func(old, now model.Object) bool { return old.GetResourceVersion() == now.GetResourceVersion() },
	}
}

// isNotFound reports whether the API server says that there is no such thing.
func isNotFound(err error) bool { return apierrors.IsNotFound(err) }
