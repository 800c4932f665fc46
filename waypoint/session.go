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

// keepSession has the answer of an endpoint carry what brings the next request to
// it, unless the client carries that already.
func (f *flight) keepSession(e *upstream.Endpoint, fields *message.Fields) {
	if f.route == nil || f.route.Session == nil || f.backend == nil {
		return
	}
	now := filter.Pin{Backend: f.pinOf(f.backend), Endpoint: upstream.HashText(e.Workload.UID), Since: f.rec.Start.Unix()}
	if f.pin.Backend == now.Backend && f.pin.Endpoint == now.Endpoint {
		return
	}
	f.route.Session.Write(fields, now, f.rec.Start)
}
