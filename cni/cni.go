package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/cni/agent"
	"github.com/ambit-mesh/ambit/cni/install"
	"github.com/ambit-mesh/ambit/cni/kube"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/sockowner"
	"github.com/ambit-mesh/ambit/internal/zds"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// Config says where the agent of a node finds things.
type Config struct {
	// Socket is where the plugin asks. Required.
	Socket string

	// ZDSSocket is where ztunnel connects. Required.
	ZDSSocket string

	// OwnerSocket is where ztunnel asks whose socket has called a pod. Empty means
	// nowhere.
	OwnerSocket string

	// Owner tunes how that is found out.
	Owner sockowner.HostConfig

	// ConfigDir holds manifests of Namespaces and Pods. Either it or Cluster is
	// required.
	ConfigDir string

	// Cluster says where pods come from instead of a directory.
	Cluster *Cluster

	// Install has the plugin put where the runtime looks. Nil means that somebody
	// else does that.
	Install *install.Config

	// StatusAddr is where people look: /healthz, /readyz, /metrics. Empty means
	// nowhere.
	StatusAddr string

	// ReadyAddr is where the kubelet looks: /healthz and /readyz. Empty means
	// nowhere.
	ReadyAddr string

	// Agent tunes the rest. An empty StateFile means state.json beside Socket.
	Agent agent.Config
}

// Cluster is the cluster of the agent.
type Cluster struct {
	// Kubeconfig names a file. Empty means the cluster that we run in.
	Kubeconfig string

	// Namespace and DaemonSet are those that the agent belongs to; when it ends with
	// the DaemonSet gone, the mesh leaves the node. An empty DaemonSet means never.
	Namespace, DaemonSet string

	// RuntimeSockets are where the container runtime may listen. Nil means
	// [kube.RuntimeSockets].
	RuntimeSockets []string
}

// Deps are the collaborators of a [Node]. All are required.
type Deps struct {
	Log     *zap.Logger
	Metrics *prometheus.Registry
}

// Node is the agent of one node.
type Node struct {
	cfg       Config
	deps      Deps
	agent     *agent.Agent
	installer *install.Installer // may be nil
	cluster   *cluster           // may be nil
}

// cluster is what connects the agent to its cluster.
type cluster struct {
	report  *kube.Reporter
	own     *kube.Own // may be nil
	runtime *kube.Runtime
}

// New wires a node's agent. It starts nothing.
func New(cfg Config, deps Deps) (*Node, error) {
	for name, value := range map[string]string{"Socket": cfg.Socket, "ZDSSocket": cfg.ZDSSocket} {
		if value == "" {
			return nil, fmt.Errorf("cni config: %s is empty", name)
		}
	}
	if (cfg.ConfigDir == "") == (cfg.Cluster == nil) {
		return nil, errors.New("cni config: want either a directory of manifests or a cluster")
	}
	cfg.Agent.StateFile = cmp.Or(cfg.Agent.StateFile, filepath.Join(filepath.Dir(cfg.Socket), "state.json"))
	n := &Node{cfg: cfg, deps: deps}
	with := agent.Deps{Log: deps.Log, Metrics: deps.Metrics, Leaving: n.leaving}
	if cfg.Cluster == nil {
		with.Pods = agent.NewDirectory(cfg.ConfigDir, deps.Log)
	} else if err := n.connect(&with); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	var err error
	if cfg.Install != nil {
		if n.installer, err = install.New(*cfg.Install, install.Deps{Log: deps.Log, Metrics: deps.Metrics}); err != nil {
			return nil, err
		}
	}
	n.agent, err = agent.New(cfg.Agent, with)
	return n, err
}

// connect wires what a cluster brings.
func (n *Node) connect(with *agent.Deps) error {
	c := n.cfg.Cluster
	client, err := kube.Connect(c.Kubeconfig)
	if err != nil {
		return err
	}
	if n.cfg.Agent.Node == "" {
		return errors.New("the name of this node is not known")
	}
	source := kube.NewSource(client, n.cfg.Agent.Node)
	sockets := c.RuntimeSockets
	if len(sockets) == 0 {
		sockets = kube.RuntimeSockets()
	}
	n.cluster = &cluster{
		report:  kube.NewReporter(client, n.cfg.Agent.Node, n.deps.Log),
		runtime: kube.NewRuntime(sockets, n.cfg.Agent.HostRoot),
	}
	if c.DaemonSet != "" {
		n.cluster.own = kube.NewOwn(client, c.Namespace, c.DaemonSet)
	}
	with.Pods, with.Report, with.Runtime = source, n.cluster.report, n.cluster.runtime
	return nil
}

// leaving says whether the mesh leaves the node, and if so first has the runtime
// not call our plugin any more.
func (n *Node) leaving(ctx context.Context) bool {
	if n.cluster == nil || n.cluster.own == nil || !n.cluster.own.Leaving(ctx) {
		return false
	}
	if n.installer != nil {
		if err := n.installer.Uninstall(); err != nil {
			n.deps.Log.Error("the runtime may call a plugin that nobody answers: take it out of its configuration", zap.Error(err))
		}
	}
	for _, socket := range []string{n.cfg.Socket, n.cfg.OwnerSocket, n.cfg.ZDSSocket} {
		if err := os.Remove(socket); socket != "" && err != nil && !errors.Is(err, fs.ErrNotExist) {
			n.deps.Log.Warn("a socket is left", zap.Error(err))
		}
	}
	return true
}

// Run serves until ctx ends. Pods stay in the mesh, unless it leaves the node.
func (n *Node) Run(ctx context.Context) error {
	l, err := n.listen()
	if err != nil {
		return errors.Join(err, l.close())
	}
	defer l.close()
	n.deps.Log.Info("agent serves", zap.String("plugin", n.cfg.Socket), zap.String("zds", n.cfg.ZDSSocket), zap.String("owner", n.cfg.OwnerSocket))

	asked := ctx
	ctx, stop := context.WithCancelCause(asked)
	defer stop(nil)
	var parts lifecycle.Group
	part := func(name string, run func(context.Context) error) {
		parts.Go(ctx, name, func(ctx context.Context) {
			if err := run(ctx); err != nil {
				stop(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	for _, page := range []struct {
		l net.Listener
		h http.Handler
	}{{l.status, n.statusHandler()}, {l.ready, n.localHandler()}} {
		if page.l != nil {
			part("status", func(ctx context.Context) error { return serveStatus(ctx, page.l, page.h) })
		}
	}
	if l.owner != nil {
		part("sockets", func(ctx context.Context) error { return sockowner.Serve(ctx, l.owner, n.sockets()) })
	}
	if n.installer != nil {
		part("install", n.installer.Run)
	}
	if n.cluster != nil && n.cluster.own != nil {
		part("own", n.cluster.own.Run)
	}
	hushed := n.startReport(asked)
	part("agent", func(ctx context.Context) error {
		return n.agent.Run(ctx, agent.Listeners{Plugin: l.plugin, ZDS: l.zds})
	})
	parts.Wait()
	hushed()
	err = n.disconnect(asked)
	if asked.Err() != nil {
		return nil // we were asked to stop
	}
	return errors.Join(context.Cause(ctx), err)
}

// startReport has the cluster told what becomes of pods until the function that it
// returns is called: also by an agent that was asked to stop and lets them go.
func (n *Node) startReport(ctx context.Context) (stop func()) {
	if n.cluster == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var g lifecycle.Group
	g.Go(ctx, "report", func(ctx context.Context) { n.cluster.report.Run(ctx) })
	return func() {
		cancel()
		g.Wait()
	}
}

// flushTimeout bounds what is written to the cluster by an agent that ends.
const flushTimeout = 5 * time.Second

// disconnect writes what is left to be written, and ends the connections.
func (n *Node) disconnect(ctx context.Context) error {
	if n.cluster == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout) // ctx has ended
	defer cancel()
	if err := n.cluster.report.Flush(ctx); err != nil {
		n.deps.Log.Warn("the cluster was not told everything", zap.Error(err))
	}
	return n.cluster.runtime.Close()
}

// sockets tells ztunnel whose sockets have called pods, and logs when that cannot be.
func (n *Node) sockets() sockowner.Service {
	host := sockowner.NewHost(n.cfg.Owner)
	log := n.deps.Log.Named("sockets")
	var last atomic.Int64
	var cannot atomic.Bool
	return sockowner.Service{
		Lookup: func(ctx context.Context, client, server netip.AddrPort) (sockowner.Owner, error) {
			owner, err := host.Lookup(ctx, client, server)
			if before, now := last.Load(), time.Now().Unix(); err != nil && now-before >= sayAgain && last.CompareAndSwap(before, now) {
				log.Warn("whose socket has called a pod cannot be found out, and a probe of the kubelet may so be refused",
					zap.Stringer("client", client), zap.Stringer("server", server), zap.Error(err))
			}
			return owner, err
		},
		Means: func(ctx context.Context) (sockowner.Means, error) {
			m, err := host.Means(ctx)
			if before := cannot.Swap(err != nil); err != nil && !before {
				log.Warn("ztunnel cannot know the kubelet's sockets by itself, and refuses its probes under STRICT while this agent is away", zap.Error(err))
			}
			return m, err
		},
	}
}

// sayAgain is after how many seconds the same trouble is logged again.
const sayAgain = 60

// listeners are the sockets of a node's agent.
type listeners struct {
	status, ready net.Listener // may be nil
	plugin, zds   *net.UnixListener
	owner         *net.UnixListener // may be nil
}

// listen opens them. What was opened before an error is in l.
func (n *Node) listen() (l listeners, err error) {
	if l.status, err = listenStatus(n.cfg.StatusAddr, "--status-addr"); err != nil {
		return l, err
	}
	if l.ready, err = listenStatus(n.cfg.ReadyAddr, "--ready-addr"); err != nil {
		return l, err
	}
	if l.plugin, err = listenPrivate(n.cfg.Socket); err != nil {
		return l, err
	}
	if n.cfg.OwnerSocket != "" {
		if l.owner, err = listenPrivate(n.cfg.OwnerSocket); err != nil {
			return l, err
		}
	}
	l.zds, err = zds.Listen(n.cfg.ZDSSocket)
	return l, err
}

// close closes them all; twice is no harm.
func (l listeners) close() error {
	var err error
	for _, c := range []net.Listener{l.status, l.ready} {
		err = errors.Join(err, closeIf(c))
	}
	for _, c := range []*net.UnixListener{l.plugin, l.owner, l.zds} {
		if c != nil {
			err = errors.Join(err, c.Close())
		}
	}
	return err
}

// closeIf closes l if there is one.
func closeIf(l net.Listener) error {
	if l == nil {
		return nil
	}
	return l.Close()
}

// listenPrivate makes a socket for root alone.
func listenPrivate(path string) (*net.UnixListener, error) {
	if err := zds.PrivateDir(path); err != nil {
		return nil, err
	}
	st, err := os.Lstat(path)
	if err == nil && st.Mode()&fs.ModeSocket == 0 {
		return nil, fmt.Errorf("listen on %s: a file that is not a socket is in the way", path)
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// A successor may have put its own socket there by the time we close ours.
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// listenStatus opens an address for people, if there is one.
func listenStatus(addr, flag string) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%w; choose another %s, or none", err, flag)
	}
	return l, nil
}

// statusTimeout bounds what a reader of the status pages may hold.
const statusTimeout = 10 * time.Second

// serveStatus answers people until ctx ends.
func serveStatus(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadTimeout: statusTimeout, WriteTimeout: statusTimeout}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// Ready says why pods cannot be brought into the mesh on this node; nil means that
// they can.
func (n *Node) Ready() error {
	if n.installer != nil {
		if err := n.installer.Ready(); err != nil {
			return err
		}
	}
	return n.agent.Ready()
}

// readyHandler answers /healthz and /readyz.
func (n *Node) readyHandler() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := n.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// localHandler shows what the agent knows too, when none but the node's own
// processes can ask.
func (n *Node) localHandler() http.Handler {
	mux := n.readyHandler()
	if host, _, err := net.SplitHostPort(n.cfg.ReadyAddr); err == nil {
		if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() {
			n.agent.Show(mux)
		}
	}
	return mux
}

// statusHandler answers /metrics too.
func (n *Node) statusHandler() http.Handler {
	mux := n.readyHandler()
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.deps.Metrics, promhttp.HandlerOpts{}))
	return mux
}
