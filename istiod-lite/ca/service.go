package ca

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/meshapi/caapi"
)

const (
	// maxRequest is the largest request, in bytes: a signing request and some
	// metadata.
	maxRequest = 32 << 10

	// maxFreshReads is how many live reads of pods run at a time, so that a node
	// that asks for what it may not have cannot flood their source.
	maxFreshReads = 4

	// maxWaiting is how many requests of one node may wait for live reads, of which
	// a node gets one at a time: one that asks for what it may not have must not
	// keep others from what they may. Our choice: more than pods that start on a
	// node at a time.
	maxWaiting = 128

	// impersonated is the key of the request's metadata that names the workload
	// whose certificate a node asks for.
	impersonated = "ImpersonatedIdentity"
)

// Deps are the collaborators of a [Service]. All fields are required.
type Deps struct {
	Authority     *Authority
	Authenticator Authenticator
	Pods          PodsOnNode
	Log           *zap.Logger
	Metrics       *Metrics
}

// Service is the certificate RPC. Register it with
// caapi.RegisterIstioCertificateServiceServer.
type Service struct {
	caapi.UnimplementedIstioCertificateServiceServer

	deps  Deps
	fresh chan struct{} // a slot per live read

	// mu guards who waits for live reads, by node.
	mu    sync.Mutex
	lines map[string]*line
}

// line is where the requests of one node wait for live reads.
type line struct {
	turn    chan struct{} // one slot
	waiting int           // the one whose turn it is included
}

var _ caapi.IstioCertificateServiceServer = (*Service)(nil)

// NewService wires a Service. It starts nothing.
func NewService(deps Deps) *Service {
	deps.Log = deps.Log.Named("ca")
	return &Service{deps: deps, fresh: make(chan struct{}, maxFreshReads), lines: map[string]*line{}}
}

// refusal is why a request was not served: the reason for our log, and what the
// caller is told.
type refusal struct {
	code   codes.Code
	told   string
	reason error
	count  outcome
}

// CreateCertificate signs a certificate for a proven caller. Who is refused for
// what they are is told no reason; it stands in the log.
func (s *Service) CreateCertificate(ctx context.Context, req *caapi.IstioCertificateRequest) (*caapi.IstioCertificateResponse, error) {
	s.deps.Metrics.requests.Inc()
	caller, err := s.deps.Authenticator.Authenticate(ctx)
	if err != nil {
		return nil, s.refuse(ctx, caller, req, &refusal{codes.Unauthenticated, "request is not authenticated", err, notAuthenticated})
	}
	chain, id, no := s.create(ctx, caller, req)
	if no != nil {
		return nil, s.refuse(ctx, caller, req, no)
	}
	s.deps.Metrics.issued.Inc()
	s.deps.Log.Debug("certificate issued", zap.String("caller", caller.Name), zap.Stringer("identity", id))
	return &caapi.IstioCertificateResponse{CertChain: chain}, nil
}

// create is the way of a request whose caller is known.
func (s *Service) create(ctx context.Context, caller Caller, req *caapi.IstioCertificateRequest) ([]string, identity.ID, *refusal) {
	if size := proto.Size(req); size > maxRequest {
		return nil, identity.ID{}, badRequest(fmt.Errorf("request of %d bytes: want at most %d", size, maxRequest))
	}
	id, no := s.authorize(ctx, caller, req.GetMetadata())
	if no != nil {
		return nil, id, no
	}
	public, err := readCSR(req.GetCsr())
	if err != nil {
		return nil, id, badRequest(err)
	}
	ttl, err := ttlOf(req.GetValidityDuration())
	if err != nil {
		return nil, id, badRequest(err)
	}
	chain, err := s.deps.Authority.Sign(public, id, ttl)
	if _, ok := errors.AsType[*RequestError](err); ok {
		return nil, id, badRequest(err)
	}
	if err != nil {
		return nil, id, &refusal{codes.Internal, "certificate could not be signed", err, signFailed}
	}
	return chain, id, nil
}

// authorize returns the identity that caller gets a certificate for: the one
// that the request names, if a pod of it runs on the caller's node, else the
// caller's own.
func (s *Service) authorize(ctx context.Context, caller Caller, metadata *structpb.Struct) (identity.ID, *refusal) {
	value, named := metadata.GetFields()[impersonated]
	if !named {
		if caller.Identity.IsZero() {
			return identity.ID{}, denied(errors.New("the request names no identity, and the caller has none of its own"))
		}
		if caller.Identity.TrustDomain != s.deps.Authority.TrustDomain() {
			return identity.ID{}, denied(fmt.Errorf("the caller's identity %v is of another trust domain", caller.Identity))
		}
		return caller.Identity, nil
	}
	text, ok := value.GetKind().(*structpb.Value_StringValue)
	if !ok {
		return identity.ID{}, badRequest(fmt.Errorf("%s is not a string", impersonated))
	}
	id, err := identity.ParseID(text.StringValue)
	if err != nil {
		return identity.ID{}, badRequest(fmt.Errorf("%s: %w", impersonated, err))
	}
	if id.TrustDomain != s.deps.Authority.TrustDomain() {
		return id, denied(fmt.Errorf("identity is of another trust domain than %s", s.deps.Authority.TrustDomain()))
	}
	if caller.Node == "" {
		return id, denied(errors.New("the caller speaks for no node"))
	}
	return id, s.authorizeNode(ctx, caller.Node, id)
}

// authorizeNode checks that a pod of id runs on node: in memory, and before it
// refuses by one live read, for what is in memory may be late.
func (s *Service) authorizeNode(ctx context.Context, node string, id identity.ID) *refusal {
	entitled := func(fresh bool) (bool, error) {
		pods, err := s.deps.Pods.PodsOnNode(ctx, node, fresh)
		return slices.ContainsFunc(pods, func(p Pod) bool { return p.entitles(node, id) }), err
	}
	ok, err := entitled(false)
	if err == nil && !ok {
		ok, err = s.inTurn(ctx, node, func() (bool, error) {
			if ok, err := entitled(false); ok || err != nil {
				return ok, err // another's read has found it
			}
			select {
			case s.fresh <- struct{}{}:
				defer func() { <-s.fresh }()
			case <-ctx.Done():
				return false, context.Cause(ctx)
			}
			return entitled(true)
		})
	}
	switch {
	case err != nil:
		return &refusal{codes.Unavailable, "try again", fmt.Errorf("pods of node %s: %w", node, err), notAuthorized}
	case !ok:
		return denied(fmt.Errorf("no pod of service account %s/%s that has not ended runs on node %s", id.Namespace, id.ServiceAccount, node))
	}
	return nil
}

// inTurn calls fn, for one request of a node at a time.
func (s *Service) inTurn(ctx context.Context, node string, fn func() (bool, error)) (bool, error) {
	l := s.queue(node)
	if l == nil {
		return false, fmt.Errorf("%d of its requests wait already", maxWaiting)
	}
	defer s.unqueue(node, l)
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
		return fn()
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// queue takes a place in a node's line; nil when it is full.
func (s *Service) queue(node string) *line {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lines[node]
	if l == nil {
		l = &line{turn: make(chan struct{}, 1)}
		s.lines[node] = l
	}
	if l.waiting >= maxWaiting {
		return nil
	}
	l.waiting++
	return l
}

// unqueue gives the place back.
func (s *Service) unqueue(node string, l *line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.waiting--; l.waiting == 0 {
		delete(s.lines, node)
	}
}

// ttlOf reads a duration in seconds; zero or less stays "the default".
func ttlOf(seconds int64) (time.Duration, error) {
	if seconds > int64(math.MaxInt64/time.Second) {
		return 0, &RequestError{fmt.Errorf("validity of %d seconds is out of range", seconds)}
	}
	return max(0, time.Duration(max(0, seconds))*time.Second), nil
}

// denied refuses a caller who may not have what it asks for.
func denied(reason error) *refusal {
	return &refusal{codes.PermissionDenied, "not permitted", reason, notAuthorized}
}

// badRequest refuses a request that cannot be understood, and says why.
func badRequest(reason error) *refusal {
	return &refusal{codes.InvalidArgument, reason.Error(), reason, malformed}
}

// refuse logs and counts no and returns what the caller is told.
func (s *Service) refuse(ctx context.Context, caller Caller, req *caapi.IstioCertificateRequest, no *refusal) error {
	s.deps.Metrics.refused.WithLabelValues(string(no.count)).Inc()
	fields := []zap.Field{zap.Stringer("code", no.code), zap.String("caller", caller.Name), zap.Error(no.reason)}
	if p, ok := peer.FromContext(ctx); ok {
		fields = append(fields, zap.Stringer("src", p.Addr))
	}
	if want := req.GetMetadata().GetFields()[impersonated].GetStringValue(); want != "" && len(want) < 512 {
		fields = append(fields, zap.String("identity", want))
	}
	s.deps.Log.Warn("certificate refused", fields...)
	return status.Error(no.code, no.told)
}
