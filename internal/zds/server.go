package zds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

const (
	// messageTimeout bounds each write and each wait for a hello or an answer.
	// The ecosystem's number.
	messageTimeout = 5 * time.Second

	// acceptsPerSecond is how many connections are taken, so that a ztunnel that
	// restarts in a circle does not keep the agent busy with snapshots. The
	// ecosystem's number.
	acceptsPerSecond = 5
)

// errGone is what requests of a lost connection end with.
var errGone = errors.New("the connection to ztunnel is gone")

// ServerConfig tunes a [Server]. The zero value is ready for use.
type ServerConfig struct {
	// AllowUIDs are the users a ztunnel may run as. Empty means root and the
	// agent's own user.
	AllowUIDs []uint32

	// MessageTimeout bounds each step of the conversation. Zero means 5 seconds.
	MessageTimeout time.Duration
}

// ServerTrace is told what happens. Every hook may be nil.
type ServerTrace struct {
	// Connected: a ztunnel said hello.
	Connected func(Peer)
	// Ready: a ztunnel has taken a snapshot of that many pods.
	Ready func(peer Peer, pods int)
	// Taken: a pod of a snapshot was taken.
	Taken func(peer Peer, pod Pod)
	// Refused: a pod of a snapshot was not taken.
	Refused func(peer Peer, pod Pod, err error)
	// Disconnected: a ztunnel is gone, or was not let in, because of err.
	Disconnected func(peer Peer, err error)
}

// Peer is a process that has connected.
type Peer struct {
	PID     int32
	UID     uint32
	Version int32 // of its hello; 1 is the only one in use
}

// Server is the agent's end.
type Server struct {
	cfg      ServerConfig
	snapshot func() []Pod
	trace    ServerTrace

	// mu guards the fields below.
	mu      sync.Mutex
	peers   []*peerConn   // in the order of their hellos: the last is the latest
	changed chan struct{} // closed and replaced when peers changes
}

// NewServer wires a server. snapshot returns the pods a new connection starts
// with; it is called once per connection, from its goroutine. NewServer starts
// nothing.
func NewServer(cfg ServerConfig, snapshot func() []Pod, trace ServerTrace) *Server {
	cfg.MessageTimeout = cmp.Or(cfg.MessageTimeout, messageTimeout)
	if len(cfg.AllowUIDs) == 0 {
		cfg.AllowUIDs = []uint32{0, uint32(os.Geteuid())}
	}
	return &Server{cfg: cfg, snapshot: snapshot, trace: trace, changed: make(chan struct{})}
}

// Serve speaks with every ztunnel that connects to l until ctx ends. It closes
// l, and returns when nothing of it is left.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	var conns lifecycle.Group
	defer conns.Wait()
	limit := rate.NewLimiter(acceptsPerSecond, acceptsPerSecond)
	for {
		if limit.Wait(ctx) != nil {
			return nil // we were asked to stop
		}
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept on %v: %w", l.Addr(), err)
		}
		conns.Go(ctx, "zds-conn", func(ctx context.Context) { s.serve(ctx, c) })
	}
}

// serve is one connection, from its first byte to its end.
func (s *Server) serve(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()

	peer, err := s.admit(c)
	if err == nil {
		p := newPeerConn(c, s.cfg.MessageTimeout)
		var reader lifecycle.Group
		reader.Go(ctx, "zds-read", func(context.Context) { p.readAll() })
		err = s.converse(ctx, p, &peer)
		c.Close()
		p.fail()
		reader.Wait()
	}
	if ctx.Err() == nil && s.trace.Disconnected != nil {
		s.trace.Disconnected(peer, err)
	}
}

// admit checks who has connected.
func (s *Server) admit(c *net.UnixConn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var cred *unix.Ucred
	if ctl := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); ctl != nil {
		return Peer{}, ctl
	}
	if err != nil {
		return Peer{}, os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	peer := Peer{PID: cred.Pid, UID: cred.Uid}
	if !slices.Contains(s.cfg.AllowUIDs, cred.Uid) {
		return peer, fmt.Errorf("process %d runs as user %d, which may not be a ztunnel: want one of %v", cred.Pid, cred.Uid, s.cfg.AllowUIDs)
	}
	return peer, nil
}

// converse is the protocol: hello, snapshot, then what comes.
func (s *Server) converse(ctx context.Context, p *peerConn, peer *Peer) error {
	hello, err := p.receive()
	if err != nil {
		return fmt.Errorf("wait for the hello: %w", err)
	}
	version, err := decodeHello(&hello)
	hello.drop()
	if err != nil {
		return err
	}
	peer.Version = int32(version)
	if s.trace.Connected != nil {
		s.trace.Connected(*peer)
	}
	// Joined before the picture is taken: what changes after it is in the queue.
	s.join(p)
	defer s.leave(p)
	pods, err := s.sendSnapshot(p, *peer)
	if err != nil {
		return fmt.Errorf("send the snapshot: %w", err)
	}
	s.setReady(p)
	if s.trace.Ready != nil {
		s.trace.Ready(*peer, pods)
	}
	return p.serveQueue(ctx)
}

// sendSnapshot sends all pods and the end mark. A pod that ztunnel cannot take
// is its to try again, and does not end the conversation.
func (s *Server) sendSnapshot(p *peerConn, peer Peer) (sent int, err error) {
	for _, pod := range s.snapshot() {
		data, err := encodeAdd(pod)
		if err != nil {
			// It does not fit into a packet. That is no reason to keep the others
			// waiting.
			if s.trace.Refused != nil {
				s.trace.Refused(peer, pod, err)
			}
			continue
		}
		err = p.exchange(&request{uid: pod.UID, data: data, ns: pod.NS})
		var refused *AckError
		switch {
		case err == nil:
			sent++
			if s.trace.Taken != nil {
				s.trace.Taken(peer, pod)
			}
		case errors.Is(err, os.ErrClosed) && !errors.Is(err, net.ErrClosed):
			// Removed since the picture was taken: its removal is in the queue.
		case errors.As(err, &refused):
			sent++
			if s.trace.Refused != nil {
				s.trace.Refused(peer, pod, err)
			}
		default:
			return sent, err
		}
	}
	end, err := encodeSnapshotSent()
	if err != nil {
		return sent, err
	}
	return sent, p.exchange(&request{uid: "(snapshot)", data: end})
}

// join makes p the latest connection.
func (s *Server) join(p *peerConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peers = append(s.peers, p)
	s.announceLocked()
}

// leave forgets p.
func (s *Server) leave(p *peerConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peers = slices.DeleteFunc(s.peers, func(q *peerConn) bool { return q == p })
	s.announceLocked()
}

// setReady notes that p has its snapshot.
func (s *Server) setReady(p *peerConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.ready = true
	s.announceLocked()
}

// announceLocked wakes who waits for a change of peers. The caller holds s.mu.
func (s *Server) announceLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Connected says whether a ztunnel is connected that has taken its snapshot.
func (s *Server) Connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.peers, func(p *peerConn) bool { return p.ready })
}

// Changed returns a channel that is closed when a ztunnel comes, gets ready or
// goes. Take it before Connected is asked.
func (s *Server) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// latest returns the connection that new pods go to, or nil and a channel that
// is closed when that may have changed.
func (s *Server) latest() (*peerConn, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.peers) == 0 {
		return nil, s.changed
	}
	return s.peers[len(s.peers)-1], nil
}

// Add hands pod to the ztunnel that connected last, and waits until it has taken
// it. Where none is connected, or the connection is lost meanwhile, Add waits
// for the next one. pod.NS must stay open until Add returns.
//
// Errors: an [*AckError] when ztunnel refused; the cause of ctx when it ended,
// together with [ErrNoPeer] when there was nobody to ask.
func (s *Server) Add(ctx context.Context, pod Pod) error {
	data, err := encodeAdd(pod)
	if err != nil {
		return fmt.Errorf("add of pod %s: %w", pod.UID, err)
	}
	for {
		p, changed := s.latest()
		if p == nil {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return fmt.Errorf("%w: %w", ErrNoPeer, context.Cause(ctx))
			}
		}
		err := p.do(ctx, &request{uid: pod.UID, data: data, ns: pod.NS, ctx: ctx})
		if !errors.Is(err, errGone) {
			return err
		}
		s.leave(p) // it is on its way out; do not ask it again
	}
}

// Del takes a pod away from every ztunnel, and waits until they have said so or
// ctx ends; the message goes out in either case. A ztunnel that is not connected
// learns it from its next snapshot.
func (s *Server) Del(ctx context.Context, uid string) error {
	data, err := encodeDel(uid)
	if err != nil {
		return fmt.Errorf("removal of pod %s: %w", uid, err)
	}
	s.mu.Lock()
	peers := slices.Clone(s.peers)
	s.mu.Unlock()
	var waits []*request
	for _, p := range peers {
		r := &request{uid: uid, data: data}
		if p.push(r) {
			waits = append(waits, r)
		}
	}
	var errs []error
	for _, r := range waits {
		if err := r.wait(ctx); err != nil && !errors.Is(err, errGone) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
