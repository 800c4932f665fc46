package pods

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/internal/zds"
	"github.com/ambit-mesh/ambit/ztunnel/dns"
	"github.com/ambit-mesh/ambit/ztunnel/inbound"
	"github.com/ambit-mesh/ambit/ztunnel/outbound"
)

// Config tunes a [Manager]. The zero Config is ready for use.
type Config struct {
	// TrustDomain is that of pods the control plane does not know yet. Empty
	// means cluster.local.
	TrustDomain string
	// Drain is how long connections may go on after Run was asked to stop.
	// Zero means 5 s.
	Drain time.Duration
	// Retry is the time between tries to start a pending pod. Zero means 5 s,
	// as in the ambient ecosystem.
	Retry time.Duration
	// Sockets tunes what is opened inside the pods.
	Sockets netns.SocketOptions
	// IPv4Only binds 0.0.0.0 in place of [::].
	IPv4Only bool
	// OwnSource lets applications see an address of their own pod as the
	// source, in place of the client's.
	OwnSource bool
	// Alone says that there is no agent: the one pod comes by ServeAlone.
	Alone bool

	// DNS answers the pods' DNS questions; nil leaves them to others.
	DNS *DNS

	Outbound outbound.Config
	Inbound  inbound.Config
	// Server tunes the tunnels that arrive; TLS, Authenticate, Handle and
	// DrainTimeout are set here.
	Server hbone.ServerConfig
}

// readiness is a list of what must happen before we are ready.
// *admin.Readiness is the real one.
type readiness interface {
	Task(name string) (done func())
}

// Deps are the collaborators of a [Manager]. All fields are required, but for
// Owners, Hosts and HTrace.
type Deps struct {
	Log      *zap.Logger
	Registry prometheus.Registerer
	Records  *telemetry.Records
	State    *workload.Store
	Gate     *policy.Gate
	Certs    *identity.Manager
	Ready    readiness
	// Acked is closed when the control plane has sent workloads and policies.
	Acked <-chan struct{}
	// Owners tells the kubelet from other plaintext callers; may be nil.
	Owners inbound.Owners
	// Hosts finds endpoints that are known by their DNS name only; may be nil.
	Hosts outbound.Hosts
	// HTrace is told about tunnels; may be nil.
	HTrace *hbone.Trace
}

// Manager serves the pods of this node. Any goroutine may use it.
type Manager struct {
	// Set by New, then only read.
	cfg      Config
	deps     Deps
	log      *zap.Logger
	metrics  *metrics
	commands chan command
	stopped  chan struct{} // closed when Run takes no more commands
	// questions bounds the DNS questions of all pods that wait for upstream.
	questions *dns.Budget

	// mu guards the fields below.
	mu    sync.RWMutex
	index map[policy.Subject]*proxy // those that are up; of two with the same names, one
	up    []*proxy                  // all that are up
	list  []Status                  // all, by uid

	// Owned by Run.
	pods     map[string]*pod
	self     *self  // nil: nothing of our own is served
	snapshot func() // ends the task "first snapshot"; nil when it has ended
}

// command is something for the owner to do, and where to say how it went.
type command struct {
	do     func(r *run) error
	result chan error
}

// run is what the owner hands to its commands: the two contexts of the pods.
type run struct {
	polite context.Context // its end means "take no more"
	life   context.Context // its end means "end at once"
}

// pod is one pod of the list.
type pod struct {
	uid  string
	info zds.Info
	ns   *netns.NS

	proxy *proxy // nil while pending
	err   error  // why it is pending
	ready func() // ends the task of a pending pod
}

// Status is what Pods says of one pod.
type Status struct {
	UID  string
	Info zds.Info
	Up   bool
	Err  error // why it is not up
}

var (
	errStopping = errors.New("this ztunnel is shutting down")

	// ErrRemoved is why connections of a pod end that the agent took away.
	ErrRemoved = errors.New("the pod was removed from the mesh")
	// ErrRestarted is why connections of a pod end that came back with another
	// namespace.
	ErrRestarted = errors.New("the pod has got another network namespace")
)

// New wires a Manager and registers its metrics. It starts nothing.
func New(cfg Config, deps Deps) (*Manager, error) {
	cfg.TrustDomain = cmp.Or(cfg.TrustDomain, workload.DefaultTrustDomain)
	cfg.Drain = cmp.Or(cfg.Drain, 5*time.Second)
	cfg.Retry = cmp.Or(cfg.Retry, 5*time.Second)
	cfg.Server.DrainTimeout = cfg.Drain
	if cfg.DNS != nil {
		own := *cfg.DNS
		own.Port = cmp.Or(own.Port, dnsPort)
		cfg.DNS = &own
	}
	m := &Manager{
		cfg: cfg, deps: deps, log: deps.Log.Named("pods"),
		commands:  make(chan command),
		stopped:   make(chan struct{}),
		questions: dns.NewBudget(),
		index:     make(map[policy.Subject]*proxy),
		pods:      make(map[string]*pod),
	}
	task := snapshotTask
	if cfg.Alone {
		task = aloneTask
	}
	m.snapshot = deps.Ready.Task(task)
	var err error
	if m.metrics, err = newMetrics(deps.Registry); err != nil {
		return nil, fmt.Errorf("pods: %w", err)
	}
	return m, nil
}

// Run serves pods until ctx ends, then lets what lives go on for Drain. When it
// has returned nothing is left. It may be called once.
func (m *Manager) Run(ctx context.Context) error {
	// Connections outlive ctx, by up to Drain.
	life, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	r := &run{polite: ctx, life: life}
	again := time.NewTicker(m.cfg.Retry)
	defer again.Stop()
	for {
		select {
		case c := <-m.commands:
			c.result <- c.do(r)
		case <-again.C:
			m.retryPending(r)
		case <-ctx.Done():
			m.drain(life, cut)
			return nil
		}
	}
}

// drain ends everything, at once what has not ended within Drain.
func (m *Manager) drain(life context.Context, cut context.CancelCauseFunc) {
	close(m.stopped)
	timer := time.AfterFunc(m.cfg.Drain, func() {
		cut(telemetry.ExplainDrain(hbone.ErrDrainTimeout))
	})
	defer timer.Stop()
	var pods lifecycle.Group
	for _, p := range m.pods {
		if p.proxy != nil {
			pods.Go(life, "drain", func(context.Context) { p.proxy.drain() })
		}
	}
	if m.self != nil && m.self.pod.proxy != nil {
		pods.Go(life, "drain-self", func(context.Context) { m.self.pod.proxy.drain() })
	}
	pods.Wait()
	for _, p := range m.pods {
		p.close(errStopping)
	}
	if m.self != nil {
		m.self.pod.close(errStopping)
	}
}

// ask hands do to the owner and waits for what it says.
func (m *Manager) ask(ctx context.Context, do func(r *run) error) error {
	c := command{do: do, result: make(chan error, 1)}
	select {
	case m.commands <- c:
		return <-c.result
	case <-m.stopped:
		return errStopping
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// start brings p up, or makes it pending.
func (m *Manager) start(r *run, p *pod) error {
	proxy, err := m.newProxy(r, p)
	if err != nil {
		p.err = err
		if p.ready == nil {
			p.ready = m.deps.Ready.Task("pod " + p.info.Namespace + "/" + p.info.Name)
		}
		m.log.Warn("pod cannot be served yet", podFields(p, zap.Error(err))...)
		return err
	}
	p.proxy, p.err = proxy, nil
	if p.ready != nil {
		p.ready()
		p.ready = nil
	}
	m.metrics.Started.Inc()
	m.log.Info("pod is served", podFields(p)...)
	return nil
}

// remove stops the pod of that uid, if there is one, and forgets it.
func (m *Manager) remove(uid string, cause error) {
	p := m.pods[uid]
	if p == nil {
		m.log.Debug("pod to remove is not known", zap.String("uid", uid))
		return
	}
	m.stop(p, cause)
	p.close(cause)
	delete(m.pods, uid)
	m.deps.State.Unseed(uid)
	m.log.Info("pod is gone", podFields(p, zap.NamedError("because", cause))...)
}

// stop ends the proxy of p at once, if it is up.
func (m *Manager) stop(p *pod, cause error) {
	if p.proxy == nil {
		return
	}
	m.mu.Lock()
	if m.index[p.proxy.subject] == p.proxy {
		delete(m.index, p.proxy.subject)
	}
	m.up = slices.DeleteFunc(slices.Clone(m.up), func(x *proxy) bool { return x == p.proxy })
	m.mu.Unlock()
	p.proxy.stop(cause)
	p.proxy = nil
	m.metrics.Stopped.Inc()
}

// close ends what p holds, at once.
func (p *pod) close(cause error) {
	if p.proxy != nil {
		p.proxy.stop(cause)
	}
	if p.ready != nil {
		p.ready()
	}
	p.ns.Close()
}

// retryPending tries to start what could not be started, and what has broken.
func (m *Manager) retryPending(r *run) {
	for _, uid := range slices.Sorted(maps.Keys(m.pods)) {
		p := m.pods[uid]
		if p.proxy != nil {
			if err := p.proxy.broken(); err != nil {
				m.log.Error("pod is served anew", podFields(p, zap.Error(err))...)
				m.stop(p, err)
			}
		}
		if p.proxy == nil {
			_ = m.start(r, p) // logged, and tried again
		}
	}
	m.retrySelf(r)
	m.publish()
}

// publish shows the list to other goroutines. The owner calls it after each
// change.
func (m *Manager) publish() {
	index := make(map[policy.Subject]*proxy, len(m.pods))
	up := make([]*proxy, 0, len(m.pods))
	list := make([]Status, 0, len(m.pods))
	pending := 0
	for _, uid := range slices.Sorted(maps.Keys(m.pods)) {
		p := m.pods[uid]
		list = append(list, Status{UID: uid, Info: p.info, Up: p.proxy != nil, Err: p.err})
		if p.proxy != nil {
			index[p.proxy.subject] = p.proxy
			up = append(up, p.proxy)
		} else {
			pending++
		}
	}
	if m.self != nil && m.self.pod.proxy != nil {
		index[m.self.pod.proxy.subject] = m.self.pod.proxy
		up = append(up, m.self.pod.proxy)
	}
	m.mu.Lock()
	m.index, m.up, m.list = index, up, list
	m.mu.Unlock()
	m.metrics.Active.Set(float64(len(list) - pending))
	m.metrics.Pending.Set(float64(pending))
}

// Pods returns the pods of this node, by uid.
func (m *Manager) Pods() []Status {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.list
}

// podFields are how a pod looks in the log.
func podFields(p *pod, more ...zap.Field) []zap.Field {
	return append([]zap.Field{
		zap.String("uid", p.uid), zap.String("name", p.info.Name), zap.String("namespace", p.info.Namespace),
		zap.Stringer("netns", p.ns.ID()),
	}, more...)
}
