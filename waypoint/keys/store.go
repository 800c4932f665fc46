package keys

import (
	"cmp"
	"context"
	"crypto/x509"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/waypoint/jwt"
)

// When sets are fetched. All are our choice.
const (
	// refresh is the age at which a set is fetched again, less up to a tenth, so that
	// waypoints do not ask in step.
	refresh = 5 * time.Minute
	// firstRetry and lastRetry bound the pause after a fetch that failed. It doubles.
	firstRetry, lastRetry = time.Second, time.Minute
	// again is how often a set is fetched because of a key that is not in it, where
	// the configuration says nothing.
	again = 10 * time.Second
	// maxSources is how many sets are fetched; rules about more refuse.
	maxSources = 1000
)

// Config tunes a [Store]. The zero Config is ready for use.
type Config struct {
	// Also are addresses that may be connected to although they are [Forbidden].
	Also []netip.Prefix
	// Roots vouch for servers. nil: those of the system.
	Roots *x509.CertPool
	// Again is how often a set may be fetched because of a key that is not in it.
	// Zero means 10 s.
	Again time.Duration
}

// Deps are the collaborators. Both may be nil.
type Deps struct {
	// Mesh connects to a service of the mesh; ok is false when host is none. It must
	// ask may about each address that it connects to without a tunnel.
	Mesh func(ctx context.Context, host string, port uint16, may func(netip.Addr) error) (c net.Conn, ok bool, err error)
	// Fetched is told of every fetch. It must not block.
	Fetched func(src jwt.Source, keys int, err error)
}

// Store has the sets that are wanted. Any goroutine may use it.
type Store struct {
	// Set by New, then only read.
	cfg    Config
	deps   Deps
	client *http.Client
	poke   chan struct{} // the wishes have changed

	mu   sync.Mutex
	sets map[jwt.Source]*set
}

var _ jwt.Remote = (*Store)(nil)

// set is what is known of one source.
type set struct {
	src  jwt.Source
	wake chan struct{} // somebody wants newer keys

	// Guarded by Store.mu.
	started bool
	stop    context.CancelFunc // nil until it was started
	keys    *jwt.Keys          // the last good ones; nil: none came
	tried   time.Time          // when the last fetch ended; zero: none has
	next    chan struct{}      // closed when the next fetch ends
}

// New makes a store that wants nothing.
func New(cfg Config, deps Deps) *Store {
	cfg.Again = cmp.Or(cfg.Again, again)
	return &Store{cfg: cfg, deps: deps, client: newClient(cfg, deps), poke: make(chan struct{}, 1), sets: map[jwt.Source]*set{}}
}

// Want says which sets are wanted from now on. It does not wait.
func (s *Store) Want(sources []jwt.Source) {
	s.mu.Lock()
	wanted := map[jwt.Source]bool{}
	for _, src := range sources {
		if len(wanted) == maxSources {
			break
		}
		wanted[src] = true
		if s.sets[src] == nil {
			s.sets[src] = &set{src: src, wake: make(chan struct{}, 1), next: make(chan struct{})}
		}
	}
	for src, x := range s.sets {
		if !wanted[src] {
			delete(s.sets, src)
			if x.stop != nil {
				x.stop()
			}
		}
	}
	s.mu.Unlock()
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// Run fetches until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	var fetching lifecycle.Group
	defer fetching.Wait()
	for {
		s.mu.Lock()
		for _, x := range s.sets {
			if !x.started {
				own, stop := context.WithCancel(ctx)
				x.started, x.stop = true, stop
				fetching.Go(own, "keys", func(ctx context.Context) { s.follow(ctx, x); stop() })
			}
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-s.poke:
		}
	}
}

// follow keeps one set fresh until ctx ends.
func (s *Store) follow(ctx context.Context, x *set) {
	retry := firstRetry
	for {
		got, err := fetch(ctx, s.client, x.src)
		if ctx.Err() != nil {
			return
		}
		s.fetched(x, got)
		n, wait := 0, refresh-rand.N(refresh/10)
		if err != nil {
			wait, retry = retry, min(2*retry, lastRetry)
		} else {
			n, retry = got.Len(), firstRetry
		}
		if s.deps.Fetched != nil {
			s.deps.Fetched(x.src, n, err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-x.wake:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// fetched notes the outcome of a fetch; nil keys leave those that there are.
func (s *Store) fetched(x *set, keys *jwt.Keys) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if keys != nil {
		x.keys = keys
	}
	x.tried = time.Now()
	close(x.next)
	x.next = make(chan struct{})
}

// Keys implements [jwt.Remote].
func (s *Store) Keys(ctx context.Context, src jwt.Source, wait time.Duration) *jwt.Keys {
	s.mu.Lock()
	x := s.sets[src]
	if x == nil || x.keys != nil || !x.tried.IsZero() {
		defer s.mu.Unlock()
		if x == nil {
			return nil
		}
		return x.keys
	}
	next := x.next
	s.mu.Unlock()
	return s.await(ctx, x, next, wait)
}

// Newer implements [jwt.Remote].
func (s *Store) Newer(ctx context.Context, src jwt.Source, old *jwt.Keys, wait time.Duration) *jwt.Keys {
	s.mu.Lock()
	x := s.sets[src]
	if x == nil || x.keys != old || time.Since(x.tried) < s.cfg.Again {
		defer s.mu.Unlock()
		if x == nil {
			return old
		}
		return x.keys
	}
	next := x.next
	s.mu.Unlock()
	select {
	case x.wake <- struct{}{}:
	default:
	}
	return s.await(ctx, x, next, wait)
}

// await waits for the end of a fetch and returns what is known then.
func (s *Store) await(ctx context.Context, x *set, next <-chan struct{}, wait time.Duration) *jwt.Keys {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-next:
	case <-timer.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return x.keys
}
