package waypoint

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/ambit-mesh/ambit/internal/caclient"
	"github.com/ambit-mesh/ambit/internal/grpcclient"
	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/tracing"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/internal/xds"
	"github.com/ambit-mesh/ambit/waypoint/config"
	"github.com/ambit-mesh/ambit/waypoint/entry"
	"github.com/ambit-mesh/ambit/waypoint/extauth"
	"github.com/ambit-mesh/ambit/waypoint/keys"
	"github.com/ambit-mesh/ambit/waypoint/report"
	"github.com/ambit-mesh/ambit/waypoint/upstream"
)

// Deps are the collaborators of a [Waypoint].
type Deps struct {
	// Log and Metrics are required; what is registered is served at Config.Stats.
	Log     *zap.Logger
	Metrics *prometheus.Registry
	// Environ is the environment, of which a part goes to the control plane.
	Environ []string
}

// Waypoint is one instance of a waypoint.
type Waypoint struct {
	// Set by New, then only read.
	cfg       Config
	log       *zap.Logger
	access    *zap.Logger
	registry  *prometheus.Registry
	counts    counts
	reports   *report.Reporter
	spans     *tracing.Exporter // nil when nobody wants any
	conns     []io.Closer       // to the control plane
	xds       *xds.Client
	certs     *identity.Manager
	state     *workload.Store
	routes    *config.Store
	upstreams *upstream.Upstreams
	server    *hbone.Server
	keys      *keys.Store
	providers *extauth.Clients

	farewell  entry.Farewell
	live      live
	budgets   budgets
	mirrors   lifecycle.Group
	mirroring atomic.Int64
	copies    context.Context // of copies of requests; set by Run

	mu    sync.Mutex
	addrs map[string]net.Addr
}

// counts are what is counted beside requests.
type counts struct {
	refused prometheus.Counter
	limits  *prometheus.CounterVec
	noted   *prometheus.CounterVec
	fetches *prometheus.CounterVec
}

// New wires a waypoint. It opens nothing and starts nothing. One that is not
// going to run is closed by its Close.
func New(cfg Config, deps Deps) (*Waypoint, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("waypoint config: %w", err)
	}
	w := &Waypoint{
		cfg: cfg, log: deps.Log, access: deps.Log.Named("access"), registry: deps.Metrics,
		live: live{all: map[*flight]*life{}}, addrs: map[string]net.Addr{},
	}
	if err := w.wire(deps); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// wire makes the parts and connects them, from the bottom up.
func (w *Waypoint) wire(deps Deps) (err error) {
	if w.spans, err = telemetry.NewSpans(w.cfg.Tracing, w.log, w.registry); err != nil {
		return err
	}
	if w.reports, err = report.New(w.log, w.registry, w.spans); err != nil {
		return err
	}
	w.counts = counts{
		refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "ambit_waypoint_tunnels_refused_total", Help: "Streams that were refused before it was clear what they carry (unstable)."}),
		limits:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ambit_hbone_limit_hits_total", Help: "How often a peer ran into a limit of the tunnel transport, by the limit's name (unstable)."}, []string{"limit"}),
	}
	w.counts.noted = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ambit_waypoint_policies_noted_total", Help: "Matches of policies that decide nothing: AUDIT, dry runs, and providers that fail open, by action (unstable)."}, []string{"action"})
	w.counts.fetches = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ambit_waypoint_key_fetches_total", Help: "Fetches of key sets of token issuers, by result: ok or failed (unstable)."}, []string{"result"})
	if err := errors.Join(w.registry.Register(w.counts.refused), w.registry.Register(w.counts.limits), w.registry.Register(w.counts.noted), w.registry.Register(w.counts.fetches)); err != nil {
		return err
	}
	n := w.cfg.Node
	w.state = workload.NewStore(workload.Config{Network: n.Network, ClusterID: n.ClusterID, TrustDomain: n.TrustDomain, ClusterDomain: n.ClusterDomain})
	w.routes = config.NewStore(config.Name(w.cfg.Gateway))
	w.routes.OnChange(w.live.review)
	w.routes.OnChange(w.budgets.keep)
	if err := w.wireControlPlane(deps); err != nil {
		return err
	}
	trace := w.hboneTrace()
	budget, tuning := hbone.NewBudget(0), hbone.Tuning{RoundTrip: netns.RoundTrip}
	w.upstreams = upstream.New(upstream.Config{
		Self:     policy.Subject{Name: n.PodName, Namespace: n.PodNamespace, ServiceAccount: n.ServiceAccount},
		Identity: w.cfg.identity(), Network: n.Network, Pool: hbone.PoolConfig{Tuning: tuning, Budget: budget},
	}, upstream.Deps{State: w.state, Routes: w.routes, Certs: w.certs, Trace: trace, Rand: rand.Uint64N})
	if err := w.wireProof(); err != nil {
		return err
	}
	w.certs.OnChange(func(_ identity.ID, c *identity.Certificate) {
		if c != nil {
			w.upstreams.Retire()
		}
	})
	// Half of the time: an answer to what comes last may take the other.
	w.farewell.Patience = w.cfg.Drain / 2
	w.server = hbone.NewServer(hbone.ServerConfig{
		Tuning: tuning, TLS: w.tls, Authenticate: authenticate, Handle: w.handle, DrainTimeout: w.cfg.Drain, Budget: budget,
	}, trace)
	return nil
}

// wireControlPlane makes the clients of xDS and of the CA.
func (w *Waypoint) wireControlPlane(deps Deps) error {
	xdsConn, err := w.dial(w.cfg.XDS)
	if err != nil {
		return fmt.Errorf("xDS: %w", err)
	}
	caConn, err := w.dial(w.cfg.CA)
	if err != nil {
		return fmt.Errorf("CA: %w", err)
	}
	n := w.cfg.Node
	node, err := xds.NewNode(xds.NodeConfig{
		Type: "waypoint", InstanceIP: n.InstanceIP, PodName: n.PodName, PodNamespace: n.PodNamespace,
		NodeName: n.NodeName, Domain: n.ClusterDomain, Env: deps.Environ,
	})
	if err != nil {
		return err
	}
	log := w.log.Named("xds")
	w.xds = xds.NewClient(xds.Config{
		Node: node,
		Subscriptions: []xds.Subscription{
			{TypeURL: workload.AddressType, Apply: w.state.ApplyAddresses},
			{TypeURL: config.AuthorizationType, Apply: w.routes.ApplyAuthorizations},
			{TypeURL: config.AuthenticationType, Apply: w.routes.ApplyAuthentications},
			{TypeURL: config.ProviderType, Apply: w.routes.ApplyProviders},
			{TypeURL: config.EndpointType, Apply: w.routes.ApplyEndpoints},
			{TypeURL: config.ServiceType, Apply: w.routes.ApplyServices},
		},
		Events: xds.Events{
			Connected: func() { log.Info("the control plane is connected", zap.String("address", w.cfg.XDS.Address)) },
			Disconnected: func(reason xds.Termination, err error, _ bool, wait time.Duration) {
				log.Warn("the control plane is away; what is known stays in force",
					zap.String("address", w.cfg.XDS.Address), zap.String("reason", string(reason)), zap.Duration("wait", wait), zap.Error(err))
			},
			Rejected: func(typeURL string, why map[string]error) {
				for name, err := range why {
					log.Warn("resource rejected; its former value stays in force", zap.String("type", typeURL), zap.String("resource", name), zap.Error(err))
				}
			},
		},
	}, xdsConn)
	w.certs, err = identity.NewManager(identity.ManagerConfig{}, caclient.New(caConn, caclient.Config{TTL: w.cfg.CA.SecretTTL, Impersonate: w.cfg.CA.OfNode}))
	return err
}

// dial makes a connection to u that opens at its first call.
func (w *Waypoint) dial(u Upstream) (*grpc.ClientConn, error) {
	cc, err := grpcclient.Dial(grpcclient.Config{
		Address: u.Address, RootCA: u.RootCA, ServerName: u.ServerName, Token: u.Token, ClusterID: w.cfg.Node.ClusterID, Headers: u.Headers,
	})
	if err != nil {
		return nil, err
	}
	w.conns = append(w.conns, cc)
	return cc, nil
}

// tls are the settings for a tunnel to us.
func (w *Waypoint) tls(ctx context.Context) (*tls.Config, error) {
	cert, err := w.certs.Get(ctx, w.cfg.identity())
	if err != nil {
		return nil, err
	}
	return identity.ServerTLS(cert), nil
}

// hboneTrace counts what tunnels meet.
func (w *Waypoint) hboneTrace() *hbone.Trace {
	log := w.log.Named("hbone")
	return &hbone.Trace{LimitHit: func(l hbone.Limit) {
		w.counts.limits.WithLabelValues(string(l)).Inc()
		log.Debug("a peer ran into a limit", zap.String("limit", string(l)))
	}}
}

// Run serves until ctx ends, then lets requests go on for at most Drain. When it
// has returned nothing is left. It may be called once.
func (w *Waypoint) Run(ctx context.Context) error {
	defer w.Close()
	defer w.providers.Close()
	ln, err := net.Listen("tcp", w.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for tunnels: %w", err)
	}
	w.listening("tunnels", ln.Addr())
	polite, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// What requests need outlives them.
	control, stopControl := context.WithCancel(context.WithoutCancel(ctx))
	var parts lifecycle.Group
	defer parts.Wait()
	defer stopControl()
	var first lifecycle.FirstError
	release := w.certs.Retain(w.cfg.identity())
	defer release()
	for name, run := range map[string]func(context.Context) error{
		"xds": w.xds.Run, "identity": w.certs.Run, "upstreams": w.upstreams.Run, "status": w.serveStatus, "roots": w.watchRoots,
		"spans": w.spans.Run, "keys": w.keys.Run,
	} {
		parts.Go(control, name, func(control context.Context) {
			if err := run(control); control.Err() == nil {
				stop(first.Keep(name, err))
			}
		})
	}
	var endCopies context.CancelFunc
	w.copies, endCopies = context.WithCancel(control)
	defer w.mirrors.Wait()
	defer endCopies()
	bye := context.AfterFunc(polite, w.farewell.Say)
	defer bye()
	w.log.Info("waypoint runs", zap.String("version", w.cfg.Version), zap.String("gateway", w.cfg.Gateway.Namespace+"/"+w.cfg.Gateway.Name),
		zap.Stringer("identity", w.cfg.identity()), zap.Stringer("tunnels", ln.Addr()))
	err = w.server.Serve(polite, ln)
	stop(first.Keep("tunnels", err))
	w.log.Info("waypoint has ended its requests")
	return first.Err()
}

// watchRoots renews our certificate when the roots of the mesh have changed.
func (w *Waypoint) watchRoots(ctx context.Context) error {
	return grpcclient.WatchRoots(ctx, w.cfg.CA.RootCA, func() {
		w.certs.Refresh(func(identity.ID) bool { return true })
	})
}

// Close gives back what New has taken.
func (w *Waypoint) Close() error {
	var errs []error
	for _, c := range w.conns {
		errs = append(errs, c.Close())
	}
	w.conns = nil
	errs = append(errs, w.spans.Close())
	return errors.Join(errs...)
}

// listening notes where something listens.
func (w *Waypoint) listening(name string, a net.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addrs[name] = a
}

// Addr is where tunnels, stats or readiness are served, or nil.
func (w *Waypoint) Addr(name string) net.Addr {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.addrs[name]
}

// Ready reports whether requests can be served.
func (w *Waypoint) Ready() bool {
	select {
	case <-w.xds.Ready():
	default:
		return false
	}
	_, ok := w.certs.Peek(w.cfg.identity())
	return ok && !w.farewell.Said()
}
