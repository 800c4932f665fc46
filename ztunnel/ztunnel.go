package ztunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/ambit-mesh/ambit/internal/caclient"
	"github.com/ambit-mesh/ambit/internal/grpcclient"
	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/sockowner"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/tracing"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/internal/xds"
	"github.com/ambit-mesh/ambit/internal/zds"
	"github.com/ambit-mesh/ambit/ztunnel/admin"
	"github.com/ambit-mesh/ambit/ztunnel/dns"
	"github.com/ambit-mesh/ambit/ztunnel/pods"
)

// Deps are the collaborators of a [Ztunnel].
type Deps struct {
	// Log is required.
	Log *telemetry.Logger
	// Environ is the environment, of which a part goes to the control plane.
	Environ []string
}

// Ztunnel is one node proxy.
type Ztunnel struct {
	// Set by New, then only read.
	cfg     Config
	log     *zap.Logger
	ready   admin.Readiness
	records *telemetry.Records

	conns []io.Closer // to the control plane
	xds   *xds.Client
	ids   *identity.Manager
	pods  *pods.Manager
	agent *zds.Client       // nil in dedicated mode
	owner *sockowner.Client // nil when nobody is asked
	admin *admin.Server
	spans *tracing.Exporter // nil when nobody wants any

	quit     chan struct{} // closed when somebody asked us to end
	quitOnce sync.Once
}

// New wires a node proxy. It opens nothing and starts nothing. A Ztunnel that
// is not going to run is closed by its Close.
func New(cfg Config, deps Deps) (*Ztunnel, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("ztunnel config: %w", err)
	}
	z := &Ztunnel{cfg: cfg, log: deps.Log.Zap(), quit: make(chan struct{})}
	if err := z.wire(deps); err != nil {
		return nil, errors.Join(err, z.Close())
	}
	return z, nil
}

// wire makes the parts and connects them, from the bottom up.
func (z *Ztunnel) wire(deps Deps) error {
	reg, err := telemetry.NewRegistry("ztunnel", z.cfg.Version)
	if err != nil {
		return err
	}
	if z.spans, err = telemetry.NewSpans(z.cfg.Tracing, z.log, reg); err != nil {
		return err
	}
	records, err := telemetry.NewRecords(telemetry.Config{}, telemetry.Deps{Log: z.log, Registry: reg, Spans: z.spans})
	if err != nil {
		return err
	}
	z.records = records
	counts, err := telemetry.NewProxyMetrics(reg)
	if err != nil {
		return err
	}
	store := workload.NewStore(workload.Config{
		Network: z.cfg.Node.Network, NodeName: z.cfg.Node.Name, ClusterID: z.cfg.Node.ClusterID,
		TrustDomain: z.cfg.Node.TrustDomain, ClusterDomain: z.cfg.Node.ClusterDomain,
	})
	gate := policy.NewGate(store, policy.GateConfig{Trace: gateTrace(counts)})
	if err := z.wireControlPlane(deps, reg, store); err != nil {
		return err
	}
	questions, err := telemetry.NewDNSMetrics(reg)
	if err != nil {
		return err
	}
	z.pods, err = pods.New(z.podsConfig(questions), pods.Deps{
		Log: z.log, Registry: reg, Records: records, State: store, Gate: gate, Certs: z.ids,
		Ready: &z.ready, Acked: z.xds.Ready(), Owners: z.socketOwners(),
		Hosts: dns.SystemHosts(z.cfg.DNS.ResolvConf), HTrace: z.hboneTrace(counts),
	})
	if err != nil {
		return err
	}
	store.OnChange(z.pods.PictureChanged)
	z.ids.OnChange(z.pods.CertificateChanged)
	if z.cfg.Dedicated.IsZero() {
		z.agent = zds.NewClient(zds.ClientConfig{Path: z.cfg.Capture.ZDSSocket}, z.agentTrace())
	}
	z.admin, err = admin.New(admin.Config{
		Admin: z.cfg.Listen.Admin, Stats: z.cfg.Listen.Stats, Readiness: z.cfg.Listen.Readiness,
		Component: "ztunnel", Version: z.cfg.Version, Settings: z.cfg.Settings,
	}, admin.Deps{
		Log: z.log, Levels: deps.Log.Levels(), Registry: reg, Connections: records, Picture: store,
		Certificates: z.ids, Pods: z.listPods, Ready: &z.ready, Quit: z.Quit,
		ControlPlaneRoots: func() []string { return grpcclient.RootFingerprints(z.cfg.CA.RootCA) },
	})
	return err
}

// wireControlPlane makes the clients of xDS and of the CA.
func (z *Ztunnel) wireControlPlane(deps Deps, reg *prometheus.Registry, store *workload.Store) error {
	xdsConn, err := z.dial(z.cfg.XDS)
	if err != nil {
		return fmt.Errorf("xDS: %w", err)
	}
	caConn, err := z.dial(z.cfg.CA)
	if err != nil {
		return fmt.Errorf("CA: %w", err)
	}
	counts, err := telemetry.NewXDSMetrics(reg)
	if err != nil {
		return err
	}
	n := z.cfg.Node
	node, err := xds.NewNode(xds.NodeConfig{
		InstanceIP: n.InstanceIP, PodName: n.PodName, PodNamespace: n.PodNamespace,
		NodeName: n.Name, Domain: n.ClusterDomain, Env: deps.Environ,
	})
	if err != nil {
		return err
	}
	z.xds = xds.NewClient(xds.Config{
		Node: node,
		Subscriptions: []xds.Subscription{
			{TypeURL: workload.AddressType, Apply: store.ApplyAddresses},
			{TypeURL: workload.AuthorizationType, Apply: store.ApplyAuthorizations},
		},
		Events: z.xdsEvents(counts),
	}, xdsConn)
	z.ids, err = identity.NewManager(identity.ManagerConfig{},
		caclient.New(caConn, caclient.Config{TTL: z.cfg.CA.SecretTTL, Impersonate: z.cfg.Dedicated.IsZero()}))
	return err
}

// dial makes a connection to u that opens at its first call.
func (z *Ztunnel) dial(u Upstream) (*grpc.ClientConn, error) {
	cc, err := grpcclient.Dial(grpcclient.Config{
		Address: u.Address, RootCA: u.RootCA, ServerName: u.ServerName,
		Token: u.Token, ClusterID: z.cfg.Node.ClusterID, Headers: u.Headers,
	})
	if err != nil {
		return nil, err
	}
	z.conns = append(z.conns, cc)
	return cc, nil
}

// Run serves until ctx ends or somebody asks us to quit, then lets connections
// go on for at most Drain. When it has returned nothing is left. It may be
// called once.
func (z *Ztunnel) Run(ctx context.Context) error {
	defer z.Close()
	if err := z.admin.Listen(ctx); err != nil {
		return err
	}
	here, err := netns.Current() // the thread that called Run says which one
	if err != nil {
		return err
	}
	defer here.Close()
	polite, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	parts := new(lifecycle.Group)
	defer parts.Wait()
	errs := new(lifecycle.FirstError)

	// The clients of the control plane and the admin listeners outlive the
	// pods: certificates and policies count until the last connection ends.
	control, stopControl := context.WithCancel(context.WithoutCancel(ctx))
	defer stopControl()
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"admin", z.admin.Run}, {"xds", z.xds.Run}, {"identity", z.ids.Run}, {"roots", z.watchRoots}, {"access log", z.records.Run}, {"spans", z.spans.Run}, {"sockets", z.owner.Run}} {
		parts.Go(control, part.name, func(control context.Context) {
			if err := part.run(control); control.Err() == nil {
				stop(errs.Keep(part.name, err))
			}
		})
	}
	parts.Go(polite, "quit", func(polite context.Context) {
		select {
		case <-z.quit:
			stop(nil)
		case <-polite.Done():
		}
	})

	// The pods: the agent tells, or the configuration; the manager serves.
	var work lifecycle.Group
	work.Go(polite, "enrol", func(polite context.Context) {
		if err := z.enrol(polite, here); polite.Err() == nil {
			stop(errs.Keep("enrol", err))
		}
	})
	z.log.Info("ztunnel runs", zap.String("version", z.cfg.Version), zap.String("node", z.cfg.Node.Name),
		zap.Bool("fips", identity.FIPS()))
	err = z.pods.Run(polite)
	stop(errs.Keep("pods", err))
	work.Wait()
	z.log.Info("ztunnel has ended its pods", zap.NamedError("because", context.Cause(polite)))
	return errs.Err()
}

// watchRoots renews all certificates when the roots of the mesh have changed, so
// that a root which was removed counts now and not at the next renewal.
func (z *Ztunnel) watchRoots(ctx context.Context) error {
	return grpcclient.WatchRoots(ctx, z.cfg.CA.RootCA, func() {
		z.log.Info("roots have changed: all certificates are renewed", zap.String("roots", z.cfg.CA.RootCA))
		z.ids.Refresh(func(identity.ID) bool { return true })
	})
}

// Quit asks Run to end politely. It returns at once and may be called more than
// once.
func (z *Ztunnel) Quit() { z.quitOnce.Do(func() { close(z.quit) }) }

// Close gives back what New has taken. After Run there is nothing left to close.
func (z *Ztunnel) Close() error {
	var errs []error
	for _, c := range z.conns {
		errs = append(errs, c.Close())
	}
	z.conns = nil
	errs = append(errs, z.spans.Close())
	if z.owner != nil {
		z.owner.Close()
	}
	if z.admin != nil {
		errs = append(errs, z.admin.Close())
	}
	return errors.Join(errs...)
}

// Ready returns what has still to happen before pods can be served.
func (z *Ztunnel) Ready() []string { return z.ready.Pending() }

// Addr returns where the server called name (admin, stats, readiness) listens,
// or nil.
func (z *Ztunnel) Addr(name string) net.Addr { return z.admin.Addr(name) }

// hboneTrace counts what tunnels meet.
func (z *Ztunnel) hboneTrace(counts *telemetry.ProxyMetrics) *hbone.Trace {
	log := z.log.Named("hbone")
	return &hbone.Trace{
		LimitHit: func(l hbone.Limit) { counts.LimitHit(string(l)) },
		ConnOpened: func(i hbone.ConnInfo) {
			if e := log.Check(zap.DebugLevel, "tunnel opened"); e != nil {
				e.Write(connFields(i)...)
			}
		},
		ConnClosed: func(i hbone.ConnInfo, err error) {
			if e := log.Check(zap.DebugLevel, "tunnel closed"); e != nil {
				e.Write(append(connFields(i), zap.Error(err))...)
			}
		},
		HandshakeFailed: z.handshakeFailed(log),
	}
}
