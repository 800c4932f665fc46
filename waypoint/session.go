package waypoint

import (
	"cmp"

	"github.com/ambit-mesh/ambit/waypoint/config"
	"github.com/ambit-mesh/ambit/waypoint/filter"
	"github.com/ambit-mesh/ambit/waypoint/message"
	"github.com/ambit-mesh/ambit/waypoint/upstream"
)

// choose chooses the backend of a request: that of its session if the route still
// has it, else one by weight.
func (f *flight) choose(rand func(n uint64) uint64) (b *config.Backend, ok bool) {
	if pin, found := f.route.Session.Read(f.req, f.rec.Start); found {
		for i := range f.route.Backends {
			b := &f.route.Backends[i]
			if b.Weight > 0 && b.Broken == "" && f.pinOf(b) == pin.Backend {
				f.pin = pin
				return b, true
			}
		}
	}
	return f.route.Pick(rand)
}

// pinOf is the hash of a backend.
func (f *flight) pinOf(b *config.Backend) uint32 {
	key := upstream.Key{Service: b.Service, Port: cmp.Or(b.Port, f.c.target.port), Subset: b.Subset}
	return uint32(upstream.HashText(key.String()))
}

// destination is where the request goes: the backend of its route, or the service that
// was asked for.
func (f *flight) destination() upstream.Key {
	t := f.c.target
	if f.backend == nil {
		return upstream.Key{Service: t.key, Port: t.port}
	}
	return upstream.Key{Service: f.backend.Service, Port: cmp.Or(f.backend.Port, t.port), Subset: f.backend.Subset}
}

// session is how the request stays at an endpoint: as its route says, else as the
// service says to which it goes. nil: not at all.
func (f *flight) session(to upstream.Key) *filter.Session {
	if f.route != nil && f.route.Session != nil {
		return f.route.Session
	}
	if svc := f.picture.Service(to.Service); svc != nil {
		return svc.Session
	}
	return nil
}

// recall finds the endpoint that a session of a service is at.
func (f *flight) recall(to upstream.Key) {
	if f.route != nil && f.route.Session != nil || f.req == nil || f.pin.Endpoint != 0 {
		return // it was found with the backend, or none counts
	}
	if pin, found := f.session(to).Read(f.req, f.rec.Start); found && pin.Backend == uint32(upstream.HashText(to.String())) {
		f.pin = pin
	}
}

// keepSession has the answer of an endpoint carry what brings the next request to
// it, unless the client carries that already.
func (f *flight) keepSession(e *upstream.Endpoint, fields *message.Fields) {
	to := f.destination()
	session := f.session(to)
	if session == nil || f.c.target.uid != "" {
		return
	}
	now := filter.Pin{Backend: uint32(upstream.HashText(to.String())), Endpoint: upstream.HashText(e.Workload.UID), Since: f.rec.Start.Unix()}
	if f.pin.Backend == now.Backend && f.pin.Endpoint == now.Endpoint {
		return
	}
	session.Write(fields, now, f.rec.Start)
}
