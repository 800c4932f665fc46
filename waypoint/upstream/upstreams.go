package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"net/netip"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/waypoint/config"
)

// Config says who we are towards endpoints.
type Config struct {
	// Self is our own pod, for locality.
	Self policy.Subject
	// Identity is what endpoints see.
	Identity identity.ID
	// Network we are on.
	Network string
	// Tuning of the tunnels.
	Pool hbone.PoolConfig
	// ConnectTimeout where the users say nothing. Zero means 10 s.
	ConnectTimeout time.Duration
	// IdleTimeout of kept connections where the users say nothing. Zero means 60 s.
	IdleTimeout time.Duration
}

// certificates is the part of [identity.Manager] that is needed here.
type certificates interface {
	Get(ctx context.Context, id identity.ID) (*identity.Certificate, error)
}

var _ certificates = (*identity.Manager)(nil)

// Deps are the collaborators. All fields are required, but for Trace.
type Deps struct {
	State  *workload.Store
	Routes *config.Store
	Certs  certificates
	Trace  *hbone.Trace
	// Rand returns a number from 0 to n-1; n is never 0.
	Rand func(n uint64) uint64
}

// Upstreams are all endpoints that requests go to. Any goroutine may use it.
type Upstreams struct {
	// Set by New, then only read.
	cfg   Config
	deps  Deps
	pool  *hbone.Pool
	tasks lifecycle.Group // of connections of HTTP/2
	vault vault
	// unlisted is ourselves while the control plane does not know us.
	unlisted *workload.Workload

	mu       sync.Mutex
	clusters map[Key]*cluster
	closed   bool
}

// Key names a set of endpoints: those of a subset of a service, at one port.
type Key struct {
	Service workload.Key
	Port    uint16
	Subset  string
}

// String is for people and logs.
func (k Key) String() string {
	text := k.Service.String() + ":" + netip.AddrPortFrom(netip.IPv4Unspecified(), k.Port).String()[len("0.0.0.0:"):]
	if k.Subset != "" {
		text += "/" + k.Subset
	}
	return text
}

// New wires it. It starts nothing.
func New(cfg Config, deps Deps) *Upstreams {
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, 10*time.Second)
	cfg.IdleTimeout = cmp.Or(cfg.IdleTimeout, 60*time.Second)
	unlisted := &workload.Workload{}
	unlisted.Network = cfg.Network
	return &Upstreams{cfg: cfg, deps: deps, pool: hbone.NewPool(cfg.Pool, deps.Trace), clusters: map[Key]*cluster{}, unlisted: unlisted}
}

// sweepTime is how often connections are looked at that nobody has used.
const sweepTime = 5 * time.Second

// Run closes what is not used any more, until ctx ends; then it closes
// everything.
func (u *Upstreams) Run(ctx context.Context) error {
	ticker := time.NewTicker(sweepTime)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			u.close()
			return nil
		case now := <-ticker.C:
			u.sweep(now)
		}
	}
}

// Retire lets no new request use tunnels that were made with a former
// certificate. Those under way go on.
func (u *Upstreams) Retire() {
	u.pool.Retire(func(hbone.Key) bool { return true })
	for _, c := range u.all() {
		c.retire()
	}
}

// all are the clusters there are.
func (u *Upstreams) all() []*cluster {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := make([]*cluster, 0, len(u.clusters))
	for _, c := range u.clusters {
		out = append(out, c)
	}
	return out
}

// sweep forgets clusters that nobody uses and connections that are idle for too
// long.
func (u *Upstreams) sweep(now time.Time) {
	snap := u.deps.State.Snapshot()
	for _, c := range u.all() {
		c.sweep(now, snap)
	}
	u.vault.sweep(now)
	u.mu.Lock()
	defer u.mu.Unlock()
	for key, c := range u.clusters {
		if snap.Service(key.Service) == nil && now.Sub(c.asked) > sweepTime && c.empty() {
			delete(u.clusters, key)
		}
	}
}

// close ends all connections and waits for what serves them.
func (u *Upstreams) close() {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	for _, c := range u.all() {
		c.close()
	}
	u.pool.Close()
	u.tasks.Wait()
}

// cluster is that of a key, made when it is not there.
func (u *Upstreams) cluster(key Key) *cluster {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.clusters[key]
	if c == nil {
		c = newCluster(u, key)
		u.clusters[key] = c
	}
	c.asked = time.Now() // who asks is about to pick an endpoint, and is not counted yet
	return c
}

// tls are the settings of a tunnel to whoever is one of accept.
func (u *Upstreams) tls(accept []identity.ID) func(ctx context.Context) (*tls.Config, error) {
	return func(ctx context.Context) (*tls.Config, error) {
		cert, err := u.deps.Certs.Get(ctx, u.cfg.Identity)
		if err != nil {
			return nil, err
		}
		return identity.ClientTLS(cert, accept), nil
	}
}
