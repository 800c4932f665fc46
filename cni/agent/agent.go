package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/zds"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Config tunes an [Agent]. StateFile is required; the rest has useful zeros.
type Config struct {
	// Node is the name of this node. Pods of others are refused. Empty means that
	// nobody checks.
	Node string

	// StateFile remembers the pods across restarts.
	StateFile string

	// ExcludeNamespaces are never in the mesh. Nil means kube-system.
	ExcludeNamespaces []string

	// DNS says whose DNS questions are captured. Empty means [DNSNever].
	DNS DNSCapture

	// ProbeV4 and ProbeV6 are source addresses of kubelet probes, as rules of the
	// host rewrite them for a ztunnel that is not ours. Invalid means none.
	ProbeV4, ProbeV6 netip.Addr

	// AnswerTimeout bounds the answer to the plugin, which itself gives up after
	// 5 seconds. Zero means 4.5 seconds.
	AnswerTimeout time.Duration

	// RepairEvery is how often all pods are compared. Zero means 30 seconds.
	RepairEvery time.Duration

	// HostRoot is where the paths that a runtime names lie for us.
	HostRoot HostRoot

	// FenceAfter is how long a pod that runs may be outside of the mesh against
	// its label, while it is taken in, before it is fenced. Zero means 10 seconds.
	FenceAfter time.Duration

	// ReleaseLinger is how long ztunnel goes on serving a pod that is let go, for
	// peers that have not heard of it; ReleaseTimeout how long connections that it
	// carries may then go on. Zero means 5 seconds, and 10 minutes.
	ReleaseLinger, ReleaseTimeout time.Duration

	// ForeignProxy is set for a ztunnel that is not ours: it is asked no questions
	// that ours alone understands.
	ForeignProxy bool
}

// withDefaults returns the configuration that is in force.
func (c Config) withDefaults() (Config, error) {
	if c.StateFile == "" {
		return Config{}, errors.New("StateFile is empty")
	}
	if c.ExcludeNamespaces == nil {
		c.ExcludeNamespaces = []string{"kube-system"}
	}
	c.DNS = cmp.Or(c.DNS, DNSNever)
	switch c.DNS {
	case DNSNever, DNSOff, DNSOn:
	default:
		return Config{}, fmt.Errorf("DNS capture %q: want never, off or on", c.DNS)
	}
	if min(c.AnswerTimeout, c.RepairEvery, c.FenceAfter, c.ReleaseLinger, c.ReleaseTimeout) < 0 {
		return Config{}, fmt.Errorf("AnswerTimeout %v, RepairEvery %v, FenceAfter %v, ReleaseLinger %v, ReleaseTimeout %v: want no negative times",
			c.AnswerTimeout, c.RepairEvery, c.FenceAfter, c.ReleaseLinger, c.ReleaseTimeout)
	}
	c.FenceAfter = cmp.Or(c.FenceAfter, 10*time.Second)
	c.ReleaseLinger = cmp.Or(c.ReleaseLinger, 5*time.Second)
	c.ReleaseTimeout = cmp.Or(c.ReleaseTimeout, 10*time.Minute)
	c.AnswerTimeout = cmp.Or(c.AnswerTimeout, 4500*time.Millisecond)
	c.RepairEvery = cmp.Or(c.RepairEvery, 30*time.Second)
	return c, nil
}

// Deps are the collaborators of an [Agent]. The first three are required.
type Deps struct {
	Log     *zap.Logger
	Metrics prometheus.Registerer
	Pods    PodSource

	// Report is told what becomes of pods. Nil means nobody.
	Report Reporter

	// Runtime is asked where pods live that run already. Nil means that only pods
	// are known whose start the agent has seen.
	Runtime Runtime

	// Leaving is asked when the agent has ended whether pods are to leave the mesh:
	// an uninstallation, and no upgrade. It may do what has to be done before. Nil
	// means never.
	Leaving func(ctx context.Context) bool
}

// Agent takes the pods of one node into the mesh.
type Agent struct {
	// Set by New, then only read.
	cfg     Config
	log     *zap.Logger
	pods    PodSource
	report  Reporter
	runtime Runtime // may be nil
	leaving func(context.Context) bool
	ztunnel *zds.Server
	metrics *metrics
	kick    chan struct{} // of one: compare pods with the source
	all     atomic.Bool   // and those too of which the source says nothing new

	// Set by Run before anything else runs.
	host []netns.ID // namespaces that no pod may be in
	node *netns.NS  // our own: that of the node
	left []string   // interfaces of the node that were fenced when we began

	// rules guards what the node holds. It is taken before mu.
	rules  sync.Mutex
	onNode nodeRules

	// saving orders the writes of the state file. It is taken before mu.
	saving sync.Mutex

	// mu guards the fields below and those of the attachments that say so.
	mu          sync.Mutex
	attachments map[event.Attachment]*attachment
	strays      map[string]*stray // by uid: pods that should be in the mesh and could not be found on the node
	sourceRead  bool              // the source has been readable once
	compared    bool              // and all pods have been compared with it
	plain       bool              // this kernel has no rules that see sockets
}

// New wires an agent. It starts nothing.
func New(cfg Config, deps Deps) (*Agent, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("agent config: %w", err)
	}
	a := &Agent{
		cfg: cfg, log: deps.Log.Named("agent"), pods: deps.Pods,
		report: deps.Report, runtime: deps.Runtime, leaving: deps.Leaving,
		kick: make(chan struct{}, 1), attachments: map[event.Attachment]*attachment{}, strays: map[string]*stray{},
	}
	if a.report == nil {
		a.report = silent{}
	}
	a.ztunnel = zds.NewServer(zds.ServerConfig{}, a.snapshot, a.trace())
	if a.metrics, err = newMetrics(deps.Metrics, a); err != nil {
		return nil, err
	}
	return a, nil
}

// trace logs what happens to ztunnels, and has pods offered again that one of
// them may lack.
func (a *Agent) trace() zds.ServerTrace {
	peer := func(p zds.Peer) zap.Field { return zap.Int32("pid", p.PID) }
	return zds.ServerTrace{
		Connected: func(p zds.Peer) { a.log.Info("ztunnel connected", peer(p), zap.Int32("version", p.Version)) },
		Ready: func(p zds.Peer, pods int) {
			a.log.Info("ztunnel has its snapshot", peer(p), zap.Int("pods", pods))
			a.wake()
		},
		Taken: func(_ zds.Peer, pod zds.Pod) { a.setAcked(pod, true, "") },
		Refused: func(p zds.Peer, pod zds.Pod, err error) {
			a.log.Warn("ztunnel refused a pod of the snapshot", peer(p), zap.String("uid", pod.UID), zap.Error(err))
			a.setAcked(pod, false, err.Error())
		},
		Disconnected: func(p zds.Peer, err error) {
			a.log.Warn("ztunnel disconnected", peer(p), zap.Error(err))
			a.wake() // do its listeners stand?
		},
	}
}

// Listeners are the sockets of an agent.
type Listeners struct {
	Plugin net.Listener      // for the plugin, and for people
	ZDS    *net.UnixListener // for ztunnel
}

// Run serves until ctx ends, and returns when nothing of the agent is left. Pods
// stay as they are.
func (a *Agent) Run(ctx context.Context, l Listeners) error {
	defer l.Plugin.Close()
	defer l.ZDS.Close()
	defer a.closeAll()
	if err := a.findHost(); err != nil {
		return err
	}
	defer a.node.Close()
	a.findFences()
	if err := a.restore(); err != nil {
		return err
	}
	asked := ctx
	ctx, stop := context.WithCancelCause(asked)
	defer stop(nil)
	var parts lifecycle.Group
	part := func(name string, run func(context.Context) error) {
		parts.Go(ctx, name, func(ctx context.Context) {
			if err := run(ctx); err != nil {
				stop(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	part("serve ztunnel", func(ctx context.Context) error { return a.ztunnel.Serve(ctx, l.ZDS) })
	part("serve plugin", func(ctx context.Context) error { return a.serve(ctx, l.Plugin) })
	part("watch pods", func(ctx context.Context) error { return a.pods.Watch(ctx, a.sourceChanged) })
	part("compare", a.compareLoop)
	parts.Wait()
	if asked.Err() != nil {
		a.end(asked)
		return nil // we were asked to stop
	}
	return context.Cause(ctx)
}

// findHost notes the namespaces of the agent itself and of the first process.
func (a *Agent) findHost() error {
	own, err := netns.Current()
	if err != nil {
		return fmt.Errorf("find the network namespace of the agent: %w", err)
	}
	a.host, a.node = []netns.ID{own.ID()}, own
	// Without the host's processes in sight there is only our own to compare with.
	if first, firstErr := netns.Open("/proc/1/ns/net"); firstErr == nil {
		a.host = append(a.host, first.ID())
		err = errors.Join(err, first.Close())
	}
	return err
}

// sourceChanged notes that the source can be read, and has those pods compared
// with it of which it says something new.
func (a *Agent) sourceChanged() {
	a.mu.Lock()
	a.sourceRead = true
	a.mu.Unlock()
	a.nudge()
}

// wake has all pods compared soon.
func (a *Agent) wake() {
	a.all.Store(true)
	a.nudge()
}

// nudge has pods compared soon.
func (a *Agent) nudge() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// closeAll lets go of the namespaces.
func (a *Agent) closeAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.attachments {
		at.ns.Close()
	}
}

// Ready says why pods cannot be added to the mesh now; nil means that they can,
// and that those that were there before have been looked at.
func (a *Agent) Ready() error {
	if err := a.answers(); err != nil {
		return err
	}
	a.mu.Lock()
	compared := a.compared
	a.mu.Unlock()
	switch {
	case !compared:
		return errors.New("the pods that run on this node have not been looked at yet")
	case !a.ztunnel.Connected():
		return errors.New("no ztunnel is connected on this node, or it has not taken its pods yet; does it run, with the agent's ZDS socket as INPOD_UDS?")
	}
	return nil
}

// answers says why a runtime cannot start any pod now. A ztunnel is no part of
// this: it is a pod itself, and could not start.
func (a *Agent) answers() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.sourceRead {
		return errors.New("the pods of this node are not known yet")
	}
	return nil
}
