package straightpath

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/ztunnel"
)

// selfNode starts a node whose ztunnel is a pod of its own, known to the control
// plane.
func (m *mesh) selfNode(name string) (*node, *pod) {
	m.t.Helper()
	self := m.pod(nil, "ztunnel-"+name)
	self.namespace, self.account = "istio-system", "ztunnel"
	self.n = &node{m: m, name: name}
	self.tell(true)
	n := m.nodeIn(self.ns, name, func(c *ztunnel.Config) {
		c.Node.ServiceAccount = self.account
		c.Listen = ztunnel.Listen{} // as in a cluster
	})
	self.n = n
	m.settled(self)
	return n, self
}

// scrape reads the metrics of a ztunnel from inside p, by its address.
func (p *pod) scrape(addr netip.AddrPort) (string, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return p.dial(addr) },
	}}
	req, err := http.NewRequestWithContext(p.m.t.Context(), http.MethodGet, "http://"+addr.String()+"/metrics", nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return string(text), err
}

// hbone_metrics_access. The metrics of ztunnel are scraped through the mesh, on
// the same node and from another one, and in plaintext.
func TestHBONEMetricsAccess(t *testing.T) {
	m := newMesh(t)
	n1, self := m.selfNode("n1")
	n2 := m.node("n2")
	near, far, outside := m.enrolled(n1, "near"), m.enrolled(n2, "far"), m.pod(nil, "outside")
	m.settled(self)
	for _, tt := range []struct {
		from *pod
		hop  string // how it comes in; empty: not through ztunnel
	}{{near, "local"}, {far, "tunnel"}, {outside, ""}} {
		t.Run(tt.from.name, func(t *testing.T) {
			text, err := tt.from.scrape(self.addr(15020))
			if err != nil || !strings.Contains(text, "istio_build{") {
				t.Fatalf("scraped %d bytes, %v; want metrics", len(text), err)
			}
			if tt.hop != "" {
				n1.z.wantAccess(t, `direction="inbound"`, `src.identity="spiffe://cluster.local/ns/shop/sa/`+tt.from.name+`"`,
					`dst.identity="spiffe://cluster.local/ns/istio-system/sa/ztunnel"`, `hop="`+tt.hop+`"`, "connection complete")
			}
		})
	}
	if n := n1.z.metric(t, "workload_manager_active_proxy_count"); n != 1 {
		t.Errorf("%v pods are served, want near alone: our own pod is none of them", n)
	}
}

// Nothing but the metrics is reached through the tunnel to ztunnel: not the
// administration, not readiness, not its own tunnel port.
func TestSelfInboundShowsMetricsOnly(t *testing.T) {
	m := newMesh(t)
	n1, self := m.selfNode("n1")
	near, outside := m.enrolled(n1, "near"), m.pod(nil, "outside")
	m.settled(self)
	cert := m.forge(mustID(t, "cluster.local", "shop", "near"), time.Now().Add(time.Hour))
	c := outside.tunnel(cert, self)
	accept := []identity.ID{mustID(t, "cluster.local", "istio-system", "ztunnel")}
	c.target.TLS = func(context.Context) (*tls.Config, error) { return identity.ClientTLS(cert, accept), nil }
	c.wantStatus(self.addr(15020).String(), 200)
	for _, port := range []uint16{15000, 15021, 15008, 15001, 80} {
		c.wantStatus(self.addr(port).String(), 503)
	}
	c.wantStatus("127.0.0.1:15000", 400)
	for _, port := range []uint16{15000, 15021} {
		if got, err := near.ask(t, self.addr(port)); got != "" {
			t.Errorf("port %d answered %q, %v through the mesh", port, got, err)
		}
	}
	n1.z.wantAccess(t, "port 15000 of this pod is not open to the mesh")
}

// The tunnel port of our own pod is taken: no start.
func TestBindConflictOfSelfInbound(t *testing.T) {
	m := newMesh(t)
	self := m.pod(nil, "ztunnel-n1")
	n := &node{m: m, name: "n1", ns: self.ns}
	self.squat(t, 15008)
	cfg := n.config()
	cfg.Node.ServiceAccount = "ztunnel"
	err := n.build(cfg).run(t.Context())
	for _, word := range []string{"15008", "address already in use", "SERVICE_ACCOUNT"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("Run = %v, want it to say %q", err, word)
		}
	}
}
