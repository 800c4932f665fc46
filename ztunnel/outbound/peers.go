package outbound

import (
	"sync"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
)

// peersMax bounds how many peers are remembered. It is our choice: more than
// the endpoints that one pod talks to; beyond it the memory starts anew, and
// only loses the early cut after a root was removed.
const peersMax = 4096

// peers remembers who has proven to be at the other end of the tunnels of a
// key: the newest one. All of them were accepted for the same list.
type peers struct {
	mu    sync.Mutex
	byKey map[hbone.Key]identity.Peer
}

// watch returns a trace that tells next, and remembers whom handshakes have
// proven. next may be nil.
func (p *peers) watch(next *hbone.Trace) *hbone.Trace {
	var t hbone.Trace
	if next != nil {
		t = *next
	}
	tell := t.ConnOpened
	t.ConnOpened = func(i hbone.ConnInfo) {
		if peer, err := identity.PeerOf(i.TLS); err == nil {
			p.put(i.Key, peer)
		}
		if tell != nil {
			tell(i)
		}
	}
	return &t
}

func (p *peers) put(key hbone.Key, peer identity.Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.byKey) >= peersMax {
		clear(p.byKey)
	}
	p.byKey[key] = peer
}

// id is who is at the other end of the tunnels of key; zero when not known.
func (p *peers) id(key hbone.Key) identity.ID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byKey[key].ID
}

// of returns the peers of the tunnels of source.
func (p *peers) of(source string) map[hbone.Key]identity.Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[hbone.Key]identity.Peer)
	for key, peer := range p.byKey {
		if key.Source == source {
			out[key] = peer
		}
	}
	return out
}
