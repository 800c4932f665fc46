package inbound

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/streamio"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
)

// Config tunes an [Inbound]. The zero Config is ready for use.
type Config struct {
	// Network is the one this node is in.
	Network string
	// AppTunnelByAddress reaches applications that read the PROXY header at the
	// pod's address; by default at loopback, so that they need not be exposed.
	AppTunnelByAddress bool
	// WithoutBaggage leaves our description out of answers, and theirs unread.
	WithoutBaggage bool
	// KnownWait is how long a caller waits until the control plane knows the
	// pod. Zero means 5 s, as in the ambient ecosystem.
	KnownWait time.Duration
}

// Pod is the pod that connections come in to.
type Pod struct {
	UID     string
	Subject policy.Subject
	// Dial connects to the application inside the pod's namespace, with from as
	// source address when it is valid. It refuses an address that is not local
	// there: the connection would leave the pod, in plaintext.
	Dial func(ctx context.Context, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error)
	// Ports are all that may be reached. None means every port but ours.
	Ports []uint16
}

// certificates is the part of [identity.Manager] that is needed here.
type certificates interface {
	Get(ctx context.Context, id identity.ID) (*identity.Certificate, error)
	Peek(id identity.ID) (*identity.Certificate, bool)
}

var _ certificates = (*identity.Manager)(nil)

// Deps are the collaborators of an [Inbound]. All fields are required, but for
// Owners.
type Deps struct {
	Records *telemetry.Records
	State   *workload.Store
	Gate    *policy.Gate
	Certs   certificates
	// Acked is closed when the control plane has sent workloads and policies
	// for the first time. Nothing comes in before.
	Acked <-chan struct{}
	// Owners tells the kubelet from other plaintext callers; nil means that
	// nobody can.
	Owners Owners
}

// Inbound is the way into one pod. Any goroutine may use it.
type Inbound struct {
	// Set by New, then only read.
	cfg     Config
	pod     Pod
	records *telemetry.Records
	state   *workload.Store
	gate    *policy.Gate
	certs   certificates
	acked   <-chan struct{}
	owners  Owners
	asking  chan struct{} // one for each caller that is asked about

	// Any goroutine.
	tls  atomic.Pointer[serverTLS]
	live liveVisits
}

// serverTLS is the settings made of one certificate.
type serverTLS struct {
	cert   *identity.Certificate
	config *tls.Config
}

// New wires the way into pod. It starts nothing.
func New(cfg Config, pod Pod, deps Deps) *Inbound {
	if cfg.KnownWait == 0 {
		cfg.KnownWait = 5 * time.Second
	}
	return &Inbound{
		cfg: cfg, pod: pod,
		records: deps.Records, state: deps.State, gate: deps.Gate, certs: deps.Certs, acked: deps.Acked,
		owners: deps.Owners, asking: make(chan struct{}, askers),
		live: liveVisits{all: make(map[*Visit]struct{}), most: capture.Share()},
	}
}

// Peer is the proven caller at the other end of one tunnel connection.
type Peer struct {
	identity.Peer

	// trusted is the newest certificate of ours under whose roots the peer was
	// found good.
	trusted atomic.Pointer[identity.Certificate]
}

// NewPeer returns the peer that p describes.
func NewPeer(p identity.Peer) *Peer { return &Peer{Peer: p} }

// vouched reports why the roots of own do not vouch for the peer; nil when they
// do. It is cheap for a certificate that it was asked about before.
func (p *Peer) vouched(own *identity.Certificate) error {
	if p.trusted.Load() == own {
		return nil
	}
	if err := p.TrustedBy(own, time.Now()); err != nil {
		return err
	}
	p.trusted.Store(own)
	return nil
}

// TLS returns the settings for a tunnel connection to the pod. It waits until
// the control plane knows the pod and the CA has signed its certificate.
func (in *Inbound) TLS(ctx context.Context) (*tls.Config, error) {
	own, err := in.known(ctx)
	if err != nil {
		return nil, err
	}
	cert, err := in.certs.Get(ctx, own.Identity)
	if err != nil {
		return nil, err
	}
	if made := in.tls.Load(); made != nil && made.cert == cert {
		return made.config, nil
	}
	made := &serverTLS{cert: cert, config: identity.ServerTLS(cert)}
	in.tls.Store(made)
	return made.config, nil
}

// Authenticate says who is at the other end of a tunnel connection.
func (in *Inbound) Authenticate(cs tls.ConnectionState) (any, error) {
	p, err := identity.PeerOf(&cs)
	if err != nil {
		return nil, err
	}
	return NewPeer(p), nil
}

// Handle serves one CONNECT.
func (in *Inbound) Handle(ctx context.Context, inc *hbone.Incoming) {
	peer, ok := inc.Peer.(*Peer)
	if !ok {
		_ = inc.Refuse(statusUnauthorized) // no proof, no visit
		return
	}
	ctx, v, err := in.Receive(ctx, Request{
		Peer: peer, Hop: telemetry.HopTunnel,
		Client: inc.Remote, Local: inc.Local, Authority: inc.Authority, Header: inc.Header,
	})
	if err != nil {
		_ = inc.Refuse(StatusOf(err)) // a caller that is gone needs no answer
		if _, ok := errors.AsType[*expiredError](err); ok {
			inc.Retire() // it may have a new certificate to show
		}
		return
	}
	inc.Header = nil // or it would be held for as long as the stream lives
	stream, err := inc.Accept(v.Header)
	if err != nil {
		v.Close(explainPeer(err))
		return
	}
	inc.Later(func() {
		c := v.Counters()
		v.Close(explainCopy(stream.Pipe(ctx, v.App, &c.Received, &c.Sent)))
	})
}

// ServePlaintext serves one connection that was redirected on its way to the
// pod. A connection that may not come in is reset.
func (in *Inbound) ServePlaintext(ctx context.Context, c *capture.Conn) {
	in.records.SocketOpened(telemetry.Inbound)
	defer in.records.SocketClosed(telemetry.Inbound)
	ctx, v, err := in.receivePlaintext(ctx, c, Request{
		Hop: telemetry.HopDirect, Client: c.Client, Local: c.Target,
		Authority: hbone.AuthorityFrom(c.Target),
	})
	if err != nil {
		c.Abort()
		return
	}
	defer c.TCP.Close()
	v.Close(explainCopy(streamio.Pipe(ctx, c.TCP, v.App, v.Counters())))
}

// known waits until the control plane has told of policies and of the pod.
func (in *Inbound) known(ctx context.Context) (*workload.Workload, error) {
	own, ok := in.knownNow()
	if !ok {
		var err error
		if own, err = in.waitKnown(ctx); err != nil {
			return nil, err
		}
	}
	if own.Identity.IsZero() {
		return nil, errNoIdentity
	}
	return own, nil
}

// knownNow is known without waiting: nearly always that will do.
func (in *Inbound) knownNow() (*workload.Workload, bool) {
	select {
	case <-in.acked:
		return in.state.Snapshot().LookupPod(in.pod.Subject)
	default:
		return nil, false
	}
}

// waitKnown waits for at most KnownWait.
func (in *Inbound) waitKnown(ctx context.Context) (*workload.Workload, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, in.cfg.KnownWait, errUnknownPod)
	defer cancel()
	select {
	case <-in.acked:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	own, err := in.state.WaitPod(ctx, in.pod.Subject)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return own, err
}

var (
	errUnknownPod = errors.New("the control plane does not know this pod")
	errNoIdentity = errors.New("the control plane's workload names no valid identity")
)

// liveVisits are the visits of a pod that have not ended. Many come in over one
// tunnel connection, so that the limits of the tunnel do not bound them.
type liveVisits struct {
	most int // at once

	mu     sync.Mutex
	all    map[*Visit]struct{}
	closed error // why there are no more; nil while there are
}
