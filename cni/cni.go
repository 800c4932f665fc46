package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/ambit-mesh/ambit/cni/agent"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
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

	// ConfigDir holds manifests of Namespaces and Pods. Required.
	ConfigDir string

	// StatusAddr is where people look: /healthz, /readyz, /metrics. Empty means
	// nowhere.
	StatusAddr string

	// Agent tunes the rest. An empty StateFile means state.json beside Socket.
	Agent agent.Config
}

// Deps are the collaborators of a [Node]. All are required.
type Deps struct {
	Log     *zap.Logger
	Metrics *prometheus.Registry
}

// Node is the agent of one node.
type Node struct {
	cfg   Config
	deps  Deps
	agent *agent.Agent
}

// New wires a node's agent. It starts nothing.
func New(cfg Config, deps Deps) (*Node, error) {
	for name, value := range map[string]string{"Socket": cfg.Socket, "ZDSSocket": cfg.ZDSSocket, "ConfigDir": cfg.ConfigDir} {
		if value == "" {
			return nil, fmt.Errorf("cni config: %s is empty", name)
		}
	}
	cfg.Agent.StateFile = cmp.Or(cfg.Agent.StateFile, filepath.Join(filepath.Dir(cfg.Socket), "state.json"))
	a, err := agent.New(cfg.Agent, agent.Deps{Log: deps.Log, Metrics: deps.Metrics, Pods: agent.NewDirectory(cfg.ConfigDir, deps.Log)})
	if err != nil {
		return nil, err
	}
	return &Node{cfg: cfg, deps: deps, agent: a}, nil
}

// Run serves until ctx ends. Pods stay in the mesh.
func (n *Node) Run(ctx context.Context) error {
	status, err := n.listenStatus()
	if err != nil {
		return err
	}
	plugin, err := listenPlugin(n.cfg.Socket)
	if err != nil {
		return errors.Join(err, closeIf(status))
	}
	ztunnel, err := zds.Listen(n.cfg.ZDSSocket)
	if err != nil {
		return errors.Join(err, plugin.Close(), closeIf(status))
	}
	n.deps.Log.Info("agent serves", zap.String("plugin", n.cfg.Socket), zap.String("zds", n.cfg.ZDSSocket), zap.String("manifests", n.cfg.ConfigDir))

	asked := ctx
	ctx, stop := context.WithCancelCause(asked)
	defer stop(nil)
	var parts lifecycle.Group
	if status != nil {
		parts.Go(ctx, "status", func(ctx context.Context) { stop(n.serveStatus(ctx, status)) })
	}
	parts.Go(ctx, "agent", func(ctx context.Context) {
		stop(n.agent.Run(ctx, agent.Listeners{Plugin: plugin, ZDS: ztunnel}))
	})
	parts.Wait()
	if asked.Err() != nil {
		return nil // we were asked to stop
	}
	return context.Cause(ctx)
}

// closeIf closes l if there is one.
func closeIf(l net.Listener) error {
	if l == nil {
		return nil
	}
	return l.Close()
}

// listenPlugin makes the socket of the plugin, for root alone.
func listenPlugin(path string) (net.Listener, error) {
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

// listenStatus opens the address for people, if there is one.
func (n *Node) listenStatus() (net.Listener, error) {
	if n.cfg.StatusAddr == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", n.cfg.StatusAddr)
	if err != nil {
		return nil, fmt.Errorf("%w; choose another --status-addr, or none", err)
	}
	return l, nil
}

// statusTimeout bounds what a reader of the status pages may hold.
const statusTimeout = 10 * time.Second

// serveStatus answers people until ctx ends.
func (n *Node) serveStatus(ctx context.Context, l net.Listener) error {
	s := &http.Server{Handler: n.statusHandler(), ReadTimeout: statusTimeout, WriteTimeout: statusTimeout}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// statusHandler answers /healthz, /readyz and /metrics.
func (n *Node) statusHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := n.agent.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.deps.Metrics, promhttp.HandlerOpts{}))
	return mux
}
