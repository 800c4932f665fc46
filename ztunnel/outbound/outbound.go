package outbound

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
)

// Config tunes an [Outbound]. The zero Config is ready for use.
type Config struct {
	// Network is the one this node is in.
	Network string
	// EncryptLocal sends what goes to a pod of this node through a tunnel too.
	EncryptLocal bool
	// KnownWait is how long a new pod's first connection waits until somebody
	// has told of the pod; and, while the control plane has told of nothing yet, a
	// connection to who knows whom. Zero means 5 s, as in the ambient ecosystem.
	KnownWait time.Duration
	// HealthyWait is how long a connection waits for an endpoint to become healthy
	// when its service has some and none is. Zero means 2 s, our choice: clients that
	// give up do so later, and what is ill for longer is told so.
	HealthyWait time.Duration
	// Tries is how many endpoints are tried for one connection. Zero means 3.
	Tries int
	// RetryTime is how long after its start a connection may still be tried
	// elsewhere. Zero means 15 s: one TCP timeout and a half.
	RetryTime time.Duration
	// AnswerTime is how long an endpoint may leave a connect unanswered while another
	// one could be asked. Zero means 2 s: what is lost once is sent again after one.
	AnswerTime time.Duration
	// Pool tunes the tunnels.
	Pool hbone.PoolConfig
}

// Pod is the pod that connections leave.
type Pod struct {
	UID     string
	Subject policy.Subject
	// Addresses are those that the pod had when the agent handed it over.
	Addresses []netip.Addr
	// Dial connects from inside the pod's namespace, with our mark.
	Dial func(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error)
}

// certificates is the part of [identity.Manager] that is needed here.
type certificates interface {
	Get(ctx context.Context, id identity.ID) (*identity.Certificate, error)
	Peek(id identity.ID) (*identity.Certificate, bool)
}

var _ certificates = (*identity.Manager)(nil)

// Deps are the collaborators of an [Outbound]. All fields are required, but for
// Neighbours, Stopping, Hosts and HTrace.
type Deps struct {
	Records *telemetry.Records
	State   *workload.Store
	Gate    *policy.Gate
	Certs   certificates
	// Acked is closed when the control plane has sent workloads and policies.
	Acked <-chan struct{}
	// Neighbours finds the pods of this node; nil means that there is no local
	// path.
	Neighbours Neighbours
	// Stopping is closed when the process begins to stop, before any of its pods
	// stops; nil means never.
	Stopping <-chan struct{}
	// Hosts finds endpoints that are known by their DNS name only; nil means that
	// they cannot be called.
	Hosts Hosts
	// HTrace is told about tunnels; may be nil.
	HTrace *hbone.Trace
}

// Hosts finds the address of a host name, of the family of like if it has one.
type Hosts interface {
	Resolve(ctx context.Context, host string, like netip.Addr) (netip.Addr, error)
}

// Outbound is the way out of one pod. Any goroutine may use it.
type Outbound struct {
	// Set by New, then only read.
	cfg        Config
	pod        Pod
	records    *telemetry.Records
	state      *workload.Store
	gate       *policy.Gate
	certs      certificates
	acked      <-chan struct{}
	neighbours Neighbours
	stopping   <-chan struct{}
	hosts      Hosts
	pool       *hbone.Pool

	// watchers are the goroutines that look after witnesses. They live only
	// while local connections do, whose goroutines Run waits for first.
	watchers lifecycle.Group

	// Any goroutine.
	peers     peers
	witnesses witnesses

	mu      sync.Mutex
	flights map[*flight]struct{} // connections that live
}

// New wires the way out of pod. It starts nothing.
func New(cfg Config, pod Pod, deps Deps) *Outbound {
	cfg.KnownWait = cmp.Or(cfg.KnownWait, 5*time.Second)
	cfg.HealthyWait = cmp.Or(cfg.HealthyWait, 2*time.Second)
	cfg.Tries = cmp.Or(cfg.Tries, 3)
	cfg.RetryTime = cmp.Or(cfg.RetryTime, 15*time.Second)
	cfg.AnswerTime = cmp.Or(cfg.AnswerTime, 2*time.Second)
	o := &Outbound{
		cfg: cfg, pod: pod,
		records: deps.Records, state: deps.State, gate: deps.Gate, certs: deps.Certs, acked: deps.Acked,
		neighbours: deps.Neighbours, stopping: deps.Stopping, hosts: deps.Hosts,
		peers:     peers{byKey: make(map[hbone.Key]identity.Peer)},
		witnesses: witnesses{all: make(map[hbone.Key]*witness)},
		flights:   make(map[*flight]struct{}),
	}
	o.pool = hbone.NewPool(cfg.Pool, o.peers.watch(deps.HTrace))
	return o
}

// Run serves what ln captures. The end of ctx means "take no more"; connections
// go on until they or life end. When Run has returned nothing is left. It may be
// called once.
func (o *Outbound) Run(ctx, life context.Context, ln *capture.Listener) error {
	defer o.pool.Close()
	defer o.watchers.Wait()
	return ln.Serve(ctx, life, "outbound", o.Serve)
}

// Renewed tells that cert is our new certificate. New connections use it in new
// tunnels; those that live go on, unless the roots no longer vouch for the
// other end.
func (o *Outbound) Renewed(cert *identity.Certificate) {
	source := cert.ID.String()
	o.pool.Retire(func(k hbone.Key) bool { return k.Source == source })
	now := time.Now()
	for key, p := range o.peers.of(source) {
		if err := p.TrustedBy(cert, now); err != nil {
			o.cutKey(key, explainUntrusted(err))
		}
	}
}

// cutKey ends the connections that go through tunnels of key.
func (o *Outbound) cutKey(key hbone.Key, cause error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for f := range o.flights {
		if f.key == key {
			f.cancel(cause)
		}
	}
}
