package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// Caller is who has opened a stream, as proven.
type Caller struct {
	// Node is the node it speaks for; empty when it speaks for none.
	Node string
	// Namespace is that of its own identity; empty when its proof names a node
	// only.
	Namespace string
	// Pod is the pod that its proof was made for; empty when it names a node only.
	Pod string
	// Name is how log lines call it.
	Name string
}

// Proxies says whose proxy a pod is.
type Proxies interface {
	// WaypointOf is the resource name of the service of the waypoint whose proxy a pod
	// is. With a node, the pod must run there. The error says why it is none's, and
	// holds [ErrUndecided] when that is not known yet.
	WaypointOf(namespace, pod, node string) (string, error)
}

// Authenticator finds out who opens a stream. The error is for our log.
type Authenticator interface {
	Authenticate(ctx context.Context) (Caller, error)
}

// ErrUndecided is in the error of an [Authenticator] that cannot tell, now, whether
// a proof holds. It keeps new streams out and leaves old ones alone.
var ErrUndecided = errors.New("cannot tell who calls")

// Config tunes a [Server]. The zero Config is ready for use.
type Config struct {
	// Debounce is how long a change that is not urgent waits for others. Zero
	// means 5 ms.
	Debounce time.Duration
	// PolicyGrace is how long addresses wait on a new stream for the client to ask
	// for policies, so that those go first. Zero means 50 ms.
	PolicyGrace time.Duration
	// SendTimeout is how long one response may wait for a client that does not
	// read, before its stream is cut. Zero means 30 s.
	SendTimeout time.Duration
	// ResponseBytes is about how large one response gets. Zero means 1 MiB; gRPC
	// clients accept 4 MiB unless told otherwise.
	ResponseBytes int
	// MaxNames is how many names one client may have waiting, or ask for by name.
	// Zero means 200,000.
	MaxNames int
	// MaxStreams is how many streams one caller may have open. Zero means 64: a
	// node has one proxy, for a while two, and streams that it has lost may take a
	// minute to be noticed.
	MaxStreams int
	// Reprove is how often a caller must still be who it was when it opened its
	// stream; one whose proof was taken back is cut then. Zero means 10 s.
	Reprove time.Duration
}

// withDefaults returns the configuration that is in force.
func (c Config) withDefaults() Config {
	c.Debounce = cmp.Or(c.Debounce, 5*time.Millisecond)
	c.PolicyGrace = cmp.Or(c.PolicyGrace, 50*time.Millisecond)
	c.SendTimeout = cmp.Or(c.SendTimeout, 30*time.Second)
	c.ResponseBytes = cmp.Or(c.ResponseBytes, 1<<20)
	c.MaxNames = cmp.Or(c.MaxNames, 200_000)
	c.MaxStreams = cmp.Or(c.MaxStreams, 64)
	c.Reprove = cmp.Or(c.Reprove, 10*time.Second)
	return c
}

// Deps are the collaborators of a [Server]. All fields are required.
type Deps struct {
	Log     *zap.Logger
	Auth    Authenticator
	Proxies Proxies
	Metrics prometheus.Registerer
}

// Server serves one picture to many clients.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer // state of the world: no

	// Set by New, then only read.
	cfg     Config
	log     *zap.Logger
	auth    Authenticator
	proxies Proxies
	metrics metrics
	ready   chan struct{} // closed by the first Push
	closing chan struct{} // closed by Close
	streams lifecycle.Group
	// handlers counts the calls that addStream took in: they may add to streams.
	handlers sync.WaitGroup

	// mu guards the fields below, and those of streams that say so.
	mu      sync.Mutex
	picture picture
	open    map[*stream]struct{}
	scopes  map[string]*scope // of waypoints that have streams open, by their services
	callers map[Caller]int    // how many of the open streams are whose
	serial  uint64            // of the last stream
	started bool              // ready is closed
	closed  bool              // closing is closed
}

var _ discoveryv3.AggregatedDiscoveryServiceServer = (*Server)(nil)

// New wires a Server. It starts nothing.
func New(cfg Config, deps Deps) *Server {
	return &Server{
		cfg:     cfg.withDefaults(),
		log:     deps.Log.Named("xds"),
		auth:    deps.Auth,
		proxies: deps.Proxies,
		metrics: newMetrics(deps.Metrics),
		ready:   make(chan struct{}),
		closing: make(chan struct{}),
		picture: newPicture(),
		open:    map[*stream]struct{}{},
		scopes:  map[string]*scope{},
		callers: map[Caller]int{},
	}
}

// Register makes g serve s.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
}

// Push takes changes into the picture and lets every stream know. The first call
// makes the server ready, also when there are none. Conditions are not for
// proxies and pass by. Push does not wait for any client.
func (s *Server) Push(changes []model.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	before := make([]*model.Resource, len(changes))
	stale := map[*scope]struct{}{}
	for i, c := range changes {
		if c.Type == model.TypeCondition {
			continue
		}
		before[i] = s.picture.apply(c)
		for _, in := range s.scopes {
			if in.touches(c.Type, c.Name, before[i], c.Resource) {
				stale[in] = struct{}{}
			}
		}
	}
	for in := range stale {
		in.renew(&s.picture)
	}
	for st := range s.open {
		for i, c := range changes {
			if c.Type != model.TypeCondition && !c.Links {
				st.noteLocked(c, before[i], now)
			}
		}
		st.noteScopeLocked(now)
		st.signalLocked()
	}
	for in := range stale {
		in.settled()
	}
	if !s.started {
		s.started = true
		close(s.ready)
	}
}

// Ready reports whether the first picture stands.
func (s *Server) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started
}

// Close ends all streams and waits for them. It may be called twice.
func (s *Server) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	s.handlers.Wait() // none begins any more, and those that run have started what they start
	s.streams.Wait()
}

// addStream takes a stream in. It fails when the server is closing and when its
// caller has enough of them.
func (s *Server) addStream(st *stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosing
	}
	if s.callers[st.caller] >= s.cfg.MaxStreams {
		return status.Errorf(codes.ResourceExhausted, "%s has %d streams open already", st.caller.Name, s.cfg.MaxStreams)
	}
	s.callers[st.caller]++
	s.serial++
	st.serial = s.serial
	st.since = time.Now()
	s.open[st] = struct{}{}
	s.handlers.Add(1)
	s.metrics.streams.Inc()
	return nil
}

// removeStream forgets a stream.
func (s *Server) removeStream(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, st)
	if in := st.scope; in != nil {
		if in.streams--; in.streams == 0 {
			delete(s.scopes, in.waypoint)
		}
	}
	if s.callers[st.caller]--; s.callers[st.caller] == 0 {
		delete(s.callers, st.caller)
	}
	s.metrics.streams.Dec()
	s.handlers.Done()
}

// enterScopeLocked bounds a stream to what its waypoint may have, if it is of one. The
// caller holds s.mu.
func (s *Server) enterScopeLocked(st *stream) {
	if st.waypoint == "" {
		return
	}
	in := s.scopes[st.waypoint]
	if in == nil {
		in = newScope(&s.picture, st.waypoint)
		in.settled()
		s.scopes[st.waypoint] = in
	}
	in.streams++
	st.scope = in
}

// tooMany says that a client asks for more than anybody needs.
func (s *Server) tooMany(what string) error {
	return fmt.Errorf("more than %d %s", s.cfg.MaxNames, what)
}
