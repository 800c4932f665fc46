package outbound

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/about"
	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

// open finds a way for f. It resolves from one picture and tries further
// endpoints for as long as nobody has said no.
//
// plan is nil when there was nowhere to go; else it is that of the last try,
// also when err is not nil.
func (o *Outbound) open(ctx context.Context, f *flight) (w way, plan *route.Plan, err error) {
	snap, err := o.pictured(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	var tried []string
	for try := range o.cfg.Tries {
		if errors.Is(err, errNoAnswer) && !o.hasOther(f, tried) {
			tried = nil // it may be slow and there, and the others have failed
		}
		next, resolveErr := o.resolve(snap, f, tried)
		if plan == nil && mayPass(resolveErr) {
			snap = o.await(ctx, f, snap)
			next, resolveErr = o.resolve(snap, f, tried)
		}
		if resolveErr != nil {
			if plan == nil {
				err = resolveErr
			}
			return nil, plan, err // no other endpoint: what the last one said
		}
		if plan != nil && next.Hop == plan.Hop && !mayRepeat(err) && !errors.Is(err, errNoAnswer) {
			return nil, plan, err // the same again would say the same again
		}
		plan = &next
		if err = o.locate(ctx, f, plan); err == nil {
			w, err = o.openOnce(ctx, f, attempt{plan: next, tried: tried, last: try == o.cfg.Tries-1})
		}
		last := try == o.cfg.Tries-1 || time.Since(f.start) > o.cfg.RetryTime
		if err == nil || last || ctx.Err() != nil || !retryable(err) {
			return w, plan, err
		}
		if next.Destination != nil && !mayRepeat(err) {
			tried = append(tried, next.Destination.UID)
		}
	}
	return nil, plan, err
}

// errNoPicture is why a connection to who knows whom ends.
var errNoPicture = errors.New("the control plane has not told who is in the mesh")

// pictured returns the picture by which f is sent on its way. Until the control
// plane has sent the first one, nobody can say that an address is outside the mesh
// and plain TCP to it right: such a connection waits, and is refused after a while.
func (o *Outbound) pictured(ctx context.Context, f *flight) (*workload.Snapshot, error) {
	select {
	case <-o.acked:
		return o.state.Snapshot(), nil // nearly always: no timer is made
	default:
	}
	timer := time.NewTimer(o.cfg.KnownWait)
	defer timer.Stop()
	for {
		snap := o.state.Snapshot()
		plan, err := o.resolve(snap, f, nil)
		if err != nil || plan.Destination != nil || plan.Service != nil {
			return snap, nil // that much is known
		}
		select {
		case <-o.acked:
			return o.state.Snapshot(), nil
		case <-o.state.Changed(snap.Version()):
		case <-timer.C:
			return nil, errNoPicture
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// mayPass reports whether err means that a service has endpoints and none is healthy.
func mayPass(err error) bool {
	re, ok := errors.AsType[*route.Error](err)
	return ok && re.MayPass
}

// await waits until f's service, which has no healthy endpoint in snap, has one, and
// returns the picture of that; or, after a while, the newest one. A connection can
// wait: the control plane of a cluster that has lost sight of its nodes marks all
// pods not ready, until their kubelets object.
func (o *Outbound) await(ctx context.Context, f *flight, snap *workload.Snapshot) *workload.Snapshot {
	timer := time.NewTimer(o.cfg.HealthyWait)
	defer timer.Stop()
	for {
		select {
		case <-o.state.Changed(snap.Version()):
		case <-timer.C:
			return snap
		case <-ctx.Done():
			return snap
		}
		snap = o.state.Snapshot()
		if _, err := o.resolve(snap, f, nil); !mayPass(err) {
			return snap
		}
	}
}

// errNoHosts is why an endpoint that is known by its name only cannot be called.
var errNoHosts = errors.New("this proxy looks no names up")

// hostError is why an endpoint's name leads nowhere.
type hostError struct{ err error }

func (e *hostError) Error() string { return e.err.Error() }

func (e *hostError) Unwrap() error { return e.err }

// locate finds the address of the next hop where the plan has only its name.
func (o *Outbound) locate(ctx context.Context, f *flight, plan *route.Plan) error {
	if plan.Host == "" {
		return nil
	}
	if o.hosts == nil {
		return &hostError{err: errNoHosts}
	}
	ip, err := o.hosts.Resolve(ctx, plan.Host, f.Target.Addr())
	if err != nil {
		return &hostError{err: err}
	}
	plan.Hop = netip.AddrPortFrom(ip, plan.Hop.Port())
	return nil
}

// attempt is one try of a flight.
type attempt struct {
	plan  route.Plan
	tried []string // endpoints that have failed before, by workload UID
	last  bool     // no other follows, whatever comes of it
}

// openOnce makes the way that the plan of a says.
func (o *Outbound) openOnce(ctx context.Context, f *flight, a attempt) (way, error) {
	plan := a.plan
	if plan.Mode == route.Direct {
		o.goesThrough(f, hbone.Key{})
		conn, err := o.connect(ctx, f, a)
		if err != nil {
			return nil, err
		}
		return &directWay{server: conn}, nil
	}
	t := o.target(f, a)
	o.goesThrough(f, t.Key)
	r := hbone.Request{Authority: plan.Authority, Header: about.RequestHeader(f.source, f.Client, plan.Service, f.trace.Context)}
	if n := o.neighbour(f, plan); n != nil {
		return o.openLocal(ctx, f, n, t, r)
	}
	stream, err := o.pool.Open(ctx, t, r)
	if err != nil {
		return nil, err
	}
	return &tunnelWay{stream: stream, peer: o.peers.id(t.Key)}, nil
}

// goesThrough notes the tunnel of f's try, none when key is zero: whatever ends what goes
// through a tunnel ends f only while that one does.
func (o *Outbound) goesThrough(f *flight, key hbone.Key) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f.key = key
}

// errNoAnswer is why a connect was given up before its time: another endpoint is
// there to be asked.
var errNoAnswer = errors.New("no answer to a SYN, and another endpoint is there")

// connect opens a TCP connection to the next hop of a. An endpoint that does not
// even refuse has the whole time to answer only when no other is left: a packet
// that is lost is sent again after a second, one that somebody drops is lost for
// good.
func (o *Outbound) connect(ctx context.Context, f *flight, a attempt) (*net.TCPConn, error) {
	d := a.plan.Destination
	if a.last || d == nil || !o.hasOther(f, append(slices.Clip(a.tried), d.UID)) {
		return o.pod.Dial(ctx, a.plan.Hop)
	}
	short, cancel := context.WithTimeoutCause(ctx, o.cfg.AnswerTime, errNoAnswer)
	defer cancel()
	conn, err := o.pod.Dial(short, a.plan.Hop)
	if err != nil && ctx.Err() == nil && context.Cause(short) == errNoAnswer {
		err = fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return conn, err
}

// hasOther reports whether f could go to an endpoint that is not among those.
func (o *Outbound) hasOther(f *flight, those []string) bool {
	plan, err := o.resolve(o.state.Snapshot(), f, those)
	return err == nil && plan.Destination != nil && !slices.Contains(those, plan.Destination.UID)
}

// resolve decides where f goes next, without the endpoints that have been tried.
func (o *Outbound) resolve(snap *workload.Snapshot, f *flight, tried []string) (route.Plan, error) {
	return route.Resolve(snap, f.source, f.Target, route.Options{
		Network:  o.cfg.Network,
		Rand:     rand.Uint64N,
		Exclude:  func(uid string) bool { return slices.Contains(tried, uid) },
		SourceIP: f.Client.Addr(),
		Now:      time.Now(),
	})
}

// target is the tunnel that the plan of a goes through.
func (o *Outbound) target(f *flight, a attempt) hbone.Target {
	plan := a.plan
	key := hbone.Key{
		Source:       f.source.Identity.String(),
		Destinations: joinIDs(plan.Accept),
		Address:      plan.Hop,
	}
	if o.handedOver(f.Client.Addr()) {
		key.SourceIP = f.Client.Addr() // others share a tunnel: they could be as many as there are addresses
	}
	return hbone.Target{
		Key:  key,
		Dial: func(ctx context.Context) (net.Conn, error) { return o.connect(ctx, f, a) },
		TLS: func(ctx context.Context) (*tls.Config, error) {
			cert, err := o.certs.Get(ctx, f.source.Identity)
			if err != nil {
				return nil, &certificateError{id: f.source.Identity, err: err}
			}
			return identity.ClientTLS(cert, plan.Accept), nil
		},
	}
}

// joinIDs is one text for a list of identities.
func joinIDs(ids []identity.ID) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	return strings.Join(texts, " ")
}

// retryable reports whether another endpoint may be asked after err.
func retryable(err error) bool {
	if hbone.Retryable(err) {
		return true
	}
	if _, ok := errors.AsType[*hostError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*net.OpError](err); !ok {
		return false
	}
	// Plain TCP that did not come about. Being out of something ourselves is
	// not the endpoint's fault, and would be met again.
	return !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) && !errors.Is(err, context.Canceled)
}

// mayRepeat reports whether the same endpoint may be asked again: it has not
// looked at the request, and another connection may reach it, or another proxy
// that listens on the same port during an upgrade. An endpoint that answered, or
// that takes no TCP, would do the same again.
func mayRepeat(err error) bool {
	if _, ok := errors.AsType[*hbone.RefusedError](err); ok {
		return false
	}
	if de, ok := errors.AsType[*hbone.DialError](err); ok && de.Stage == hbone.StageDial {
		return false
	}
	return hbone.Retryable(err)
}
