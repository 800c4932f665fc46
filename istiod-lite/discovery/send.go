package discovery

import (
	"context"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// send waits for changes and sends them, until the stream ends.
func (st *stream) send(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-st.server.ready: // until then we know nothing, which is not: nothing is there
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-st.wake:
		}
		if !st.gather(ctx, st.server.cfg.Debounce) {
			return nil
		}
		held, err := st.flush(ctx)
		if err != nil {
			return err
		}
		if held {
			if !st.gather(ctx, st.server.cfg.PolicyGrace) {
				return nil
			}
			poke(st.wake)
		}
	}
}

// flush sends one response after the other until the client has seen everything.
// What each holds is decided when it is its turn, so that what is urgent waits for
// one response at most, however much there is to send. held reports that addresses
// wait for the client to ask for policies.
func (st *stream) flush(ctx context.Context) (held bool, err error) {
	for ctx.Err() == nil {
		d, waits, err := st.next()
		if d.sub == nil || err != nil {
			return waits, err
		}
		if err := st.sendDelta(d); err != nil {
			return false, err
		}
	}
	return false, nil
}

// gather waits for company, or until something urgent comes. It reports whether
// the stream goes on.
func (st *stream) gather(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-st.hurry:
			if st.urgent() { // or an earlier response took along what the note was about
				return true
			}
		case <-timer.C:
			return true
		}
	}
}

// urgent reports whether something must not wait for company.
func (st *stream) urgent() bool {
	s := st.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.fault != nil {
		return true
	}
	for _, sub := range st.types {
		if sub.urgent {
			return true
		}
	}
	return false
}

// next takes the content of one response out of what the client has not seen, in
// this order: endpoints that went, new and changed policies, endpoints that take no
// connections any more, other addresses, policies that went; then what only waypoints
// read, likewise. So no workload names a policy that has not been sent. Without a subscription in the result there is
// nothing to send; held reports that addresses wait for the client to ask for
// policies.
func (st *stream) next() (d delta, held bool, err error) {
	s := st.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.fault != nil {
		return delta{}, false, st.fault
	}
	now := time.Now()
	addresses, policies := st.types[model.AddressURL], st.types[model.AuthorizationURL]
	rules := st.types[model.WaypointAuthorizationURL] // those of a waypoint
	tokens := st.types[model.WaypointAuthenticationURL]
	if addresses != nil && policies == nil && rules == nil && addresses.waits() && now.Sub(addresses.asked) < s.cfg.PolicyGrace {
		addresses, held = nil, true
	}
	for _, turn := range []struct {
		sub  *subscription
		take choice
	}{
		{addresses, choice{hasty: true, gone: true}},
		{policies, choice{there: true, evenIfNothing: true}},
		{addresses, choice{hasty: true, there: true}},
		{addresses, everything()},
		{policies, everything()},
		{rules, choice{there: true, evenIfNothing: true}},
		{tokens, choice{there: true, evenIfNothing: true}},
		{st.types[model.WaypointProviderURL], everything()},
		{st.types[model.WaypointEndpointURL], everything()},
		{st.types[model.WaypointServiceURL], everything()},
		{rules, everything()},
		{tokens, everything()},
		{st.unservedLocked(), everything()},
	} {
		// The first response is the picture of the moment: in it there is no hurry.
		if turn.sub == nil || !turn.sub.waits() || turn.take.hasty && turn.sub.status.Responses == 0 {
			continue
		}
		since, waited := turn.sub.oldest, len(turn.sub.pending) > 0
		if d = turn.sub.take(&s.picture, turn.take, s.cfg.ResponseBytes); d.isEmpty() {
			continue
		}
		if waited {
			s.metrics.lag.Observe(now.Sub(since).Seconds())
		}
		return d, held, nil
	}
	return delta{}, held, nil
}

// unservedLocked is a subscription to what we do not have that is owed a response; nil
// when there is none. The caller holds Server.mu.
func (st *stream) unservedLocked() *subscription {
	for _, sub := range st.types {
		if sub.t == 0 && sub.waits() {
			return sub
		}
	}
	return nil
}

// sendDelta sends one response.
func (st *stream) sendDelta(d delta) error {
	resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: d.sub.url, Nonce: st.nextNonce(), RemovedResources: d.removed}
	for _, r := range d.resources {
		resp.Resources = append(resp.Resources, r.Wire)
	}
	return st.sendResponse(d.sub, resp)
}

// sendResponse sends one response. A client that does not read it for too long
// ends its stream by that.
func (st *stream) sendResponse(sub *subscription, resp *discoveryv3.DeltaDiscoveryResponse) error {
	timer := time.AfterFunc(st.server.cfg.SendTimeout, func() { close(st.stuck) })
	err := st.grpc.Send(resp)
	if !timer.Stop() {
		return context.DeadlineExceeded // the stream is ending
	}
	if err != nil {
		return err
	}
	s := st.server
	s.metrics.responses.WithLabelValues(sub.t.String()).Inc()
	s.metrics.resources.WithLabelValues(sub.t.String()).Add(float64(len(resp.Resources) + len(resp.RemovedResources)))
	s.mu.Lock()
	defer s.mu.Unlock()
	sub.status.Responses++
	sub.status.Sent = resp.Nonce
	sub.status.Resources += len(resp.Resources)
	sub.status.Removed += len(resp.RemovedResources)
	return nil
}
