package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/workload"
)

// Config tunes a [Server]. The zero Config is ready for use.
type Config struct {
	Names
	// Network is the one this node is in. It counts for pods that the control
	// plane does not know yet.
	Network string
	// Patience is how long upstream may take. Zero means 5 s.
	Patience time.Duration
}

// Pod is the pod that asks.
type Pod struct {
	Subject policy.Subject
	// Asked returns where datagrams from client that arrive at local were going.
	Asked func(client, local netip.AddrPort) (netip.AddrPort, error)
	// Dial connects to a resolver from inside the pod's namespace, with our
	// mark. network is udp or tcp.
	Dial func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
}

// Deps are the collaborators of a [Server]. All fields are required.
type Deps struct {
	Log     *zap.Logger
	State   *workload.Store
	Metrics *telemetry.DNSMetrics
	// Acked is closed when the control plane has sent the picture for the first
	// time.
	Acked <-chan struct{}
	// Budget is shared by the pods of a node.
	Budget *Budget
	// Fallback lists whom to ask when it is not known whom the pod has asked.
	Fallback func() ([]netip.AddrPort, error)
}

// Budget bounds how many questions of all pods wait for upstream.
type Budget struct{ slots chan struct{} }

// NewBudget makes the budget of a node.
func NewBudget() *Budget { return &Budget{slots: make(chan struct{}, nodeQuestions)} }

// Server answers the questions of one pod. Any goroutine may use it.
type Server struct {
	// Set by New, then only read.
	cfg  Config
	pod  Pod
	deps Deps

	waiting chan struct{} // one for each question that waits for upstream
	streams chan struct{} // one for each TCP connection
}

// New makes the server of pod. It starts nothing.
func New(cfg Config, pod Pod, deps Deps) *Server {
	if cfg.Patience == 0 {
		cfg.Patience = patience
	}
	return &Server{
		cfg: cfg, pod: pod, deps: deps,
		waiting: make(chan struct{}, podQuestions),
		streams: make(chan struct{}, podStreams),
	}
}

// errBusy is why a question is refused: too many wait already.
var errBusy = errors.New("too many questions wait for upstream")

// enter takes a place among the questions that wait for upstream.
func (s *Server) enter() (leave func(), err error) {
	select {
	case s.waiting <- struct{}{}:
	default:
		return nil, errBusy
	}
	select {
	case s.deps.Budget.slots <- struct{}{}:
	default:
		<-s.waiting
		return nil, errBusy
	}
	return func() { <-s.deps.Budget.slots; <-s.waiting }, nil
}

// ready reports whether the control plane has sent its picture.
func (s *Server) ready() bool {
	select {
	case <-s.deps.Acked:
		return true
	default:
		return false
	}
}

// waitReady waits for the first picture, but not for ever.
func (s *Server) waitReady(ctx context.Context) {
	if s.ready() {
		return
	}
	timer := time.NewTimer(pictureWait)
	defer timer.Stop()
	select {
	case <-s.deps.Acked:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// asker is who asks and how, for the metrics and the log.
type asker struct {
	client Client
	labels telemetry.DNSLabels
}

// asker describes the pod as the picture knows it now. known is false when
// nobody has told of it.
func (s *Server) asker(snap *workload.Snapshot, q *question, network string) (a asker, known bool) {
	a.labels = telemetry.DNSLabels{Kind: q.kindName(), Protocol: network}
	w, known := snap.LookupSource(s.pod.Subject)
	if !known {
		return a, false
	}
	a.client = Client{Namespace: w.Namespace, Network: w.Network}
	if w.Seeded {
		a.client.Network = s.cfg.Network
	}
	a.labels.Service, a.labels.Revision = w.CanonicalName, w.CanonicalRevision
	return a, true
}

// own answers q from the picture. done is false when somebody else has to be
// asked; then a says who asks.
func (s *Server) own(q *question, network string) (out []byte, a asker, done bool) {
	snap := s.deps.State.Snapshot()
	a, known := s.asker(snap, q, network)
	s.deps.Metrics.Asked(a.labels)
	if !known {
		s.note(q, a, "the pod is not known", 0, nil)
		return q.failure(dns.RcodeServerFailure), a, true
	}
	if !q.forAddresses() {
		return nil, a, false
	}
	in, signed, err := q.understand()
	if err != nil {
		s.note(q, a, "not understood", 0, err)
		return q.failure(dns.RcodeFormatError), a, true
	}
	if signed {
		return nil, a, false
	}
	f := s.cfg.Lookup(snap, a.client, q.name, q.kind == dns.TypeAAAA)
	if f.Service == nil {
		return nil, a, false
	}
	out, err = q.answer(in, f, network == "udp")
	if err != nil {
		s.note(q, a, "answer cannot be written", 0, err)
		return q.failure(dns.RcodeServerFailure), a, true
	}
	s.note(q, a, "answered for "+f.Service.Key.String(), len(f.Addresses), nil)
	return out, a, true
}

// upstream hands q on to one of the resolvers to, and returns its answer, or one
// that says that there is none.
func (s *Server) upstream(ctx context.Context, q *question, a asker, network string, to []netip.AddrPort) []byte {
	start := time.Now()
	out, err := s.forward(ctx, q, network, to)
	s.deps.Metrics.Forwarded(a.labels, time.Since(start), err)
	if err != nil {
		s.note(q, a, "upstream failed", 0, err)
		return q.failure(dns.RcodeServerFailure)
	}
	s.note(q, a, "handed on", 0, nil)
	return out
}

// refuse answers a question that there is no room for.
func (s *Server) refuse(q *question, a asker, err error) []byte {
	s.deps.Metrics.Forwarded(a.labels, 0, err)
	s.note(q, a, "refused", 0, err)
	return q.failure(dns.RcodeServerFailure)
}

// note writes a line about q to the debug log.
func (s *Server) note(q *question, a asker, result string, addresses int, err error) {
	e := s.deps.Log.Check(zap.DebugLevel, "question")
	if e == nil {
		return
	}
	fields := []zap.Field{
		zap.Stringer("src.workload", s.pod.Subject), zap.String("domain", q.name), zap.String("query", a.labels.Kind),
		zap.String("protocol", a.labels.Protocol), zap.String("result", result), zap.Int("endpoints", addresses),
	}
	if err != nil {
		fields = append(fields, zap.Error(err))
	}
	e.Write(fields...)
}

// whom lists whom to ask: asked, unless it is not known or would be ourselves.
func (s *Server) whom(asked netip.AddrPort, err error, self netip.AddrPort) ([]netip.AddrPort, error) {
	if err == nil && asked.IsValid() && asked != self {
		return []netip.AddrPort{asked}, nil
	}
	to, ferr := s.deps.Fallback()
	if ferr == nil && len(to) > 0 {
		return to, nil
	}
	return nil, errors.Join(errNobody, err, ferr)
}

// errNobody is why a question cannot be handed on.
var errNobody = errors.New("nobody knows whom the pod has asked, and this proxy has no resolver of its own")
