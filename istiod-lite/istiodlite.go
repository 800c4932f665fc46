package istiodlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/meshapi/caapi"
	"github.com/ambit-mesh/ambit/istiod-lite/ca"
	"github.com/ambit-mesh/ambit/istiod-lite/discovery"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
	"github.com/ambit-mesh/ambit/istiod-lite/status"
)

// Limits of the port for proxies. All are our choice.
const (
	// handshakeTimeout bounds TLS and the preface of HTTP/2, so that a peer which
	// says nothing does not stay.
	handshakeTimeout = 10 * time.Second
	// streamsPerConnection: a proxy needs one stream for xDS and a few for
	// certificates.
	streamsPerConnection = 250
	// requestBytes is the largest request. The first one of a stream lists all
	// versions that the client holds: some 75 bytes each.
	requestBytes = 32 << 20
	// headerBytes is the most that the headers of a call may take.
	headerBytes = 16 << 10
	// idleTimeout closes connections without calls.
	idleTimeout = 15 * time.Minute
	// pingAfter and pingTimeout find clients that are gone; clients may ask the
	// same of us twice as often.
	pingAfter, pingTimeout = 30 * time.Second, 10 * time.Second
	// stopTimeout is how long calls may take to end after we were asked to stop.
	stopTimeout = 5 * time.Second
	// headersTimeout bounds a request to the port for people.
	headersTimeout = 5 * time.Second
)

// Config says what to serve and where. Fields that are not said to have a
// default are required.
type Config struct {
	// Cluster is where objects are read and written. nil: they are files, and the
	// next three are required.
	Cluster *Cluster
	// ConfigDir holds the manifests.
	ConfigDir string
	// CADir holds key and certificates; they are made when it is empty.
	CADir string
	// NodeTokens is the file by which nodes prove who they are.
	NodeTokens string
	// Listen is the address for proxies. Empty means :15012.
	Listen string
	// StatusAddr is the address for people. Empty means port 15014, in a cluster on
	// all addresses, else on 127.0.0.1.
	StatusAddr string
	// DNSNames are names and addresses of the serving certificate. localhost and
	// loopback addresses are always in it. Empty: the names of the service in the
	// root namespace as well.
	DNSNames []string
	// Model is what the translation depends on.
	Model model.Config
	// Discovery tunes delta xDS.
	Discovery discovery.Config
	// Version of the program, for people.
	Version string
}

// withDefaults returns the configuration that is in force.
func (c Config) withDefaults() (Config, error) {
	statusAddr := "127.0.0.1:15014"
	if c.Cluster != nil {
		cluster, err := c.Cluster.withDefaults()
		if err != nil {
			return Config{}, err
		}
		c.Cluster = &cluster
		c.Model.RootNamespace = cmp.Or(c.Model.RootNamespace, cluster.Namespace)
		statusAddr = ":15014"
	} else if err := c.checkDirectory(); err != nil {
		return Config{}, err
	}
	c.Listen = cmp.Or(c.Listen, ":15012")
	c.StatusAddr = cmp.Or(c.StatusAddr, statusAddr)
	c.Model.TrustDomain = cmp.Or(c.Model.TrustDomain, "cluster.local")
	c.Model.RootNamespace = cmp.Or(c.Model.RootNamespace, "istio-system")
	names := []string{"localhost", "127.0.0.1", "::1"}
	if len(c.DNSNames) == 0 {
		service := "istiod." + c.Model.RootNamespace + ".svc"
		names = append(names, service, service+"."+cmp.Or(c.Model.ClusterDomain, "cluster.local"))
	}
	c.DNSNames = append(names, c.DNSNames...)
	return c, nil
}

// Deps are the collaborators of an [Istiod]. All fields are required.
type Deps struct {
	Log     *zap.Logger
	Metrics *prometheus.Registry // shown by /metrics
}

// Istiod is a control plane.
type Istiod struct {
	// Set by New, then only read.
	cfg     Config
	log     *zap.Logger
	metrics *prometheus.Registry
	around  *surroundings
	world   *world
	grpc    *grpc.Server
	lobby   *lobby
	http    *http.Server

	// Closed by Run once the addresses stand.
	listening          chan struct{}
	listen, statusAddr net.Addr
}

// New checks the configuration, opens the certificate authority (and makes it,
// when its directory is empty) and wires the parts. It starts nothing.
func New(cfg Config, deps Deps) (*Istiod, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	i := &Istiod{cfg: cfg, log: deps.Log, metrics: deps.Metrics, listening: make(chan struct{})}
	i.world = newWorld(cfg.Model)
	if cfg.Cluster != nil {
		i.around, err = inCluster(cfg, i.world, deps)
	} else {
		i.around, err = inDirectory(cfg, i.world, deps)
	}
	if err != nil {
		return nil, err
	}
	serving, err := i.around.authority.Serving(cfg.DNSNames)
	if err != nil {
		return nil, err
	}

	auth := i.around.auth
	i.world.xds = discovery.New(cfg.Discovery, discovery.Deps{
		Log: deps.Log, Auth: callers{auth}, Proxies: i.world, Metrics: deps.Metrics,
	})
	i.world.board = i.newBoard()
	i.lobby = newLobby(maxUnproven, unprovenTime, deps.Metrics)
	i.grpc = newPort(auth, serving, i.lobby, deps.Log)
	i.world.xds.Register(i.grpc)
	caapi.RegisterIstioCertificateServiceServer(i.grpc, ca.NewService(ca.Deps{
		Authority: i.around.authority, Authenticator: auth, Pods: i.world, Log: deps.Log, Metrics: ca.NewMetrics(deps.Metrics, i.around.authority),
	}))
	i.http = &http.Server{Handler: i.world.board.Handler(deps.Metrics), ReadHeaderTimeout: headersTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: headerBytes}
	return i, nil
}

// newPort makes the gRPC server for proxies.
func newPort(auth ca.Authenticator, serving *ca.Serving, in *lobby, log *zap.Logger) *grpc.Server {
	return grpc.NewServer(
		grpc.Creds(credentials.NewTLS(serving.TLS())),
		grpc.InTapHandle(doorkeeper(auth, in, log)),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.MaxConcurrentStreams(streamsPerConnection),
		grpc.MaxRecvMsgSize(requestBytes),
		grpc.MaxHeaderListSize(headerBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout, Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAfter / 2, PermitWithoutStream: true}),
	)
}

// newBoard says what people may ask.
func (i *Istiod) newBoard() *status.Board {
	return status.NewBoard(status.Config{
		Checks: append([]status.Check{
			{Name: "first picture", Fn: i.checkPicture},
			{Name: "certificate authority", Fn: i.around.authority.Check},
		}, i.around.checks...),
		Warnings: []status.Check{{Name: "certificate authority", Fn: i.around.authority.Expired}},
		Sections: append([]status.Section{
			{Name: "version", Fn: func() any { return i.cfg.Version }},
			{Name: "xds", Fn: func() any { return i.world.xds.Status() }},
			{Name: "ca", Fn: func() any { return i.around.authority.Status() }},
		}, i.around.sections...),
		Place: i.around.place,
	})
}

// checkPicture says why proxies are told nothing yet.
func (i *Istiod) checkPicture() error {
	if i.world.xds.Ready() {
		return nil
	}
	return i.around.waits()
}

// Listening is closed when both ports are open. Then Addr and StatusAddr stand.
func (i *Istiod) Listening() <-chan struct{} { return i.listening }

// Addr is the address for proxies.
func (i *Istiod) Addr() net.Addr { return i.listen }

// StatusAddr is the address for people.
func (i *Istiod) StatusAddr() net.Addr { return i.statusAddr }

// RootFile is the file with the certificates that the mesh trusts; in a cluster
// there is none.
func (i *Istiod) RootFile() string { return filepath.Join(i.cfg.CADir, "root-cert.pem") }

// Run serves until ctx ends or a part fails; then it ends all streams, lets calls
// finish for a few seconds, and returns when nothing is left. It runs once.
func (i *Istiod) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	proxies, people, err := i.open(ctx)
	if err != nil {
		return err
	}
	i.log.Info("serving", zap.String("version", i.cfg.Version), zap.Stringer("address", i.listen),
		zap.Stringer("status", i.statusAddr), zap.String("reads", i.around.reads))

	var parts lifecycle.Group
	run := func(name string, fn func(context.Context) error) {
		parts.Go(ctx, name, func(ctx context.Context) {
			if err := fn(ctx); err != nil && ctx.Err() == nil {
				stop(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	run("ca", i.around.authority.Run)
	run("source", func(ctx context.Context) error { return i.around.source.Run(ctx, i.world.apply) })
	for name, fn := range i.around.parts {
		run(name, fn)
	}
	run("port for proxies", func(context.Context) error { return i.grpc.Serve(i.lobby.listen(proxies)) })
	run("port for status", func(context.Context) error { return i.http.Serve(people) })
	<-ctx.Done()
	i.shutDown(ctx)
	parts.Wait()
	i.log.Info("stopped")
	return causeOf(ctx)
}

// causeOf is why a run ended; nil when it was asked to.
func causeOf(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// open opens both ports.
func (i *Istiod) open(ctx context.Context) (proxies, people net.Listener, err error) {
	var lc net.ListenConfig
	if proxies, err = lc.Listen(ctx, "tcp", i.cfg.Listen); err != nil {
		return nil, nil, err
	}
	if people, err = lc.Listen(ctx, "tcp", i.cfg.StatusAddr); err != nil {
		proxies.Close()
		return nil, nil, err
	}
	i.listen, i.statusAddr = proxies.Addr(), people.Addr()
	close(i.listening)
	return proxies, people, nil
}

// shutDown ends streams, then calls, then connections.
func (i *Istiod) shutDown(ctx context.Context) {
	// The run's context has ended; what is left to do has its own limit.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, i.grpc.Stop)
	i.world.xds.Close()
	i.grpc.GracefulStop()
	stop()
	if err := i.http.Shutdown(ctx); err != nil {
		i.http.Close()
	}
}
