package waypoint

import (
	"fmt"
	"net/netip"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/waypoint/config"
	"github.com/ambit-mesh/ambit/waypoint/entry"
)

// target is what a client asked a tunnel for: a port of a service that we serve,
// or one of a workload.
type target struct {
	key  workload.Key // of the service; zero for a workload
	uid  string       // of the workload
	port uint16
	near netip.Addr // as the client wrote it; invalid for a name
}

// refusal is why a target is refused, and with which status.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// refuse makes a refusal.
func refuse(status int, format string, args ...any) *refusal {
	return &refusal{status: status, text: fmt.Sprintf(format, args...)}
}

// Statuses of a refused CONNECT. Source: the ambient ecosystem's HBONE.
const (
	statusBadRequest   = 400
	statusUnauthorized = 401
	statusUnavailable  = 503
)

// resolve finds what an authority means. Only what is bound to this waypoint is
// served: the certificate that we show to endpoints opens more than that.
func (w *Waypoint) resolve(a hbone.Authority) (target, error) {
	snap, picture := w.state.Snapshot(), w.routes.Picture()
	t := target{port: a.Port()}
	var svc *workload.Service
	if addr, ok := a.AddrPort(); ok {
		t.near = addr.Addr()
		svc = snap.LookupService(w.cfg.Node.Network, addr.Addr(), "")
		if svc == nil {
			return w.resolveWorkload(snap, t)
		}
	} else if host, ok := a.Host(); ok {
		if svc = snap.LookupHost(host, w.cfg.Gateway.Namespace); svc == nil {
			return target{}, refuse(statusUnavailable, "no service has the name %q", host)
		}
	}
	rules := picture.Service(svc.Key)
	switch {
	case rules == nil || rules.Waypoint != config.Name(w.cfg.Gateway):
		return target{}, refuse(statusUnavailable, "service %v is not bound to this waypoint", svc.Key)
	case !hasPort(svc, t.port):
		return target{}, refuse(statusUnavailable, "service %v has no port %d", svc.Key, t.port)
	}
	t.key = svc.Key
	return t, nil
}

// hasPort reports whether a service lists a port.
func hasPort(svc *workload.Service, port uint16) bool {
	_, ok := svc.Ports[port]
	return ok
}

// resolveWorkload finds the workload that has the address.
func (w *Waypoint) resolveWorkload(snap *workload.Snapshot, t target) (target, error) {
	found := snap.LookupWorkload(w.cfg.Node.Network, t.near)
	if found == nil {
		return target{}, refuse(statusUnavailable, "nothing has the address %v", t.near)
	}
	if found.Waypoint == nil || !w.is(snap, *found.Waypoint) {
		return target{}, refuse(statusUnavailable, "workload %s/%s is not bound to this waypoint", found.Namespace, found.Name)
	}
	t.uid = found.UID
	return t, nil
}

// is reports whether a gateway address is ours.
func (w *Waypoint) is(snap *workload.Snapshot, g workload.Gateway) bool {
	_, svc := snap.LookupGateway(g)
	return svc != nil && svc.Namespace == w.cfg.Gateway.Namespace && svc.Name == w.cfg.Gateway.Name
}

// carries is what a port carries, as far as the users say.
func carries(p workloadapi.AppProtocol) entry.Carries {
	switch p {
	case workloadapi.AppProtocol_HTTP11, workloadapi.AppProtocol_HTTP2, workloadapi.AppProtocol_GRPC:
		return entry.HTTP
	case workloadapi.AppProtocol_TCP, workloadapi.AppProtocol_TLS:
		return entry.Bytes
	case workloadapi.AppProtocol_UNKNOWN:
	}
	return entry.Unknown
}
