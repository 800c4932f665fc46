package workload

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/policy"
)

// Snapshot is one picture of the mesh. It never changes; any goroutine may read
// it. What its methods return must not be written to.
type Snapshot struct {
	version uint64
	cfg     Config

	workloads workloadTables
	services  serviceTables
	policies  policyTables
	seeds     seedTables

	// gone are addresses that nobody has any more, since when. What is older than
	// GoneFor may still be among them.
	gone table[NetworkAddr, time.Time]
}

// workloadTables hold the workloads that the control plane told of.
type workloadTables struct {
	byUID  table[string, *Workload]
	byAddr table[NetworkAddr, []*Workload]    // best first
	byHost table[string, []*Workload]         // by UID
	byPod  table[policy.Subject, []*Workload] // of this node, best first
	// endpoints are kept by service key whether or not the service is known.
	endpoints table[Key, *endpointSet]
}

// serviceTables hold the services.
type serviceTables struct {
	byKey  table[Key, *Service]
	byVIP  table[NetworkAddr, []*Service] // by namespace, host name
	byHost table[string, []*Service]      // by namespace
	ranges *ranges                        // VIPs that are longer ranges
}

// policyTables hold the policies.
type policyTables struct {
	byName table[string, *policy.Policy]
	// byNamespace lists those of scope namespace; "" those of scope global.
	byNamespace table[string, []*policy.Policy] // by name
}

// seedTables hold what the CNI agent told of.
type seedTables struct {
	byUID table[string, *Workload]
	byPod table[policy.Subject, []*Workload] // by UID
}

// newSnapshot returns the picture of nothing.
func newSnapshot(cfg Config) *Snapshot {
	return &Snapshot{
		cfg: cfg,
		workloads: workloadTables{
			byUID:     newTable[string, *Workload](),
			byAddr:    newTable[NetworkAddr, []*Workload](),
			byHost:    newTable[string, []*Workload](),
			byPod:     newTable[policy.Subject, []*Workload](),
			endpoints: newTable[Key, *endpointSet](),
		},
		services: serviceTables{
			byKey:  newTable[Key, *Service](),
			byVIP:  newTable[NetworkAddr, []*Service](),
			byHost: newTable[string, []*Service](),
			ranges: &ranges{},
		},
		policies: policyTables{
			byName:      newTable[string, *policy.Policy](),
			byNamespace: newTable[string, []*policy.Policy](),
		},
		seeds: seedTables{
			byUID: newTable[string, *Workload](),
			byPod: newTable[policy.Subject, []*Workload](),
		},
		gone: newTable[NetworkAddr, time.Time](),
	}
}

// Version grows by one with each picture.
func (s *Snapshot) Version() uint64 { return s.version }

// LookupAddr finds what has that address: a workload, else the service that a
// client of clientNamespace means by it. Both are nil when nothing has it.
func (s *Snapshot) LookupAddr(network string, ip netip.Addr, clientNamespace string) (*Workload, *Service) {
	if w := s.LookupWorkload(network, ip); w != nil {
		return w, nil
	}
	return nil, s.LookupService(network, ip, clientNamespace)
}

// LookupWorkload finds the workload that has that address, or nil.
func (s *Snapshot) LookupWorkload(network string, ip netip.Addr) *Workload {
	return first(s.workloads.byAddr, NetworkAddr{network, ip.Unmap()})
}

// LookupService finds the service that has that virtual address, or nil. Of
// several the one in clientNamespace is meant, else a canonical one; an exact
// address is preferred to a range. An empty clientNamespace means no client:
// nothing is hidden then.
func (s *Snapshot) LookupService(network string, ip netip.Addr, clientNamespace string) *Service {
	ip = ip.Unmap()
	exact, _ := s.services.byVIP.get(NetworkAddr{network, ip})
	if svc := bestService(exact, clientNamespace); svc != nil {
		return svc
	}
	return s.services.ranges.lookup(network, ip, clientNamespace)
}

// LookupHost finds the service of that host name, ranked as in LookupService.
func (s *Snapshot) LookupHost(hostname, clientNamespace string) *Service {
	list, _ := s.services.byHost.get(foldHost(hostname))
	return bestService(list, clientNamespace)
}

// LookupName finds the service that a client means by a host name that it looks
// up: of those that use accepts, ranked as in LookupService; where neither
// namespace nor canonicity decides, one of preferredNamespace.
func (s *Snapshot) LookupName(hostname, clientNamespace, preferredNamespace string, use func(*Service) bool) *Service {
	all, _ := s.services.byHost.get(foldHost(hostname))
	var list []*Service
	for _, svc := range all {
		if use(svc) {
			list = append(list, svc)
		}
	}
	best := bestService(list, clientNamespace)
	if best == nil || preferredNamespace == "" || best.Canonical || best.Namespace == clientNamespace {
		return best
	}
	for _, svc := range list {
		if svc.Namespace == preferredNamespace && svc.VisibleTo(clientNamespace) {
			return svc
		}
	}
	return best
}

// Service finds a service by its key, or nil.
func (s *Snapshot) Service(k Key) *Service {
	svc, _ := s.services.byKey.get(k)
	return svc
}

// Workload finds a workload by its UID, or nil.
func (s *Snapshot) Workload(uid string) *Workload {
	w, _ := s.workloads.byUID.get(uid)
	return w
}

// LookupGateway finds what a gateway address points to: a service, else a
// workload of that address or host name. Both are nil when nothing does.
func (s *Snapshot) LookupGateway(g Gateway) (*Workload, *Service) {
	if g.ByAddr() {
		if svc := s.LookupService(g.Addr.Network, g.Addr.Addr, ""); svc != nil {
			return nil, svc
		}
		return s.LookupWorkload(g.Addr.Network, g.Addr.Addr), nil
	}
	if svc := s.Service(g.Host); svc != nil {
		return nil, svc
	}
	// Host names of workloads are unique in the mesh; the namespace is not
	// part of them.
	return first(s.workloads.byHost, foldHost(g.Host.Hostname)), nil
}

// local reports whether w could be a pod of this node. A pod elsewhere of the
// same names, say in another cluster, must not stand in for it.
func (s *Snapshot) local(w *Workload) bool {
	return s.cfg.NodeName == "" || w.Node == s.cfg.NodeName
}

// LookupPod finds a pod of this node as the control plane knows it. An empty
// service account means "default".
func (s *Snapshot) LookupPod(p policy.Subject) (*Workload, bool) {
	p.ServiceAccount = orDefault(p.ServiceAccount, DefaultServiceAccount)
	w := first(s.workloads.byPod, p)
	return w, w != nil
}

// LookupSource finds a local pod as a source of connections: as the control
// plane knows it, else as the CNI agent does.
func (s *Snapshot) LookupSource(p policy.Subject) (*Workload, bool) {
	if w, ok := s.LookupPod(p); ok {
		return w, true
	}
	p.ServiceAccount = orDefault(p.ServiceAccount, DefaultServiceAccount)
	w := first(s.seeds.byPod, p)
	return w, w != nil
}

// ServicesOf returns the services that w is a member of, by key.
func (s *Snapshot) ServicesOf(w *Workload) []*Service {
	out := make([]*Service, 0, len(w.Services))
	for k := range w.Services {
		if svc := s.Service(k); svc != nil {
			out = append(out, svc)
		}
	}
	slices.SortFunc(out, compareServices)
	return out
}

// Policy finds a policy by "namespace/name", or nil.
func (s *Snapshot) Policy(name string) *policy.Policy {
	p, _ := s.policies.byName.get(name)
	return p
}

// PoliciesFor says what applies to a local pod: the policies of its namespace,
// the global ones, and those its workload names.
func (s *Snapshot) PoliciesFor(p policy.Subject) policy.Applicable {
	w, ok := s.LookupPod(p)
	if !ok {
		return policy.Applicable{}
	}
	return s.PoliciesOf(w)
}

// PoliciesOf says what applies to a workload.
func (s *Snapshot) PoliciesOf(w *Workload) policy.Applicable {
	local, _ := s.policies.byNamespace.get(w.Namespace)
	global, _ := s.policies.byNamespace.get("")
	ap := policy.Applicable{Known: true, Policies: make([]*policy.Policy, 0, len(local)+len(global)+len(w.Policies))}
	ap.Policies = append(ap.Policies, local...)
	if w.Namespace != "" {
		ap.Policies = append(ap.Policies, global...)
	}
	for _, name := range w.Policies {
		p := s.Policy(name)
		if p == nil {
			ap.Missing = append(ap.Missing, name)
		} else if !slices.Contains(ap.Policies, p) {
			ap.Policies = append(ap.Policies, p)
		}
	}
	return ap
}

// Workloads returns all workloads by UID. It takes time; for display.
func (s *Snapshot) Workloads() []*Workload {
	return sorted(s.workloads.byUID, compareUIDs)
}

// Seeds returns what the CNI agent told of and the control plane does not know
// yet, by UID.
func (s *Snapshot) Seeds() []*Workload {
	out := sorted(s.seeds.byUID, compareUIDs)
	return slices.DeleteFunc(out, func(w *Workload) bool {
		_, known := s.LookupPod(w.Subject())
		return known
	})
}

// Services returns all services by key. It takes time; for display.
func (s *Snapshot) Services() []*Service { return sorted(s.services.byKey, compareServices) }

// Policies returns all policies by name. It takes time; for display.
func (s *Snapshot) Policies() []*policy.Policy { return sorted(s.policies.byName, comparePolicies) }

// Counts returns how many workloads, services and policies there are.
func (s *Snapshot) Counts() (workloads, services, policies int) {
	return s.workloads.byUID.len(), s.services.byKey.len(), s.policies.byName.len()
}

// first returns the first of the list at key, or nil.
func first[K comparable, V any](t table[K, []*V], key K) *V {
	list, _ := t.get(key)
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

// sorted returns the values of t in order.
func sorted[K comparable, V any](t table[K, V], compare func(a, b V) int) []V {
	out := make([]V, 0, t.len())
	for _, v := range t.all() {
		out = append(out, v)
	}
	slices.SortFunc(out, compare)
	return out
}

// foldHost is the form of a host name by which it is found.
func foldHost(h string) string { return strings.ToLower(strings.TrimSuffix(h, ".")) }

// compareUIDs orders workloads by their key.
func compareUIDs(a, b *Workload) int { return cmp.Compare(a.UID, b.UID) }

// compareServices orders services by their key.
func compareServices(a, b *Service) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Hostname, b.Hostname))
}

// comparePolicies orders policies by name.
func comparePolicies(a, b *policy.Policy) int { return cmp.Compare(a.Name(), b.Name()) }
