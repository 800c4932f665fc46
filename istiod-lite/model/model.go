package model

import (
	"cmp"
	"maps"
	"slices"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	experimental "sigs.k8s.io/gateway-api/apisx/v1alpha1"
)

// Config is what the translation depends on beside objects. The zero Config is
// that of a mesh with all the usual names.
type Config struct {
	// ClusterID is part of every workload's UID. Empty means Kubernetes.
	ClusterID string
	// ClusterDomain ends the host names of services. Empty means cluster.local.
	ClusterDomain string
	// TrustDomain of all identities. Empty means cluster.local.
	TrustDomain string
	// RootNamespace holds what applies to the whole mesh. Empty means istio-system.
	RootNamespace string
	// Network is the id of the network of all workloads. Empty is a valid id.
	Network string
	// DryRun sends policies that carry the dry-run annotation, marked as such.
	// Proxies that do not know the mark enforce them.
	DryRun bool
}

// withDefaults returns the configuration that is in force.
func (c Config) withDefaults() Config {
	c.ClusterID = cmp.Or(c.ClusterID, "Kubernetes")
	c.ClusterDomain = cmp.Or(c.ClusterDomain, "cluster.local")
	c.TrustDomain = cmp.Or(c.TrustDomain, "cluster.local")
	c.RootNamespace = cmp.Or(c.RootNamespace, "istio-system")
	return c
}

// Model holds all objects and what was derived from them.
type Model struct {
	cfg     Config
	spaces  map[string]*space // by namespace
	nodes   map[string]*corev1.Node
	silent  int                            // how many of them have not been heard of
	onNode  map[string]map[Key]*corev1.Pod // pods by node
	classes map[string]*gateway.GatewayClass

	attached map[Key]map[Key]struct{} // routes and policies by the objects that they name
	mesh     meshConfig

	derived    map[Key][]*Resource // what came of each object
	resources  map[resourceKey]*Resource
	conditions map[Key][]Condition
}

// resourceKey names a resource among those of all types.
type resourceKey struct {
	Type Type
	Name string
}

// space is what stands in one namespace.
type space struct {
	namespace      *corev1.Namespace // nil: nobody has told of it
	pods           map[string]*corev1.Pod
	services       map[string]*corev1.Service
	slices         map[string]*discoveryapi.EndpointSlice
	policies       map[string]*security.AuthorizationPolicy
	peers          map[string]*security.PeerAuthentication
	tokens         map[string]*security.RequestAuthentication
	entries        map[string]*networking.WorkloadEntry
	serviceEntries map[string]*networking.ServiceEntry
	gateways       map[string]*gateway.Gateway
	httpRoutes     map[string]*gateway.HTTPRoute
	grpcRoutes     map[string]*gateway.GRPCRoute
	tlsRoutes      map[string]*gateway.TLSRoute
	tcpRoutes      map[string]*gateway.TCPRoute
	grants         map[string]*gateway.ReferenceGrant
	virtuals       map[string]*networking.VirtualService
	rules          map[string]*networking.DestinationRule
	profiles       map[string]*ServiceProfile
	backends       map[string]*experimental.XBackendTrafficPolicy
	limits         map[string]*RateLimit

	podSlices map[string]map[string]bool // names of slices that refer to a pod
}

// New makes a model of an empty world.
func New(cfg Config) *Model {
	return &Model{
		cfg:        cfg.withDefaults(),
		spaces:     map[string]*space{},
		nodes:      map[string]*corev1.Node{},
		classes:    map[string]*gateway.GatewayClass{},
		onNode:     map[string]map[Key]*corev1.Pod{},
		attached:   map[Key]map[Key]struct{}{},
		derived:    map[Key][]*Resource{},
		resources:  map[resourceKey]*Resource{},
		conditions: map[Key][]Condition{},
	}
}

// Apply takes events in and returns what differs after the last of them: policies
// first, then addresses, then conditions, each sorted by name. Several events in
// one call cost less than several calls, and what cancels out is not returned.
func (m *Model) Apply(events ...Event) []Change {
	d := dirty{}
	for _, e := range events {
		m.apply(e, d)
	}
	m.spread(d)
	before := map[resourceKey]*Resource{}
	conditions := map[Key][]Condition{}
	for key := range d {
		m.rederive(key, before, conditions)
	}
	for _, e := range events {
		m.shrink(namespaceOf(e.Key))
	}
	var changes []Change
	for key, old := range before {
		if c, differs := m.change(key, old); differs {
			changes = append(changes, c)
		}
	}
	for key, old := range conditions {
		if now := m.conditions[key]; !slices.Equal(old, now) {
			changes = append(changes, Change{Type: TypeCondition, Object: key, Conditions: now})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Object.String(), b.Object.String()))
	})
	return changes
}

// apply stores one object, or forgets it, and marks what depends on it.
func (m *Model) apply(e Event, d dirty) {
	s := m.ownSpace(namespaceOf(e.Key))
	switch e.Key.Kind {
	case KindNamespace:
		object, _ := e.Object.(*corev1.Namespace)
		s.namespace = object
		m.dependOnNamespace(e.Key.Name, d)
		d.add(e.Key)
	case KindNode:
		m.applyNode(e, d)
	case KindPod:
		old, now := replace(s.pods, e)
		m.indexPod(e.Key, old, now)
		m.dependOnPod(e.Key, old, now, d)
	case KindService:
		old, now := replace(s.services, e)
		m.dependOnService(e.Key, old, now, d)
		m.dependOnAddress(e.Key, d)
	case KindEndpointSlice:
		old, now := replace(s.slices, e)
		m.dependOnSlice(e.Key, old, now, d)
	case KindAuthorizationPolicy:
		old, now := replace(s.policies, e)
		m.dependOnPolicy(e.Key, old, now, d)
		m.attachTo(e.Key, m.policyTargets(old), m.policyTargets(now), d)
	case KindRequestAuthentication:
		m.applyTokens(s, e, d)
	case KindConfigMap:
		m.applyMesh(e, d)
	case KindPeerAuthentication:
		old, now := replace(s.peers, e)
		m.dependOnPeerAuthentication(e.Key, old, now, d)
	case KindWorkloadEntry:
		old, now := replace(s.entries, e)
		m.dependOnEntry(e.Key, old, now, d)
	case KindServiceEntry:
		old, now := replace(s.serviceEntries, e)
		m.dependOnServiceEntry(e.Key, old, d)
		m.dependOnHosts(old, now, d)
	case KindGatewayClass:
		replace(m.classes, e)
		m.dependOnClass(e.Key.Name, d)
	case KindGateway:
		replace(s.gateways, e)
		d.add(e.Key)
		m.dependOnGateway(e.Key, d)
	case KindHTTPRoute, KindGRPCRoute, KindTLSRoute, KindTCPRoute:
		m.changeRoute(s, e, d)
	case KindReferenceGrant:
		replace(s.grants, e)
		d.add(Key{Kind: kindGrants, Name: e.Key.Namespace})
	case KindVirtualService:
		old, now := replace(s.virtuals, e)
		m.attachTo(e.Key, m.virtualTargets(old), m.virtualTargets(now), d)
	case KindDestinationRule:
		old, now := replace(s.rules, e)
		m.attachTo(e.Key, m.ruleTargets(old), m.ruleTargets(now), d)
	case KindServiceProfile:
		old, now := replace(s.profiles, e)
		m.attachTo(e.Key, m.profileTargets(old), m.profileTargets(now), d)
	case KindBackendPolicy:
		old, now := replace(s.backends, e)
		m.attachTo(e.Key, m.backendTargets(old), m.backendTargets(now), d)
	case KindRateLimit:
		replace(s.limits, e)
		d.add(e.Key)
	}
}

// applyNode stores a node, or forgets it.
func (m *Model) applyNode(e Event, d dirty) {
	blind := m.isBlind()
	old, now := replace(m.nodes, e)
	if isSilent(old) {
		m.silent--
	}
	if isSilent(now) {
		m.silent++
	}
	m.dependOnNode(e.Key.Name, d)
	if m.isBlind() != blind { // which counts for the pods of every node
		for node := range m.onNode {
			m.dependOnNode(node, d)
		}
	}
}

// space is that of a namespace, to be read: of one that nobody has told of anything,
// an empty one.
func (m *Model) space(namespace string) *space {
	if s := m.spaces[namespace]; s != nil {
		return s
	}
	return &space{}
}

// namespaceOf is the namespace whose space an object is in.
func namespaceOf(key Key) string {
	if key.Kind == KindNamespace {
		return key.Name
	}
	return key.Namespace
}

// shrink forgets the space of a namespace in which nothing is left.
func (m *Model) shrink(namespace string) {
	if s := m.spaces[namespace]; s != nil && s.isEmpty() {
		delete(m.spaces, namespace)
	}
}

// isEmpty reports whether nothing is in a space, nor its namespace there.
func (s *space) isEmpty() bool {
	objects := len(s.pods) + len(s.services) + len(s.slices) + len(s.policies) + len(s.peers) + len(s.tokens) +
		len(s.entries) + len(s.serviceEntries) + len(s.gateways) + len(s.httpRoutes) + len(s.grpcRoutes) + len(s.tlsRoutes) +
		len(s.tcpRoutes) + len(s.grants) + len(s.virtuals) + len(s.rules) + len(s.profiles) + len(s.backends) + len(s.limits)
	return s.namespace == nil && objects+len(s.podSlices) == 0
}

// ownSpace is that of a namespace, made when it is not there.
func (m *Model) ownSpace(namespace string) *space {
	s := m.spaces[namespace]
	if s == nil {
		s = &space{
			pods:           map[string]*corev1.Pod{},
			services:       map[string]*corev1.Service{},
			slices:         map[string]*discoveryapi.EndpointSlice{},
			policies:       map[string]*security.AuthorizationPolicy{},
			peers:          map[string]*security.PeerAuthentication{},
			tokens:         map[string]*security.RequestAuthentication{},
			entries:        map[string]*networking.WorkloadEntry{},
			serviceEntries: map[string]*networking.ServiceEntry{},
			gateways:       map[string]*gateway.Gateway{},
			httpRoutes:     map[string]*gateway.HTTPRoute{},
			grpcRoutes:     map[string]*gateway.GRPCRoute{},
			tlsRoutes:      map[string]*gateway.TLSRoute{},
			tcpRoutes:      map[string]*gateway.TCPRoute{},
			grants:         map[string]*gateway.ReferenceGrant{},
			virtuals:       map[string]*networking.VirtualService{},
			rules:          map[string]*networking.DestinationRule{},
			profiles:       map[string]*ServiceProfile{},
			backends:       map[string]*experimental.XBackendTrafficPolicy{},
			limits:         map[string]*RateLimit{},
			podSlices:      map[string]map[string]bool{},
		}
		m.spaces[namespace] = s
	}
	return s
}

// replace puts the event's object into a map by name, or takes it out. An object
// of another type than the kind says counts as gone.
func replace[T any](objects map[string]*T, e Event) (old, now *T) {
	old = objects[e.Key.Name]
	now, _ = any(e.Object).(*T)
	if now == nil {
		delete(objects, e.Key.Name)
	} else {
		objects[e.Key.Name] = now
	}
	return old, now
}

// rederive derives one object anew. What stood before the first derivation of
// this round is kept in before and conditions.
func (m *Model) rederive(key Key, before map[resourceKey]*Resource, conditions map[Key][]Condition) {
	now, conds := m.derive(key)
	for _, r := range m.derived[key] {
		name := resourceKey{r.Type, r.Name}
		if _, seen := before[name]; !seen {
			before[name] = m.resources[name]
		}
		if m.resources[name] == r {
			delete(m.resources, name)
		}
	}
	for _, r := range now {
		name := resourceKey{r.Type, r.Name}
		if _, seen := before[name]; !seen {
			before[name] = m.resources[name]
		}
		m.resources[name] = r
	}
	if len(now) == 0 {
		delete(m.derived, key)
	} else {
		m.derived[key] = now
	}
	conditions[key] = m.conditions[key]
	if len(conds) == 0 {
		delete(m.conditions, key)
	} else {
		m.conditions[key] = conds
	}
}

// derive is everything that comes of one object.
func (m *Model) derive(key Key) ([]*Resource, []Condition) {
	s := m.space(key.Namespace)
	switch key.Kind {
	case KindNamespace:
		return nil, m.fromNamespace(key.Name)
	case KindPod:
		if pod := s.pods[key.Name]; pod != nil {
			return m.fromPod(pod)
		}
	case KindService:
		if service := s.services[key.Name]; service != nil {
			return m.fromService(service)
		}
	case KindEndpointSlice:
		if slice := s.slices[key.Name]; slice != nil {
			return m.fromSlice(slice)
		}
	case KindAuthorizationPolicy:
		if policy := s.policies[key.Name]; policy != nil {
			return m.fromPolicy(policy)
		}
	case KindPeerAuthentication:
		if peer := s.peers[key.Name]; peer != nil {
			return m.fromPeerAuthentication(peer)
		}
	case kindStaticStrict:
		return m.staticStrict(), nil
	case KindRequestAuthentication:
		if tokens := s.tokens[key.Name]; tokens != nil {
			return m.fromRequestAuthentication(tokens)
		}
	case KindConfigMap:
		return m.fromMesh(), nil
	case KindWorkloadEntry:
		if entry := s.entries[key.Name]; entry != nil {
			return m.fromWorkloadEntry(entry)
		}
	case KindServiceEntry:
		if entry := s.serviceEntries[key.Name]; entry != nil {
			return m.fromServiceEntry(entry)
		}
	case KindGatewayClass:
		if c := m.classes[key.Name]; c != nil {
			return nil, m.fromGatewayClass(c)
		}
	case KindGateway:
		if g := s.gateways[key.Name]; g != nil {
			return nil, m.fromGateway(g)
		}
	case KindHTTPRoute, KindGRPCRoute, KindTLSRoute, KindTCPRoute:
		if r, ok := m.route(key); ok {
			return nil, m.fromRoute(r)
		}
	default:
		return nil, m.fromTraffic(s, key)
	}
	return nil, nil
}

// fromTraffic is what the author of an object should know that says how requests to
// services are treated, and of which nothing else comes.
func (m *Model) fromTraffic(s *space, key Key) []Condition {
	switch key.Kind {
	case KindVirtualService:
		if v := s.virtuals[key.Name]; v != nil {
			return m.fromVirtualService(v)
		}
	case KindDestinationRule:
		if r := s.rules[key.Name]; r != nil {
			return m.fromDestinationRule(r)
		}
	case KindServiceProfile:
		if p := s.profiles[key.Name]; p != nil {
			return m.fromServiceProfile(p)
		}
	case KindBackendPolicy:
		if p := s.backends[key.Name]; p != nil {
			return m.fromBackendPolicy(p)
		}
	case KindRateLimit:
		if l := s.limits[key.Name]; l != nil {
			return m.fromRateLimit(l)
		}
	}
	return nil
}

// change compares what stood under a name with what stands now.
func (m *Model) change(key resourceKey, old *Resource) (Change, bool) {
	now := m.resources[key]
	c := Change{Type: key.Type, Name: key.Name, Resource: now}
	switch {
	case old == nil && now == nil:
		return c, false
	case now == nil:
		c.Urgent = true
	case old == nil:
	case old.Version() == now.Version():
		c.Links = true
		return c, !slices.Equal(old.Groups, now.Groups) || !slices.Equal(old.Needs, now.Needs)
	default:
		c.Urgent = old.Healthy && !now.Healthy
	}
	return c, true
}

// Resources are all that stand now, in the order of [Model.Apply].
func (m *Model) Resources() []*Resource {
	return slices.SortedFunc(maps.Values(m.resources), func(a, b *Resource) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name))
	})
}

// Conditions are those of all objects that have any.
func (m *Model) Conditions() map[Key][]Condition { return maps.Clone(m.conditions) }

// PodsOn are the pods of a node, in no order. They must not be changed.
func (m *Model) PodsOn(node string) []*corev1.Pod {
	return slices.Collect(maps.Values(m.onNode[node]))
}
