package istiodlite

import (
	"container/list"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const (
	// maxUnproven is how many connections may be open whose peer has not yet made
	// a call with a proof. Our choice: a thousand nodes that come back at one
	// moment, at some 100 KB each.
	maxUnproven = 1024

	// unprovenTime is how long a connection may stay so: TLS, and a first call.
	unprovenTime = 15 * time.Second
)

// lobby bounds what those can make us hold who have proven nothing: it closes
// connections that stay without a proven call for too long, and when there are
// too many of them the oldest. A proxy proves itself milliseconds after it has
// connected, so that it has gone through before it gets old.
type lobby struct {
	limit    int
	patience time.Duration
	closed   prometheus.Counter

	// mu guards the fields below.
	mu     sync.Mutex
	guests map[string]*list.Element // by the peer's address
	oldest list.List                // of *guest
}

// newLobby is empty.
func newLobby(limit int, patience time.Duration, reg prometheus.Registerer) *lobby {
	return &lobby{
		limit: limit, patience: patience, guests: map[string]*list.Element{},
		closed: promauto.With(reg).NewCounter(prometheus.CounterOpts{
			Name: "ambit_control_plane_unproven_closed_total",
			Help: "Connections closed because their peer proved nothing in time, or too many of its kind were open.",
		}),
	}
}

// listen makes every connection of ln pass through the lobby.
func (l *lobby) listen(ln net.Listener) net.Listener { return lobbyListener{ln, l} }

// lobbyListener is a listener whose connections are guests.
type lobbyListener struct {
	net.Listener
	lobby *lobby
}

// Accept waits for the next connection.
func (ln lobbyListener) Accept() (net.Conn, error) {
	conn, err := ln.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return ln.lobby.enter(conn), nil
}

// guest is a connection until its peer has proven something.
type guest struct {
	net.Conn
	lobby *lobby
	timer *time.Timer
}

// Close closes the connection; it is no guest any more.
func (g *guest) Close() error {
	g.lobby.leave(g.RemoteAddr().String(), g)
	return g.Conn.Close()
}

// enter takes a connection in. When there are too many the oldest has to go.
func (l *lobby) enter(conn net.Conn) *guest {
	g := &guest{Conn: conn, lobby: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.oldest.Len() >= l.limit {
		l.throwOutLocked(l.oldest.Front().Value.(*guest))
	}
	g.timer = time.AfterFunc(l.patience, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.throwOutLocked(g)
	})
	l.guests[conn.RemoteAddr().String()] = l.oldest.PushBack(g)
	return g
}

// throwOutLocked closes the connection of a guest that still is one. The caller
// holds l.mu.
func (l *lobby) throwOutLocked(g *guest) {
	if l.removeLocked(g.RemoteAddr().String(), g) {
		l.closed.Inc()
		g.Conn.Close()
	}
}

// admit says that the peer of that address has proven who it is.
func (l *lobby) admit(addr string) { l.leave(addr, nil) }

// leave takes a guest out of the lobby: g, or whoever has the address when g is
// nil.
func (l *lobby) leave(addr string, g *guest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removeLocked(addr, g)
}

// removeLocked does so, and reports whether there was one. The caller holds l.mu.
func (l *lobby) removeLocked(addr string, g *guest) bool {
	e := l.guests[addr]
	if e == nil || g != nil && e.Value != g {
		return false
	}
	e.Value.(*guest).timer.Stop()
	l.oldest.Remove(e)
	delete(l.guests, addr)
	return true
}
