package config

import (
	"fmt"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/waypoint/filter"
	"github.com/ambit-mesh/ambit/waypoint/match"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Service is how the requests of one service are treated. It never changes.
type Service struct {
	workload.Key
	// Waypoint is the Gateway that serves it: our own, if it is one of several.
	Waypoint Name
	// Policies and Authentications are names of those attached to the service, its
	// waypoint or the waypoint's class.
	Policies, Authentications []string
	// TellClient has applications told who calls.
	TellClient bool

	ruleNames string // of both

	// Budget bounds the retries to its endpoints; nil: only that of each route does.
	Budget *filter.BudgetConfig
	// Session is that of requests whose route has none; often nil.
	Session *filter.Session

	ports   map[uint16]port
	tables  []*table
	streams []*streams
	traffic *Traffic
	subsets map[string]*Subset
}

// Name names an object in a namespace.
type Name struct{ Namespace, Name string }

// port is what is known of a port.
type port struct {
	protocol workloadapi.AppProtocol
	traffic  *Traffic
}

// Subset is a part of a service's endpoints.
type Subset struct {
	Labels  map[string]string
	traffic *Traffic
	ports   map[uint16]*Traffic // in place of traffic
}

// Has reports whether an endpoint belongs to the subset.
func (s *Subset) Has(e *Endpoint) bool {
	for k, v := range s.Labels {
		if e == nil || e.Labels[k] != v {
			return false
		}
	}
	return true
}

// table is the routes of some clients on some ports.
type table struct {
	clientNamespace string
	ports           []uint16
	compiled        *match.Table
	routes          []*Route
}

// whose is the client's namespace and the ports that the table is for.
func (t *table) whose() (clientNamespace string, ports []uint16) { return t.clientNamespace, t.ports }

// Route is what happens to requests that match.
type Route struct {
	Name       string
	Chain      *filter.Chain
	Backends   []Backend
	Timeout    time.Duration // zero: none
	TryTimeout time.Duration // zero: none
	Retry      *filter.Retry // nil: none
	Session    *filter.Session
	shares     shares
}

// Backend is where a share of requests goes.
type Backend struct {
	Service workload.Key
	Port    uint16
	Subset  string
	Weight  uint32
	Chain   *filter.Chain
	Broken  string // why requests cannot go there; empty: they can
}

// compileService checks everything, for the waypoint of a Gateway.
func compileService(m *waypointapi.Service, own Name) (*Service, error) {
	s := &Service{
		Key:      workload.Key{Namespace: m.GetNamespace(), Hostname: m.GetHostname()},
		Waypoint: Name{m.GetWaypoint().GetNamespace(), m.GetWaypoint().GetName()},
		Policies: m.GetPolicies(), Authentications: m.GetAuthentications(), TellClient: m.GetTellClient(),
		ports: map[uint16]port{}, subsets: map[string]*Subset{},
	}
	treat := func(t *waypointapi.Traffic) *Traffic { return compileTraffic(t, m.GetHostname(), own) }
	s.traffic = treat(m.GetTraffic())
	if c := m.GetCanary(); c != nil && own == (Name{c.GetWaypoint().GetNamespace(), c.GetWaypoint().GetName()}) {
		s.Waypoint = own
		s.Policies, s.Authentications, s.TellClient = c.GetPolicies(), c.GetAuthentications(), c.GetTellClient()
	}
	s.ruleNames = joinNames(s.Policies, s.Authentications)
	if b := m.GetRetryBudget(); b != nil {
		s.Budget = &filter.BudgetConfig{
			Percent: int(b.GetPercent()), Interval: b.GetInterval().AsDuration(), MinCount: int(b.GetMinCount()), MinInterval: b.GetMinInterval().AsDuration(),
		}
		if s.Budget.Percent > 100 || s.Budget.Interval <= 0 || s.Budget.MinInterval <= 0 {
			return nil, fmt.Errorf("retry budget %+v", *s.Budget)
		}
	}
	var err error
	if s.Session, err = filter.CompileSession(m.GetSession()); err != nil {
		return nil, err
	}
	for _, p := range m.GetPorts() {
		if p.GetNumber() == 0 || p.GetNumber() > 65535 {
			return nil, fmt.Errorf("port %d", p.GetNumber())
		}
		s.ports[uint16(p.GetNumber())] = port{p.GetProtocol(), treat(p.GetTraffic())}
	}
	for _, sub := range m.GetSubsets() {
		of := &Subset{Labels: sub.GetLabels(), traffic: treat(sub.GetTraffic()), ports: map[uint16]*Traffic{}}
		for number, t := range sub.GetPorts() {
			of.ports[uint16(number)] = treat(t)
		}
		s.subsets[sub.GetName()] = of
	}
	for i, t := range m.GetTables() {
		compiled, err := compileTable(t)
		if err != nil {
			return nil, fmt.Errorf("table %d: %w", i, err)
		}
		s.tables = append(s.tables, compiled)
	}
	for i, t := range m.GetStreams() {
		compiled, err := compileStreams(t)
		if err != nil {
			return nil, fmt.Errorf("streams %d: %w", i, err)
		}
		s.streams = append(s.streams, compiled)
	}
	return s, nil
}

// compileTable checks the routes of a table.
func compileTable(t *waypointapi.RouteTable) (*table, error) {
	out := &table{clientNamespace: t.GetClientNamespace()}
	for _, p := range t.GetPorts() {
		out.ports = append(out.ports, uint16(p))
	}
	var err error
	if out.compiled, err = match.Compile(t); err != nil {
		return nil, err
	}
	for _, r := range t.GetRoutes() {
		route, err := compileRoute(r)
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", r.GetName(), err)
		}
		out.routes = append(out.routes, route)
	}
	return out, nil
}

// compileRoute checks one route.
func compileRoute(r *waypointapi.Route) (*Route, error) {
	out := &Route{Name: r.GetName(), Timeout: r.GetTimeout().AsDuration(), TryTimeout: r.GetTryTimeout().AsDuration()}
	var err error
	if out.Chain, err = filter.Compile(r.GetFilters()); err != nil {
		return nil, err
	}
	if out.Retry, err = filter.CompileRetry(r.GetRetry()); err != nil {
		return nil, err
	}
	if out.Session, err = filter.CompileSession(r.GetSession()); err != nil {
		return nil, err
	}
	for i, b := range r.GetBackends() {
		backend, err := CompileBackend(b)
		if err != nil {
			return nil, fmt.Errorf("backend %d: %w", i, err)
		}
		out.Backends = append(out.Backends, backend)
	}
	out.shares = sharesOf(out.Backends)
	return out, nil
}

// CompileBackend checks one backend.
func CompileBackend(b *waypointapi.Backend) (Backend, error) {
	out := Backend{Port: uint16(b.GetPort()), Subset: b.GetSubset(), Weight: b.GetWeight(), Broken: b.GetBroken()}
	if out.Broken != "" {
		return out, nil
	}
	var ok bool
	if out.Service, ok = workload.ParseKey(b.GetService()); !ok {
		return Backend{}, fmt.Errorf("%q is no service", b.GetService())
	}
	var err error
	out.Chain, err = filter.Compile(b.GetFilters())
	return out, err
}

// Pick chooses a backend by weight, for one request. ok is false when none has
// any.
func (r *Route) Pick(rand func(n uint64) uint64) (b *Backend, ok bool) {
	return r.shares.pick(r.Backends, rand)
}

// shares is the sum of the weights of backends.
type shares uint64

// sharesOf adds them up.
func sharesOf(all []Backend) (sum shares) {
	for i := range all {
		sum += shares(all[i].Weight)
	}
	return sum
}

// pick chooses one of all by weight. ok is false when none has any.
func (s shares) pick(all []Backend, rand func(n uint64) uint64) (b *Backend, ok bool) {
	if s == 0 {
		return nil, false
	}
	n := rand(uint64(s))
	for i := range all {
		w := uint64(all[i].Weight)
		if n < w {
			return &all[i], true
		}
		n -= w
	}
	return nil, false
}

// Lookup finds the route of a request to a port. none means that there are no
// routes for it at all, and requests go to an endpoint of the service; with
// routes of which none matches, route is nil.
func (s *Service) Lookup(req *message.Request, number uint16, clientNamespace string) (route *Route, prefix int, none bool) {
	t := s.table(number, clientNamespace)
	if t == nil {
		return nil, 0, true
	}
	found, ok := t.compiled.Lookup(req, clientNamespace)
	if !ok {
		return nil, 0, false
	}
	return t.routes[found.Route], found.Prefix, false
}

// table finds the routes of a client; nil when there are none.
func (s *Service) table(number uint16, clientNamespace string) *table {
	t, _ := nearest(s.tables, number, clientNamespace)
	return t
}

// nearest finds the routes of a client: of its own namespace before those of all,
// and of the port before those of all ports.
func nearest[T interface{ whose() (string, []uint16) }](all []T, number uint16, clientNamespace string) (best T, ok bool) {
	score := -1
	for _, t := range all {
		client, ports := t.whose()
		if client != "" && client != clientNamespace || len(ports) > 0 && !slices.Contains(ports, number) {
			continue
		}
		n := 0
		if client != "" {
			n += 2
		}
		if len(ports) > 0 {
			n++
		}
		if n > score {
			best, score = t, n
		}
	}
	return best, score >= 0
}

// Protocol is what a port carries, as the users say.
func (s *Service) Protocol(number uint16) workloadapi.AppProtocol {
	if s == nil {
		return workloadapi.AppProtocol_UNKNOWN
	}
	return s.ports[number].protocol
}

// Subset finds a subset by its name; nil when there is none.
func (s *Service) Subset(name string) *Subset {
	if s == nil {
		return nil
	}
	return s.subsets[name]
}
