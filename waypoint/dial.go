package waypoint

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/waypoint/config"
	"github.com/ambit-mesh/ambit/waypoint/extauth"
	"github.com/ambit-mesh/ambit/waypoint/jwt"
	"github.com/ambit-mesh/ambit/waypoint/keys"
	"github.com/ambit-mesh/ambit/waypoint/upstream"
)

// wireProof makes what tells who has sent a request: the keys of token issuers, and
// the providers that are asked.
func (w *Waypoint) wireProof() error {
	log := w.log.Named("keys")
	cfg := keys.Config{Also: w.cfg.KeyServers.Also}
	if file := w.cfg.KeyServers.Roots; file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("roots of key servers: %w", err)
		}
		cfg.Roots = x509.NewCertPool()
		if !cfg.Roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("roots of key servers: no certificate in %s", file)
		}
	}
	w.keys = keys.New(cfg, keys.Deps{Mesh: w.dialMesh, Fetched: func(src jwt.Source, n int, err error) {
		if err != nil {
			w.counts.fetches.WithLabelValues("failed").Inc()
			log.Warn("keys not fetched; the last good ones stay in force, and without any the tokens are refused", zap.String("from", src.URI), zap.Error(err))
			return
		}
		w.counts.fetches.WithLabelValues("ok").Inc()
		log.Debug("keys fetched", zap.String("from", src.URI), zap.Int("keys", n))
	}})
	w.providers = extauth.New(extauth.Deps{Dial: w.dialProvider})
	w.routes.OnChange(func(p *config.Picture) {
		w.keys.Want(p.TokenSources())
		w.providers.Keep(func(x *waypointapi.Provider) bool { return p.Provider(x.GetName()) == x })
	})
	return nil
}

// serviceConn is a connection to a service of the mesh that we use ourselves.
type serviceConn struct {
	net.Conn
	once    sync.Once
	release func()
}

// Close closes it and gives its place back.
func (c *serviceConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.release)
	return err
}

// findService finds a service of the mesh by namespace/host, or by a host as pods
// write it; nil when there is none.
func (w *Waypoint) findService(name string) *workload.Service {
	snap := w.state.Snapshot()
	namespace, host, named := strings.Cut(name, "/")
	if !named {
		namespace, host = "", name
	}
	own, domain := w.cfg.Node.PodNamespace, w.cfg.Node.ClusterDomain
	hosts := []string{host}
	switch strings.Count(host, ".") {
	case 0:
		hosts = append(hosts, host+"."+own+".svc."+domain)
	case 1:
		hosts = append(hosts, host+".svc."+domain)
	case 2:
		if strings.HasSuffix(host, ".svc") {
			hosts = append(hosts, host+"."+domain)
		}
	}
	for _, h := range hosts {
		svc := (*workload.Service)(nil)
		if namespace != "" {
			svc = snap.Service(workload.Key{Namespace: namespace, Hostname: h})
		} else {
			svc = snap.LookupHost(h, own)
		}
		if svc != nil {
			return svc
		}
	}
	return nil
}

// dialMesh connects to a service of the mesh as requests are sent to it. ok is false
// when there is no such service. may is asked about an address without a tunnel; nil
// allows all.
func (w *Waypoint) dialMesh(ctx context.Context, name string, port uint16, may func(netip.Addr) error) (c net.Conn, ok bool, err error) {
	svc := w.findService(name)
	if svc == nil {
		return nil, false, nil
	}
	e, err := w.upstreams.Pick(upstream.Want{Key: upstream.Key{Service: svc.Key, Port: port}})
	if err != nil {
		return nil, true, err
	}
	if !e.Tunnel.IsValid() && may != nil {
		if err := may(e.App.Addr()); err != nil {
			e.Drop()
			return nil, true, err
		}
	}
	raw, release, err := e.OpenBytes(ctx)
	if err != nil {
		e.Failed(err)
		return nil, true, err
	}
	return &serviceConn{Conn: raw, release: func() { release(); e.Done(200) }}, true, nil
}

// dialProvider connects to a provider, which must be a service of the mesh.
func (w *Waypoint) dialProvider(ctx context.Context, service string, port uint16) (net.Conn, error) {
	c, ok, err := w.dialMesh(ctx, service, port, nil)
	if !ok {
		return nil, fmt.Errorf("there is no service %q in the mesh", service)
	}
	return c, err
}
