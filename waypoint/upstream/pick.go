package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/tracing"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/waypoint/config"
)

// Want is what a request needs.
type Want struct {
	Key Key
	// Near is the address that the client asked for, whose family is preferred.
	Near netip.Addr
	// Client is who endpoints are told of that ask for it; invalid: we call for ourselves.
	Client netip.AddrPort
	// Tried are UIDs of endpoints that are not asked again, if there is another.
	Tried []string
	// Hash chooses the endpoint where the users want equal requests to go to
	// equal endpoints; HasHash says that there is one.
	Hash    uint64
	HasHash bool
	// Pin is the hash of the UID of the endpoint that a session is at, which is
	// picked if it can be. Zero: there is none.
	Pin uint64
}

// Endpoint is who gets a request.
type Endpoint struct {
	Workload *workload.Workload
	Service  *workload.Service
	// App is the address of the application, and Tunnel that of the tunnel to it;
	// invalid when there is none.
	App, Tunnel netip.AddrPort
	Traffic     *config.Traffic
	// Trace is told to the tunnel that is opened; zero: nothing is.
	Trace tracing.Context

	accept []identity.ID
	from   netip.AddrPort // the client that it is told of; invalid: none
	h      *host
}

// Errors of Pick.
var (
	ErrNoService  = errors.New("no such service")
	ErrNoEndpoint = errors.New("no healthy endpoint")
	ErrNoSubset   = errors.New("no such subset")
)

// Pick chooses an endpoint. The caller calls Done when the request is over.
func (u *Upstreams) Pick(w Want) (*Endpoint, error) {
	snap, picture := u.deps.State.Snapshot(), u.deps.Routes.Picture()
	svc := snap.Service(w.Key.Service)
	if svc == nil {
		return nil, fmt.Errorf("%w: %v", ErrNoService, w.Key.Service)
	}
	rules := picture.Service(w.Key.Service)
	var subset *config.Subset
	if w.Key.Subset != "" {
		if subset = rules.Subset(w.Key.Subset); subset == nil {
			return nil, fmt.Errorf("%w: %v", ErrNoSubset, w.Key)
		}
	}
	c := u.cluster(w.Key)
	p := picker{
		c: c, snap: snap, picture: picture, svc: svc, subset: subset, want: w,
		traffic: rules.Traffic(w.Key.Port, w.Key.Subset), source: u.source(snap), now: time.Now(),
	}
	found, port := p.pick()
	if found == nil {
		return nil, fmt.Errorf("%w for %v", ErrNoEndpoint, w.Key)
	}
	return p.endpoint(found, port)
}

// Direct is the workload that a client has asked for by its address.
func (u *Upstreams) Direct(uid string, at netip.AddrPort) (*Endpoint, error) {
	snap := u.deps.State.Snapshot()
	w := snap.Workload(uid)
	if w == nil {
		return nil, fmt.Errorf("%w: workload %s is gone", ErrNoEndpoint, uid)
	}
	key := Key{Service: workload.Key{Namespace: w.Namespace, Hostname: "workload:" + uid}, Port: at.Port()}
	p := picker{
		c: u.cluster(key), snap: snap, svc: &workload.Service{}, traffic: (*config.Service)(nil).Traffic(0, ""),
		source: u.source(snap), want: Want{Key: key, Near: at.Addr()},
	}
	return p.endpoint(w, at.Port())
}

// source is ourselves, as far as the control plane knows us.
func (u *Upstreams) source(snap *workload.Snapshot) *workload.Workload {
	if own, ok := snap.LookupPod(u.cfg.Self); ok {
		return own
	}
	return u.unlisted
}

// picker holds what one choice goes by.
type picker struct {
	c       *cluster
	snap    *workload.Snapshot
	picture *config.Picture
	svc     *workload.Service
	subset  *config.Subset
	traffic *config.Traffic
	source  *workload.Workload
	want    Want
	now     time.Time
}

// pick chooses: a healthy endpoint that was not tried, else one that was.
func (p *picker) pick() (*workload.Workload, uint16) {
	tried := func(uid string) bool {
		for _, t := range p.want.Tried {
			if t == uid {
				return true
			}
		}
		return false
	}
	if w, port := p.pinned(tried); w != nil {
		return w, port
	}
	w, port := p.choose(func(uid string) bool { return p.out(uid) || tried(uid) })
	if w == nil && len(p.want.Tried) > 0 {
		w, port = p.choose(p.out)
	}
	return w, port
}

// pinned is the endpoint that a session is at; nil when it cannot take the request.
func (p *picker) pinned(tried func(uid string) bool) (found *workload.Workload, port uint16) {
	if p.want.Pin == 0 {
		return nil, 0
	}
	o := workload.PickOptions{Source: p.source, Port: p.want.Key.Port, Exclude: func(uid string) bool {
		return HashText(uid) != p.want.Pin || p.out(uid) || tried(uid)
	}}
	p.snap.Candidates(p.svc, o, func(w *workload.Workload, at uint16) { found, port = w, at })
	return found, port
}

// inSubset reports whether an endpoint belongs to the subset, if there is one.
func (p *picker) inSubset(uid string) bool {
	return p.subset == nil || p.subset.Has(p.picture.Endpoint(uid))
}

// out reports whether an endpoint is none of the subset, or ill.
func (p *picker) out(uid string) bool {
	if !p.inSubset(uid) {
		return true
	}
	return p.traffic.GetOutlier() != nil && p.c.isOut(uid, p.now)
}

// choose chooses among those that exclude leaves, as the users want it.
func (p *picker) choose(exclude func(uid string) bool) (*workload.Workload, uint16) {
	if p.traffic.Places != nil {
		if view, ok := p.traffic.Places.From(p.source); ok {
			return p.chooseNear(&view, exclude)
		}
	}
	return p.chooseAny(workload.PickOptions{Source: p.source, Port: p.want.Key.Port, Rand: p.c.u.deps.Rand, Exclude: exclude})
}

// chooseAny chooses among all that could be picked.
func (p *picker) chooseAny(o workload.PickOptions) (*workload.Workload, uint16) {
	draw := func() (*workload.Workload, uint16) {
		w, port, ok := p.snap.Pick(p.svc, o)
		if !ok {
			return nil, 0
		}
		return w, port
	}
	kind := p.traffic.GetBalancer().GetKind()
	switch {
	case kind == waypointapi.Balancer_CONSISTENT_HASH && p.want.HasHash:
		return p.byHash(o)
	case kind == waypointapi.Balancer_ROUND_ROBIN:
		return p.inTurn(o)
	case kind == waypointapi.Balancer_LEAST_REQUEST:
		w, port := draw()
		if w == nil {
			return nil, 0
		}
		other, otherPort := draw()
		if other != nil && other != w && p.c.host(other.UID).active.Load() < p.c.host(w.UID).active.Load() {
			return other, otherPort
		}
		return w, port
	}
	return draw()
}

// inTurn chooses the next one.
func (p *picker) inTurn(o workload.PickOptions) (w *workload.Workload, port uint16) {
	type candidate struct {
		w    *workload.Workload
		port uint16
	}
	var all []candidate
	p.snap.Candidates(p.svc, o, func(w *workload.Workload, port uint16) { all = append(all, candidate{w, port}) })
	if len(all) == 0 {
		return nil, 0
	}
	one := all[p.c.turn.Add(1)%uint64(len(all))]
	return one.w, one.port
}

// byHash chooses the one with the highest score for the hash, so that the coming
// and going of one endpoint moves only the requests that were or become its own
// (rendezvous hashing).
func (p *picker) byHash(o workload.PickOptions) (best *workload.Workload, port uint16) {
	var top uint64
	p.snap.Candidates(p.svc, o, func(w *workload.Workload, at uint16) {
		if score := mix(p.want.Hash ^ HashText(w.UID)); best == nil || score > top {
			best, port, top = w, at, score
		}
	})
	return best, port
}

// HashText is the hash of a text (FNV-1a, 64 bits).
func HashText(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix spreads the bits of x (the finalizer of splitmix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// endpoint says how to reach the one that was picked.
func (p *picker) endpoint(w *workload.Workload, port uint16) (*Endpoint, error) {
	if w.Network != p.source.Network {
		return nil, fmt.Errorf("%w: %s/%s is on network %q, we are on %q", ErrNoEndpoint, w.Namespace, w.Name, w.Network, p.source.Network)
	}
	ip, ok := workload.PickAddr(w, p.want.Near, p.svc.Families)
	if !ok {
		return nil, fmt.Errorf("%w: %s/%s has no address of a family that the service uses", ErrNoEndpoint, w.Namespace, w.Name)
	}
	e := &Endpoint{
		Workload: w, Service: p.svc, App: netip.AddrPortFrom(ip, port), Traffic: p.traffic, h: p.c.host(w.UID),
	}
	if w.Protocol == workload.ProtocolHBONE {
		e.Tunnel = netip.AddrPortFrom(ip, workload.HBONEPort)
		e.accept = append(e.accept, p.svc.SANs...)
		if !w.Identity.IsZero() {
			e.accept = append(e.accept, w.Identity)
		}
	}
	if !e.Tunnel.IsValid() && p.traffic.GetProxyProtocol() != waypointapi.ProxyProtocol_NO_PROXY_PROTOCOL {
		e.from = p.want.Client
	}
	e.h.active.Add(1)
	return e, nil
}

// Done says how a request went: its status, or zero when no answer came.
func (e *Endpoint) Done(status int) {
	e.h.active.Add(-1)
	if e.Traffic.GetOutlier() != nil {
		e.h.c.judge(e.h, status, e.Traffic.GetOutlier(), time.Now())
	}
}

// Failed says that no answer came, and why. Of what a limit of ours kept back, or
// settings that cannot be met, the endpoint knows nothing.
func (e *Endpoint) Failed(err error) {
	if errors.Is(err, ErrOverflow) || errors.Is(err, ErrSettings) {
		e.Drop()
		return
	}
	e.Done(0)
}

// Drop gives back an endpoint that was not used.
func (e *Endpoint) Drop() { e.h.active.Add(-1) }
