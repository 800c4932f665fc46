package workload

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/policy"
)

// Type URLs of the resources that a Store takes.
const (
	AddressType       = "type.googleapis.com/istio.workload.Address"
	AuthorizationType = "type.googleapis.com/istio.security.Authorization"
)

// Config says where this node stands. Its zero value is that of a mesh with one
// unnamed network.
type Config struct {
	Network       string // of this node
	NodeName      string // only workloads of this node are local pods; empty: all
	ClusterID     string // of seeds; empty means Kubernetes
	TrustDomain   string // of seeds; empty means cluster.local
	ClusterDomain string // for display; empty means cluster.local
}

// Store publishes snapshots. Changes may come from many goroutines and are made
// one after the other; reading never waits for them.
type Store struct {
	current atomic.Pointer[Snapshot] // never nil

	// writing is held while a change is made, published and told to listeners.
	writing   sync.Mutex
	listeners []func(*Snapshot)
	farewells []farewell // those that the snapshot's gone holds, the oldest first

	// mu guards newer, the channel that the next publication closes.
	mu    sync.Mutex
	newer chan struct{}
}

var _ policy.Source = (*Store)(nil)

// NewStore makes a store that knows nothing.
func NewStore(cfg Config) *Store {
	cfg.ClusterID = orDefault(cfg.ClusterID, DefaultClusterID)
	cfg.TrustDomain = orDefault(cfg.TrustDomain, DefaultTrustDomain)
	cfg.ClusterDomain = orDefault(cfg.ClusterDomain, DefaultTrustDomain)
	s := &Store{newer: make(chan struct{})}
	s.current.Store(newSnapshot(cfg))
	return s
}

// Snapshot returns the newest picture.
func (s *Store) Snapshot() *Snapshot { return s.current.Load() }

// PoliciesFor says what applies to a local pod now.
func (s *Store) PoliciesFor(p policy.Subject) policy.Applicable {
	return s.Snapshot().PoliciesFor(p)
}

// OnChange registers fn to be called after each publication, one call at a time
// and in order. fn may read the store; it must not change it.
func (s *Store) OnChange(fn func(*Snapshot)) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.listeners = append(s.listeners, fn)
}

// Changed returns a channel that is closed when a snapshot newer than version is
// out.
func (s *Store) Changed(version uint64) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Snapshot().version > version {
		done := make(chan struct{})
		close(done)
		return done
	}
	return s.newer
}

// WaitPod waits until the control plane knows a local pod, or ctx ends; then it
// returns the cause.
func (s *Store) WaitPod(ctx context.Context, p policy.Subject) (*Workload, error) {
	for {
		snap := s.Snapshot()
		if w, ok := snap.LookupPod(p); ok {
			return w, nil
		}
		select {
		case <-s.Changed(snap.version):
		case <-ctx.Done():
			return nil, fmt.Errorf("pod %v with service account %q is not known to the control plane: %w", p, p.ServiceAccount, context.Cause(ctx))
		}
	}
}

// ApplyAddresses makes the changes of one response: first the resources, then
// the removals. The answer says for each rejected resource why; it keeps its
// former value, and all others apply.
func (s *Store) ApplyAddresses(resources []*discoveryv3.Resource, removed []string) map[string]error {
	var rejected rejections
	s.change(func(c *changes) {
		for _, r := range resources {
			if err := c.applyAddress(r); err != nil {
				rejected.add(r, err)
			}
		}
		for _, name := range removed {
			c.removeAddress(name)
		}
		if c.differs {
			s.farewells = c.bury(s.farewells, time.Now())
		}
	})
	return rejected
}

// ApplyAuthorizations does for policies what ApplyAddresses does for addresses.
func (s *Store) ApplyAuthorizations(resources []*discoveryv3.Resource, removed []string) map[string]error {
	var rejected rejections
	s.change(func(c *changes) {
		for _, r := range resources {
			if err := c.applyAuthorization(r); err != nil {
				rejected.add(r, err)
			}
		}
		for _, name := range removed {
			c.removePolicy(name)
		}
	})
	return rejected
}

// Seed adds what the CNI agent knows of a pod, in place of what it said before
// under the same UID.
func (s *Store) Seed(w LocalWorkload) {
	s.change(func(c *changes) { c.seed(w) })
}

// Unseed forgets what the CNI agent said under that UID.
func (s *Store) Unseed(uid string) {
	s.change(func(c *changes) { c.unseed(uid) })
}

// change publishes what fn makes of the current picture, if fn changed it.
func (s *Store) change(fn func(*changes)) {
	s.writing.Lock()
	defer s.writing.Unlock()
	c := newChanges(s.Snapshot())
	fn(c)
	next, differs := c.finish()
	if !differs {
		return
	}
	s.publish(next)
	for _, fn := range s.listeners {
		fn(next)
	}
}

// publish makes next the current picture and wakes who waits for one.
func (s *Store) publish(next *Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current.Store(next)
	close(s.newer)
	s.newer = make(chan struct{})
}

// rejections collect why resources were not taken, by name.
type rejections map[string]error

func (r *rejections) add(res *discoveryv3.Resource, err error) {
	if *r == nil {
		*r = make(rejections)
	}
	(*r)[res.GetName()] = err
}

// unpack reads the message in a resource.
func unpack(r *discoveryv3.Resource, typeURL string, into proto.Message) error {
	body := r.GetResource()
	if body == nil {
		return fmt.Errorf("the resource has no body")
	}
	if body.GetTypeUrl() != typeURL {
		return fmt.Errorf("the resource is of type %q, want %q", body.GetTypeUrl(), typeURL)
	}
	return proto.Unmarshal(body.GetValue(), into)
}

// applyAddress takes one workload or service.
func (c *changes) applyAddress(r *discoveryv3.Resource) error {
	var m workloadapi.Address
	if err := unpack(r, AddressType, &m); err != nil {
		return err
	}
	switch t := m.GetType().(type) {
	case *workloadapi.Address_Workload:
		w, err := parseWorkload(t.Workload)
		if err != nil {
			return err
		}
		if w.UID != r.GetName() {
			return fmt.Errorf("the resource holds workload %q", w.UID)
		}
		c.removeService(r.GetName())
		c.leave(c.next.Workload(w.UID), w)
		c.removeWorkload(w.UID)
		c.addWorkload(w)
	case *workloadapi.Address_Service:
		svc, err := parseService(t.Service)
		if err != nil {
			return err
		}
		if svc.Key.String() != r.GetName() {
			return fmt.Errorf("the resource holds service %q", svc.Key)
		}
		c.leave(c.next.Workload(r.GetName()), nil)
		c.removeWorkload(r.GetName())
		c.removeService(r.GetName())
		c.addService(svc)
	default:
		return fmt.Errorf("neither a workload nor a service")
	}
	return nil
}

// removeAddress forgets a workload of that UID, else a service of that key.
func (c *changes) removeAddress(name string) {
	c.leave(c.next.Workload(name), nil)
	if !c.removeWorkload(name) {
		c.removeService(name)
	}
}

// applyAuthorization takes one policy. One that is the same as before stays the
// same object, so that nothing has to be decided again.
func (c *changes) applyAuthorization(r *discoveryv3.Resource) error {
	m := &securityapi.Authorization{}
	if err := unpack(r, AuthorizationType, m); err != nil {
		return err
	}
	if old := c.next.Policy(r.GetName()); old != nil && proto.Equal(old.Source(), m) {
		return nil
	}
	p, err := policy.Compile(m)
	if err != nil {
		return err
	}
	if p.Name() != r.GetName() {
		return fmt.Errorf("the resource holds policy %q", p.Name())
	}
	c.removePolicy(p.Name())
	c.addPolicy(p)
	return nil
}

// seedSubject is how a seed is found; a missing service account means default.
func seedSubject(w LocalWorkload) policy.Subject {
	return policy.Subject{
		Name:           w.Name,
		Namespace:      w.Namespace,
		ServiceAccount: orDefault(w.ServiceAccount, DefaultServiceAccount),
	}
}

// seedWorkload makes a workload of what the CNI agent knows.
func seedWorkload(cfg Config, l LocalWorkload) *Workload {
	p := seedSubject(l)
	w := &Workload{Seeded: true}
	w.Names = Names{
		UID: l.UID, Name: p.Name, Namespace: p.Namespace, ServiceAccount: p.ServiceAccount,
		TrustDomain: cfg.TrustDomain, Identity: identityOf(cfg.TrustDomain, p.Namespace, p.ServiceAccount),
	}
	w.Location = Location{
		Network: cfg.Network, Addresses: slices.Clone(l.Addresses),
		Node: cfg.NodeName, ClusterID: cfg.ClusterID,
	}
	for i, a := range w.Addresses {
		w.Addresses[i] = a.Unmap()
	}
	w.Protocol, w.Healthy, w.Capacity, w.Type, w.WorkloadName = ProtocolHBONE, true, 1, TypePod, p.Name
	return w
}
