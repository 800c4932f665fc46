package config

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/waypoint/filter"
	"github.com/ambit-mesh/ambit/waypoint/jwt"
)

// Type URLs of the resources that a Store takes.
const (
	ServiceType        = "type.googleapis.com/ambit.waypoint.v1.Service"
	AuthorizationType  = "type.googleapis.com/ambit.waypoint.v1.Authorization"
	AuthenticationType = "type.googleapis.com/ambit.waypoint.v1.Authentication"
	ProviderType       = "type.googleapis.com/ambit.waypoint.v1.Provider"
	EndpointType       = "type.googleapis.com/ambit.waypoint.v1.Endpoint"
)

// Endpoint is what is known of a workload beside its address. It never changes.
type Endpoint struct {
	Labels map[string]string
	// Policies and Authentications are names of those that select it.
	Policies, Authentications []string
	// TellClient has it told who calls, when it is asked for by its own address.
	TellClient bool

	ruleNames string // of both
}

// Picture is one state of everything. It never changes; what its methods return
// must not be written to.
type Picture struct {
	services  map[workload.Key]*Service
	endpoints map[string]*Endpoint
	policies  map[string]*filter.Policy
	tokens    map[string]*jwt.Authentication
	providers map[string]*waypointapi.Provider

	// Those of a whole namespace; those of the mesh are under "".
	policiesOf map[string][]*filter.Policy
	tokensOf   map[string][]*jwt.Authentication
	rules      *rulesCache // nil until the first policies or authentications came
}

// Service is how requests of a service are treated, or nil when nobody said.
func (p *Picture) Service(k workload.Key) *Service { return p.services[k] }

// Endpoint is what is known of a workload, or nil.
func (p *Picture) Endpoint(uid string) *Endpoint { return p.endpoints[uid] }

// Provider is who can be asked under a name, or nil.
func (p *Picture) Provider(name string) *waypointapi.Provider { return p.providers[name] }

// Store publishes pictures. One goroutine applies changes, any number reads.
type Store struct {
	own     Name                    // the Gateway that we are the waypoint of
	current atomic.Pointer[Picture] // never nil

	mu        sync.Mutex // held while a change is made and told
	listeners []func(*Picture)
}

// NewStore makes a store that knows nothing, for the waypoint of a Gateway.
func NewStore(own Name) *Store {
	s := &Store{own: own}
	s.current.Store(&Picture{})
	return s
}

// Picture is the newest one.
func (s *Store) Picture() *Picture { return s.current.Load() }

// OnChange registers fn to be called after each change, one call at a time.
func (s *Store) OnChange(fn func(*Picture)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners = append(s.listeners, fn)
}

// change publishes what fn makes of a copy.
func (s *Store) change(fn func(next *Picture)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := *s.Picture()
	fn(&next)
	s.current.Store(&next)
	for _, listen := range s.listeners {
		listen(&next)
	}
}

// apply takes resources of one type: first the new ones, then the removals. The
// answer says for each that was rejected why; it keeps its former value.
func apply[M any, P interface {
	*M
	proto.Message
}](url string, resources []*discoveryv3.Resource, removed []string, put func(name string, m P) error, remove func(name string)) map[string]error {
	var rejected map[string]error
	for _, r := range resources {
		m := P(new(M))
		err := fmt.Errorf("the resource is no %s", url)
		if r.GetResource().GetTypeUrl() == url {
			if err = proto.Unmarshal(r.GetResource().GetValue(), m); err == nil {
				err = put(r.GetName(), m)
			}
		}
		if err != nil {
			if rejected == nil {
				rejected = map[string]error{}
			}
			rejected[r.GetName()] = err
		}
	}
	for _, name := range removed {
		remove(name)
	}
	return rejected
}

// own is a copy of a map that may be written to.
func own[K comparable, V any](m map[K]V) map[K]V {
	if m = maps.Clone(m); m == nil {
		m = map[K]V{}
	}
	return m
}

// ApplyServices takes resources of type [ServiceType].
func (s *Store) ApplyServices(resources []*discoveryv3.Resource, removed []string) (rejected map[string]error) {
	s.change(func(next *Picture) {
		next.services = own(next.services)
		put := func(name string, m *waypointapi.Service) error {
			svc, err := compileService(m, s.own)
			if err != nil {
				return err
			}
			if svc.Key.String() != name {
				return fmt.Errorf("the resource holds service %q", svc.Key)
			}
			next.services[svc.Key] = svc
			return nil
		}
		rejected = apply(ServiceType, resources, removed, put, func(name string) {
			if k, ok := workload.ParseKey(name); ok {
				delete(next.services, k)
			}
		})
	})
	return rejected
}

// ApplyEndpoints takes resources of type [EndpointType].
func (s *Store) ApplyEndpoints(resources []*discoveryv3.Resource, removed []string) (rejected map[string]error) {
	s.change(func(next *Picture) {
		next.endpoints = own(next.endpoints)
		put := func(name string, m *waypointapi.Endpoint) error {
			if m.GetUid() != name {
				return fmt.Errorf("the resource holds workload %q", m.GetUid())
			}
			next.endpoints[name] = &Endpoint{
				Labels: m.GetLabels(), Policies: m.GetPolicies(), Authentications: m.GetAuthentications(), TellClient: m.GetTellClient(),
				ruleNames: joinNames(m.GetPolicies(), m.GetAuthentications()),
			}
			return nil
		}
		rejected = apply(EndpointType, resources, removed, put, func(name string) { delete(next.endpoints, name) })
	})
	return rejected
}

// ApplyAuthorizations takes resources of type [AuthorizationType].
func (s *Store) ApplyAuthorizations(resources []*discoveryv3.Resource, removed []string) (rejected map[string]error) {
	s.change(func(next *Picture) {
		next.policies = own(next.policies)
		put := func(name string, m *waypointapi.Authorization) error {
			p, err := filter.CompilePolicy(m)
			if err != nil {
				return err
			}
			if p.Name() != name {
				return fmt.Errorf("the resource holds policy %q", p.Name())
			}
			next.policies[name] = p
			return nil
		}
		rejected = apply(AuthorizationType, resources, removed, put, func(name string) { delete(next.policies, name) })
		next.indexRules()
	})
	return rejected
}

// ApplyAuthentications takes resources of type [AuthenticationType].
func (s *Store) ApplyAuthentications(resources []*discoveryv3.Resource, removed []string) (rejected map[string]error) {
	s.change(func(next *Picture) {
		next.tokens = own(next.tokens)
		put := func(name string, m *waypointapi.Authentication) error {
			a, err := jwt.Compile(m)
			if err != nil {
				return err
			}
			if a.Name() != name {
				return fmt.Errorf("the resource holds authentication %q", a.Name())
			}
			next.tokens[name] = a
			return nil
		}
		rejected = apply(AuthenticationType, resources, removed, put, func(name string) { delete(next.tokens, name) })
		next.indexRules()
	})
	return rejected
}

// ApplyProviders takes resources of type [ProviderType].
func (s *Store) ApplyProviders(resources []*discoveryv3.Resource, removed []string) (rejected map[string]error) {
	s.change(func(next *Picture) {
		next.providers = own(next.providers)
		put := func(name string, m *waypointapi.Provider) error {
			if m.GetName() != name {
				return fmt.Errorf("the resource holds provider %q", m.GetName())
			}
			next.providers[name] = m
			return nil
		}
		rejected = apply(ProviderType, resources, removed, put, func(name string) { delete(next.providers, name) })
	})
	return rejected
}
