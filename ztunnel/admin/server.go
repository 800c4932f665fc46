package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/net/netutil"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/workload"
)

// Off is the address of a server that is not wanted.
const Off = "off"

// Limits on those who ask. The servers answer people and two machines.
const (
	// maxConns is how many connections one server holds, at some 10 KB each;
	// more wait in the kernel. Stats and readiness can be reached by anybody
	// on the network, who must not keep the kubelet out easily.
	maxConns = 512
	// headerTimeout is how long a request may take to say what it wants.
	headerTimeout = 5 * time.Second
	// idleTimeout is how long a connection without requests is kept: longer
	// than the usual interval of scrapes.
	idleTimeout = 90 * time.Second
	// answerTimeout is how long an asker of stats or readiness may take to
	// read the answer. People have no limit: profiles take their time.
	answerTimeout = 30 * time.Second
	// maxHeader is the most bytes of a request's header.
	maxHeader = 16 << 10
	// quitTimeout is how long Run waits for requests that are being answered.
	quitTimeout = time.Second
)

// Config says where the servers listen. The zero Config is ready for use. An
// address may be [Off].
type Config struct {
	// Admin is where people ask. Empty means localhost:15000.
	Admin string
	// AllowRemoteAdmin lets Admin be an address that is not loopback. Whoever
	// reaches it can read everything and stop the process.
	AllowRemoteAdmin bool
	// Stats is where Prometheus asks. Empty means [::]:15020.
	Stats string
	// Readiness is where the kubelet asks. Empty means [::]:15021.
	Readiness string

	// Component and Version are what we call ourselves.
	Component, Version string
	// Settings are the effective settings as text. Those that look like
	// secrets are shown without their value.
	Settings map[string]string
}

// withDefaults returns the configuration that is in force.
func (c Config) withDefaults() Config {
	c.Admin = cmp.Or(c.Admin, "localhost:15000")
	c.Stats = cmp.Or(c.Stats, "[::]:15020")
	c.Readiness = cmp.Or(c.Readiness, "[::]:15021")
	c.Component = cmp.Or(c.Component, "ztunnel")
	c.Version = cmp.Or(c.Version, "dev")
	return c
}

// picture is where workloads, services and policies are read.
// *workload.Store is the real one.
type picture interface{ Snapshot() *workload.Snapshot }

// certificates is where the state of certificates is read. *identity.Manager is
// the real one.
type certificates interface{ Dump() []identity.Status }

// connections is where connections are read. *telemetry.Records is the real
// one.
type connections interface {
	Live() []telemetry.Entry
	Recent() []telemetry.Entry
}

var (
	_ picture      = (*workload.Store)(nil)
	_ certificates = (*identity.Manager)(nil)
	_ connections  = (*telemetry.Records)(nil)
)

// Pod is a pod that this proxy serves, or will.
type Pod struct {
	UID            string
	Up             bool // false: it could not be started yet
	Name           string
	Namespace      string
	ServiceAccount string
	TrustDomain    string
}

// Deps are what a [Server] shows. All fields are required, but for
// ControlPlaneRoots.
type Deps struct {
	Log          *zap.Logger
	Levels       *telemetry.Levels
	Registry     *prometheus.Registry
	Connections  connections
	Picture      picture
	Certificates certificates
	Pods         func() []Pod
	// ControlPlaneRoots names the roots by which the control plane is known; may
	// be nil.
	ControlPlaneRoots func() []string
	Ready             *Readiness
	// Quit asks the process to end politely. It returns at once and may be
	// called more than once.
	Quit func()
}

// check names the first field that is missing.
func (d *Deps) check() error {
	for _, f := range []struct {
		name    string
		missing bool
	}{
		{"Log", d.Log == nil}, {"Levels", d.Levels == nil}, {"Registry", d.Registry == nil},
		{"Connections", d.Connections == nil}, {"Picture", d.Picture == nil},
		{"Certificates", d.Certificates == nil}, {"Pods", d.Pods == nil}, {"Ready", d.Ready == nil},
		{"Quit", d.Quit == nil},
	} {
		if f.missing {
			return fmt.Errorf("admin: Deps.%s is required", f.name)
		}
	}
	return nil
}

// Server is the three servers of one process.
type Server struct {
	// Set by New, then only read.
	cfg  Config
	deps Deps
	log  *zap.Logger

	mu        sync.Mutex
	listeners []listener // opened by Listen, in the order admin, stats, readiness
}

// New wires a Server. It opens nothing.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := deps.check(); err != nil {
		return nil, err
	}
	return &Server{cfg: cfg.withDefaults(), deps: deps, log: deps.Log.Named("admin")}, nil
}

// listener is one open socket and what is served on it.
type listener struct {
	net.Listener
	name    string
	handler http.Handler
}

// Listen opens all sockets, or none. A port that is taken and an address that
// is not allowed show here.
func (s *Server) Listen(ctx context.Context) error {
	for _, want := range []struct {
		name, addr string
		setting    string // that names another address
		open       func(context.Context, string) ([]net.Listener, error)
		handler    http.Handler
	}{
		{"admin", s.cfg.Admin, "ADMIN_ADDR", s.openAdmin, guard(s.adminHandler())},
		{"stats", s.cfg.Stats, "STATS_ADDR", open, s.statsHandler()},
		{"readiness", s.cfg.Readiness, "READINESS_ADDR", open, s.readyHandler()},
	} {
		if want.addr == Off {
			continue
		}
		all, err := want.open(ctx, want.addr)
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("%w: stop what listens there, or choose another address by %s", err, want.setting)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("%s server: %w", want.name, err), s.Close())
		}
		s.mu.Lock()
		for _, ln := range all {
			s.listeners = append(s.listeners, listener{netutil.LimitListener(ln, maxConns), want.name, want.handler})
		}
		s.mu.Unlock()
	}
	return nil
}

// sockets returns what is open now.
func (s *Server) sockets() []listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.listeners)
}

// Addr returns where the server called name (admin, stats, readiness) listens,
// or nil when it does not.
func (s *Server) Addr(name string) net.Addr {
	for _, ln := range s.sockets() {
		if ln.name == name {
			return ln.Addr()
		}
	}
	return nil
}

// Close closes the sockets of a Server that is not going to run. After Run, and
// a second time, it does nothing.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, ln := range s.listeners {
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	s.listeners = nil
	return errors.Join(errs...)
}

// Run answers on the sockets that Listen opened, until ctx ends. Requests that
// are being answered then have quitTimeout to finish.
func (s *Server) Run(ctx context.Context) error {
	run, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var servers lifecycle.Group
	for _, ln := range s.sockets() {
		s.log.Info("listening", zap.String("server", ln.name), zap.Stringer("addr", ln.Addr()))
		servers.Go(run, "admin-"+ln.name, func(run context.Context) {
			if err := serve(run, ln); err != nil {
				fail(fmt.Errorf("%s server: %w", ln.name, err))
			}
		})
	}
	<-run.Done()
	servers.Wait()
	if ctx.Err() != nil {
		return nil // we were asked to stop
	}
	return context.Cause(run)
}

// serve answers on one socket until ctx ends.
func serve(ctx context.Context, ln listener) error {
	srv := &http.Server{
		Handler:           ln.handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		// What clients do wrong is nobody's business here.
		ErrorLog: log.New(io.Discard, "", 0),
		// A request that runs long, such as a profile, ends with ctx.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	if ln.name != "admin" {
		srv.WriteTimeout = answerTimeout
	}
	srv.SetKeepAlivesEnabled(ln.name != "readiness") // the kubelet connects anew
	var closing lifecycle.Group
	defer closing.Wait()
	ended := make(chan struct{})
	defer close(ended)
	closing.Go(ctx, "admin-close", func(ctx context.Context) {
		select {
		case <-ctx.Done():
		case <-ended:
		}
		// ctx has ended; what is being answered may finish.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), quitTimeout)
		defer cancel()
		if srv.Shutdown(last) != nil {
			srv.Close()
		}
	})
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
