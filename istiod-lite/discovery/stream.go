package discovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// Limits on what a client can make us hold. All are our choice.
const (
	// maxTypes is how many types one client may ask for; we serve five.
	maxTypes = 8
	// maxTextBytes of a client's words are kept for status and log.
	maxTextBytes = 1024
	// maxNameBytes is the longest name of a resource or of a type. Ours are below
	// 600: namespace, pod and cluster.
	maxNameBytes = 2048
)

// errClosing ends streams when the server does.
var errClosing = status.Error(codes.Unavailable, "this control plane is shutting down")

// stream is one client.
type stream struct {
	// Set before the stream is open, then only read.
	server *Server
	grpc   discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	caller Caller
	peer   string
	serial uint64
	since  time.Time
	wake   chan struct{} // there is something to send
	hurry  chan struct{} // it must not wait
	stuck  chan struct{} // closed by the sender when the client does not read

	// Guarded by Server.mu.
	waypoint string // resource name of the service of the waypoint that it is of; else empty
	id       string // what the client calls itself
	scope    *scope // what it may have, set once; nil: everything
	node     string // whose pods it gets unasked
	types    map[string]*subscription
	fault    error // why the stream must end

	// Owned by the sender.
	nonce uint64
}

// DeltaAggregatedResources serves one client until it goes or the server closes.
func (s *Server) DeltaAggregatedResources(g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	ctx := g.Context()
	from := "unknown"
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
	}
	caller, err := s.auth.Authenticate(ctx)
	if err != nil {
		s.metrics.refused.Inc()
		s.log.Warn("client refused", zap.String("peer", from), zap.Error(err))
		return status.Error(codes.Unauthenticated, "request authenticate failure")
	}
	if caller.Node == "" { // any pod can have a token, and must not hold a stream by that
		if _, err := s.waypointOf(caller, ""); err != nil {
			return s.refuse(from, caller, "", err)
		}
	}
	st := &stream{
		server: s, grpc: g, caller: caller, peer: from, node: caller.Node,
		wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), stuck: make(chan struct{}),
		types: map[string]*subscription{},
	}
	if err := s.addStream(st); err != nil {
		return err
	}
	defer s.removeStream(st)
	err = st.run(ctx)
	s.log.Info("client gone", zap.String("peer", from), zap.String("caller", caller.Name), zap.Error(err))
	return err
}

// refuse notes that a caller is refused that is somebody, but no proxy.
func (s *Server) refuse(from string, caller Caller, id string, err error) error {
	s.metrics.refused.Inc()
	s.log.Warn("client refused", zap.String("peer", from), zap.String("caller", caller.Name), zap.String("id", id), zap.Error(err))
	return err
}

// run starts receiver and sender and waits for the first reason to end. Both
// obey the end of the stream, which comes when run has returned; the server waits
// for them.
func (st *stream) run(ctx context.Context) error {
	received, sent := make(chan error, 1), make(chan error, 1)
	st.server.streams.Go(ctx, "xds-receive", func(context.Context) { received <- st.receive() })
	st.server.streams.Go(ctx, "xds-send", func(ctx context.Context) { sent <- st.send(ctx) })
	reprove := time.NewTicker(st.server.cfg.Reprove)
	defer reprove.Stop()
	for {
		select {
		case err := <-received:
			return err
		case err := <-sent:
			return err
		case <-st.stuck:
			return status.Errorf(codes.ResourceExhausted, "no response was read for %v", st.server.cfg.SendTimeout)
		case <-st.server.closing:
			return errClosing
		case <-reprove.C:
			now, err := st.server.auth.Authenticate(ctx)
			if !errors.Is(err, ErrUndecided) && (err != nil || now != st.caller) {
				st.server.log.Warn("client is no longer who it was", zap.String("peer", st.peer), zap.String("caller", st.caller.Name), zap.Error(err))
				return status.Error(codes.Unauthenticated, "request authenticate failure")
			}
			if err := st.isStill(); err != nil {
				return err
			}
		}
	}
}

// receive reads requests until the client ends the stream.
func (st *stream) receive() error {
	first := true
	for {
		req, err := st.grpc.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
				return nil
			}
			return err
		}
		if first {
			if err := st.introduce(req); err != nil {
				return err
			}
			first = false
		}
		if err := st.request(req); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
	}
}

// introduce reads who the client says it is, which its proof must not contradict.
func (st *stream) introduce(req *discoveryv3.DeltaDiscoveryRequest) error {
	id := clip(req.GetNode().GetId())
	claimed := req.GetNode().GetMetadata().GetFields()["NODE_NAME"].GetStringValue()
	if want := st.caller.Node; want != "" && claimed != "" && claimed != want {
		return status.Errorf(codes.PermissionDenied, "NODE_NAME is %q, but the caller speaks for node %q", clip(claimed), want)
	}
	_, namespace := podOf(id)
	if want := st.caller.Namespace; want != "" && namespace != want {
		return status.Errorf(codes.PermissionDenied, "node id %q is not of namespace %q, which the caller's identity names", id, want)
	}
	waypoint, err := st.server.waypointOf(st.caller, id)
	if err != nil {
		return st.server.refuse(st.peer, st.caller, id, err)
	}
	st.server.mu.Lock()
	st.id = id
	st.waypoint = waypoint
	st.server.enterScopeLocked(st)
	if st.node == "" {
		st.node = clip(claimed)
	}
	st.server.mu.Unlock()
	st.server.log.Info("client connected", zap.String("peer", st.peer), zap.String("caller", st.caller.Name), zap.String("id", id))
	return nil
}

// isStill reports why the client is not the proxy any more that it was when it was
// let in; nil when it is.
func (st *stream) isStill() error {
	st.server.mu.Lock()
	id, was := st.id, st.waypoint
	st.server.mu.Unlock()
	if id == "" {
		return nil // it has not said anything yet
	}
	now, err := st.server.waypointOf(st.caller, id)
	if err == nil && now != was {
		err = status.Errorf(codes.PermissionDenied, "the pod is now of waypoint %q", now)
	}
	if err != nil {
		st.server.log.Warn("client is no longer who it was", zap.String("peer", st.peer), zap.String("caller", st.caller.Name), zap.Error(err))
	}
	return err
}

// waypointOf is the resource name of the service of the waypoint for which a caller
// speaks: a pod that is no node's proxy must be that of a Gateway, and one with the
// proof of a node may say that it is; empty for the proxy of a node, who sees all.
func (s *Server) waypointOf(c Caller, id string) (string, error) {
	kind, _, _ := strings.Cut(id, "~")
	if c.Node != "" && kind != waypointKind {
		return "", nil
	}
	namespace, pod := c.Namespace, c.Pod
	if c.Node != "" {
		pod, namespace = podOf(id)
	}
	waypoint, err := s.proxies.WaypointOf(namespace, pod, c.Node)
	switch {
	case errors.Is(err, ErrUndecided):
		return "", status.Error(codes.Unavailable, err.Error())
	case err != nil:
		return "", status.Errorf(codes.PermissionDenied, "neither the proxy of a node nor of a Gateway: %v", err)
	}
	return waypoint, nil
}

// waypointKind begins the node ids of waypoints.
const waypointKind = "waypoint"

// podOf is the pod of a node id: type~address~pod.namespace~domain.
func podOf(id string) (pod, namespace string) {
	parts := strings.Split(id, "~")
	if len(parts) != 4 {
		return "", ""
	}
	pod, namespace, _ = strings.Cut(parts[2], ".")
	return pod, namespace
}

// clip bounds a client's words.
func clip(text string) string {
	if len(text) > maxTextBytes {
		text = text[:maxTextBytes]
	}
	return strings.ToValidUTF8(text, "?")
}

// request takes in one request. The error ends the stream.
func (st *stream) request(req *discoveryv3.DeltaDiscoveryRequest) error {
	s := st.server
	if max(len(req.ResourceNamesSubscribe), len(req.InitialResourceVersions)) > s.cfg.MaxNames {
		return s.tooMany("names in one request")
	}
	if err := checkNames(req); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	sub := st.types[req.TypeUrl]
	if sub == nil {
		if len(st.types) >= maxTypes {
			return fmt.Errorf("more than %d types", maxTypes)
		}
		sub = newSubscription(typeOf(req.TypeUrl), clip(req.TypeUrl), st.node, st.scope, now)
		st.types[req.TypeUrl] = sub
		sub.start(&s.picture, req, now)
		if sub.t == 0 {
			s.log.Warn("client asks for a type that is not served", zap.String("peer", st.peer), zap.String("type", sub.url))
		}
	} else {
		st.answerLocked(sub, req)
		sub.update(&s.picture, req, now)
	}
	if len(sub.names) > s.cfg.MaxNames {
		return s.tooMany("names")
	}
	st.signalLocked()
	return nil
}

// checkNames refuses names that are longer than any of ours: they would be kept.
func checkNames(req *discoveryv3.DeltaDiscoveryRequest) error {
	tooLong := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return len(name) > maxNameBytes })
	}
	long := tooLong(req.TypeUrl) || tooLong(req.ResourceNamesSubscribe...)
	for name := range req.InitialResourceVersions {
		long = long || tooLong(name)
	}
	if long {
		return fmt.Errorf("a name of more than %d bytes", maxNameBytes)
	}
	return nil
}

// typeOf is the type that a URL means; zero for one that is not served. Those
// get empty responses, so that a client which asks for more than we know starts.
func typeOf(url string) model.Type {
	switch url {
	case model.AddressURL:
		return model.TypeAddress
	case model.AuthorizationURL:
		return model.TypeAuthorization
	case model.WaypointAuthorizationURL:
		return model.TypeWaypointAuthorization
	case model.WaypointAuthenticationURL:
		return model.TypeWaypointAuthentication
	case model.WaypointProviderURL:
		return model.TypeWaypointProvider
	case model.WaypointEndpointURL:
		return model.TypeWaypointEndpoint
	case model.WaypointServiceURL:
		return model.TypeWaypointService
	}
	return 0
}

// answerLocked notes the client's word on a response. The caller holds Server.mu.
func (st *stream) answerLocked(sub *subscription, req *discoveryv3.DeltaDiscoveryRequest) {
	if req.ResponseNonce == "" {
		return
	}
	if req.ErrorDetail == nil {
		sub.status.Acked++
		sub.status.Accepted = clip(req.ResponseNonce)
		return
	}
	sub.status.Nacked++
	sub.status.Rejected = &Rejection{Nonce: clip(req.ResponseNonce), Message: clip(req.ErrorDetail.GetMessage()), At: time.Now()}
	st.server.metrics.nacks.WithLabelValues(sub.t.String()).Inc()
	st.server.log.Warn("client rejects resources", zap.String("peer", st.peer), zap.String("id", st.id),
		zap.String("type", sub.url), zap.String("reason", sub.status.Rejected.Message))
}

// noteLocked notes that a name changed. The caller holds Server.mu.
func (st *stream) noteLocked(c model.Change, old *model.Resource, now time.Time) {
	for _, sub := range st.types {
		if sub.t != c.Type || st.scope != nil && !st.scope.had(c.Type, c.Name) || !sub.wants(c.Name, old, c.Resource) {
			continue
		}
		sub.mark(c.Name, now)
		if c.Urgent {
			sub.hasty[c.Name], sub.urgent = struct{}{}, true
		} else if r := c.Resource; r != nil && r.Healthy {
			delete(sub.hasty, c.Name) // it was on its way out and is back
		}
		if limit := st.server.cfg.MaxNames; len(sub.pending) > limit && st.fault == nil {
			st.fault = status.Errorf(codes.ResourceExhausted, "too far behind: more than %d names wait", limit)
		}
	}
}

// noteScopeLocked notes what a change of other resources has brought into the scope of
// the client, or taken out of it. The caller holds Server.mu.
func (st *stream) noteScopeLocked(now time.Time) {
	if st.scope == nil {
		return
	}
	p := &st.server.picture
	for _, sub := range st.types {
		for _, refs := range []map[ref]struct{}{st.scope.left, st.scope.joined} {
			for r := range refs {
				// What is not there, and was not, is no news.
				if there := p.byName[r.t][r.name]; r.t == sub.t && there != nil && sub.wants(r.name, nil, there) {
					sub.mark(r.name, now)
				}
			}
		}
	}
}

// signalLocked wakes the sender if there is anything to send. The caller holds
// Server.mu.
func (st *stream) signalLocked() {
	for _, sub := range st.types {
		if len(sub.pending) > 0 || sub.owed {
			poke(st.wake)
			if sub.urgent {
				poke(st.hurry)
			}
		}
	}
}

// poke leaves a note that nobody has to wait for.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// nextNonce names a response.
func (st *stream) nextNonce() string {
	st.nonce++
	return strconv.FormatUint(st.nonce, 10)
}
