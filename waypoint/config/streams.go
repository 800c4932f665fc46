package config

import (
	"fmt"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/match"
)

// Streams is where connections of some clients go whose bytes nobody reads.
type Streams struct {
	compiled *match.Streams
	routes   []*StreamRoute
}

// StreamRoute is where connections go that match.
type StreamRoute struct {
	Name     string
	Backends []Backend
	shares   shares
}

// streams is the routes of some clients on some ports.
type streams struct {
	Streams
	clientNamespace string
	ports           []uint16
}

// whose is the client's namespace and the ports that the table is for.
func (s *streams) whose() (clientNamespace string, ports []uint16) { return s.clientNamespace, s.ports }

// compileStreams checks the routes of a table.
func compileStreams(t *waypointapi.StreamTable) (*streams, error) {
	out := &streams{clientNamespace: t.GetClientNamespace()}
	for _, p := range t.GetPorts() {
		out.ports = append(out.ports, uint16(p))
	}
	var err error
	if out.compiled, err = match.CompileStreams(t); err != nil {
		return nil, err
	}
	for _, r := range t.GetRoutes() {
		route := &StreamRoute{Name: r.GetName()}
		for i, b := range r.GetBackends() {
			backend, err := CompileBackend(b)
			if err != nil {
				return nil, fmt.Errorf("route %q: backend %d: %w", r.GetName(), i, err)
			}
			route.Backends = append(route.Backends, backend)
		}
		route.shares = sharesOf(route.Backends)
		out.routes = append(out.routes, route)
	}
	return out, nil
}

// Streams are the routes of connections to a port, for clients of a namespace; nil
// when there are none, and a connection goes to an endpoint of the service.
func (s *Service) Streams(number uint16, clientNamespace string) *Streams {
	if s == nil {
		return nil
	}
	t, ok := nearest(s.streams, number, clientNamespace)
	if !ok {
		return nil
	}
	return &t.Streams
}

// AsksForName reports whether the server name that TLS asks for makes a
// difference.
func (s *Streams) AsksForName() bool { return s.compiled.AsksForName() }

// Lookup finds the route of a connection that asks for a server name, "" when it
// asks for none; nil when none matches.
func (s *Streams) Lookup(name string) *StreamRoute {
	i, ok := s.compiled.Lookup(name)
	if !ok {
		return nil
	}
	return s.routes[i]
}

// Pick chooses a backend by weight, for one connection. ok is false when none has
// any.
func (r *StreamRoute) Pick(rand func(n uint64) uint64) (b *Backend, ok bool) {
	return r.shares.pick(r.Backends, rand)
}
