package ca

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/peer"
)

const (
	// questionsPerSecond and questionsAtOnce are how many tokens from one address we
	// ask the API server about. A proxy has one, asked about twice a minute; behind
	// one address there may be a few. Our choice.
	questionsPerSecond, questionsAtOnce = 5, 20
	// maxSources is how many addresses are remembered.
	maxSources = 8192
)

// sources bounds what a stranger can make us ask the API server: by address, so
// that others go on.
type sources struct {
	// mu guards the field below.
	mu    sync.Mutex
	known map[netip.Addr]*rate.Limiter
}

// newSources knows nobody.
func newSources() *sources { return &sources{known: map[netip.Addr]*rate.Limiter{}} }

// errTooMany is why nobody is asked about a token.
var errTooMany = errors.New("too many different tokens from this address")

// admit says whether the caller may make us ask. A caller without an address is of
// this process.
func (s *sources) admit(ctx context.Context, now time.Time) error {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	tcp, ok := p.Addr.(*net.TCPAddr)
	if !ok {
		return nil
	}
	addr := tcp.AddrPort().Addr().Unmap()
	s.mu.Lock()
	defer s.mu.Unlock()
	limiter := s.known[addr]
	if limiter == nil {
		if len(s.known) >= maxSources && !s.forgetLocked(now) {
			return errTooMany
		}
		limiter = rate.NewLimiter(questionsPerSecond, questionsAtOnce)
		s.known[addr] = limiter
	}
	if !limiter.AllowN(now, 1) {
		return errTooMany
	}
	return nil
}

// forgetLocked drops addresses that have asked nothing for a while, and reports
// whether there were any. The caller holds s.mu.
func (s *sources) forgetLocked(now time.Time) bool {
	before := len(s.known)
	for addr, limiter := range s.known {
		if limiter.TokensAt(now) >= questionsAtOnce {
			delete(s.known, addr)
		}
	}
	return len(s.known) < before
}
