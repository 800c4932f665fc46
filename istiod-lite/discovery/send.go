package discovery

import (
	"context"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

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
		deltas, held, err := st.collect()
		if err != nil {
			return err
		}
		for _, d := range deltas {
			if err := st.sendDelta(d); err != nil {
				return err
			}
		}
		if held {
			if !st.gather(ctx, st.server.cfg.PolicyGrace) {
				return nil
			}
			poke(st.wake)
		}
	}
}

// gather waits for company, or until something urgent comes. It reports whether
// the stream goes on.
func (st *stream) gather(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-st.hurry:
	case <-timer.C:
	}
	return true
}

// collect takes what the client has not seen: new and changed policies, then
// addresses, then policies that went. held reports that addresses wait for the
// client to ask for policies.
func (st *stream) collect() (deltas []delta, held bool, err error) {
	s := st.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.fault != nil {
		return nil, false, st.fault
	}
	now := time.Now()
	var before, addresses, after []delta
	policies := st.types[model.AuthorizationURL] != nil
	for _, sub := range st.types {
		if len(sub.pending) == 0 && !sub.owed {
			continue
		}
		if sub.t == model.TypeAddress && !policies && now.Sub(sub.asked) < s.cfg.PolicyGrace {
			held = true
			continue
		}
		if len(sub.pending) > 0 {
			s.metrics.lag.Observe(now.Sub(sub.oldest).Seconds())
		}
		d := sub.take(&s.picture, now)
		switch {
		case sub.t == model.TypeAddress:
			addresses = append(addresses, d)
		case len(d.removed) > 0:
			gone := delta{sub: sub, removed: d.removed}
			d.removed = nil
			after = append(after, gone)
			if d.owed || len(d.resources) > 0 {
				before = append(before, d)
			}
		default:
			before = append(before, d)
		}
	}
	return append(append(before, addresses...), after...), held, nil
}

// sendDelta sends a delta in responses of bounded size.
func (st *stream) sendDelta(d delta) error {
	for first := true; len(d.resources) > 0 || len(d.removed) > 0 || d.owed && first; first = false {
		resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: d.sub.url, Nonce: st.nextNonce()}
		size := 0
		for size < st.server.cfg.ResponseBytes && len(d.resources) > 0 {
			wire := d.resources[0].Wire
			resp.Resources = append(resp.Resources, wire)
			size += proto.Size(wire)
			d.resources = d.resources[1:]
		}
		for size < st.server.cfg.ResponseBytes && len(d.resources) == 0 && len(d.removed) > 0 {
			resp.RemovedResources = append(resp.RemovedResources, d.removed[0])
			size += len(d.removed[0])
			d.removed = d.removed[1:]
		}
		if err := st.sendResponse(d.sub, resp); err != nil {
			return err
		}
	}
	return nil
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
