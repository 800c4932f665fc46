package straightpath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ambit-mesh/ambit/internal/meshapi/caapi"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/ambit-mesh/ambit/istiod-lite/ca"
	"github.com/ambit-mesh/ambit/ztunnel"
)

// workloads is who may ask the CA for itself: the service account of each token
// "workload NAME". Nobody may ask for others.
type workloads struct{ m *mesh }

func (w workloads) Authenticate(ctx context.Context) (ca.Caller, error) {
	token, err := ca.Bearer(ctx)
	if err != nil {
		return ca.Caller{}, err
	}
	account, ok := strings.CutPrefix(token, "workload-")
	if !ok {
		return ca.Caller{}, errors.New("unknown")
	}
	return ca.Caller{Identity: mustID(w.m.t, "cluster.local", "shop", account), Name: token}, nil
}

func (workloads) PodsOnNode(context.Context, string, bool) ([]ca.Pod, error) { return nil, nil }

// workloadCA serves certificates to workloads that ask for themselves, with the
// key of the mesh. It returns its address.
func (m *mesh) workloadCA() string {
	m.t.Helper()
	authority, err := ca.Open(ca.Config{Dir: m.caDir, TrustDomain: "cluster.local"}, zap.NewNop())
	if err != nil {
		m.t.Fatal(err)
	}
	serving, err := authority.Serving([]string{"127.0.0.1"})
	if err != nil {
		m.t.Fatal(err)
	}
	who := workloads{m}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(serving.TLS())))
	caapi.RegisterIstioCertificateServiceServer(server, ca.NewService(ca.Deps{
		Authority: authority, Authenticator: who, Pods: who, Log: zap.NewNop(),
		Metrics: ca.NewMetrics(prometheus.NewRegistry(), authority),
	}))
	var lc net.ListenConfig
	l, err := lc.Listen(m.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(l); err != nil {
			m.t.Errorf("CA of workloads: %v", err)
		}
	})
	m.t.Cleanup(func() { server.Stop(); wg.Wait() })
	return l.Addr().String()
}

// dedicatedConfig is that of a ztunnel for p alone. There is no socket of an
// agent.
func (p *pod) dedicatedConfig(caAddr string) ztunnel.Config {
	cfg := p.n.config()
	cfg.Dedicated = ztunnel.Workload{Namespace: p.namespace, Name: p.name, ServiceAccount: p.account}
	cfg.CA.Address, cfg.CA.Token = "https://"+caAddr, "workload-"+p.account
	cfg.Capture.ZDSSocket = filepath.Join(p.m.t.TempDir(), "none.sock")
	cfg.Listen = ztunnel.Listen{} // the ports of every ztunnel: here they are free
	return cfg
}

// dedicated makes a pod with a ztunnel of its own, inside its namespace.
func (m *mesh) dedicated(name, caAddr string, tune ...func(*ztunnel.Config)) *pod {
	m.t.Helper()
	p := m.pod(nil, name)
	p.n = &node{m: m, name: "n1", ns: p.ns}
	p.tell(true)
	p.n.z = p.n.start(append([]func(*ztunnel.Config){func(c *ztunnel.Config) {
		*c = p.dedicatedConfig(caAddr)
		c.Capture.Mark = ztunnel.DefaultMark // the rules here know the proxy by it
	}}, tune...)...)
	applyRules(m.t, p.ns)
	p.n.z.ready(m.t)
	return p
}

// knows waits until the ztunnel of p knows that other takes tunnels.
func (p *pod) knows(other *pod) {
	p.m.t.Helper()
	eventually(p.m.t, p.name+" knows "+other.name, func() error {
		for _, w := range p.n.z.dump(p.m.t).Workloads {
			if strings.Contains(w.UID, other.name) && w.Protocol == "HBONE" {
				return nil
			}
		}
		return errors.New("not yet")
	})
}

// local_captured_dedicated. Client and server each with a ztunnel of its own.
func TestLocalCapturedDedicated(t *testing.T) {
	m := newMesh(t)
	addr := m.workloadCA()
	client, server := m.dedicated("client", addr), m.dedicated("server", addr)
	client.knows(server)
	server.knows(client)
	server.echo(80)
	wantCarried(t, client, server, client.n, server.n, "tunnel")
	if n := client.n.z.metric(t, "workload_manager_active_proxy_count"); n != 1 {
		t.Errorf("%v pods are served, want one", n)
	}
}

// server_uncaptured_dedicated. A captured client to a server outside the mesh.
func TestServerUncapturedDedicated(t *testing.T) {
	m := newMesh(t)
	client, server := m.dedicated("client", m.workloadCA()), m.pod(nil, "server")
	server.echo(80)
	c := client.connect(server.addr(80))
	if want := "server sees " + client.ip.String(); c.hello != want {
		t.Errorf("the server said %q, want %q", c.hello, want)
	}
	c.wantEcho("over plain TCP")
	c.Close()
	client.n.z.wantAccess(t, `direction="outbound"`, `src.workload="client"`, "dst.addr="+server.addr(80).String(), `hop="direct"`)
}

// client_uncaptured_dedicated. A client outside the mesh to a captured server.
func TestClientUncapturedDedicated(t *testing.T) {
	m := newMesh(t)
	client, server := m.pod(nil, "client"), m.dedicated("server", m.workloadCA())
	server.echo(80)
	c := client.connect(server.addr(80))
	if want := "server sees " + client.ip.String(); c.hello != want {
		t.Errorf("the server said %q, want %q", c.hello, want)
	}
	c.wantEcho("in plaintext")
	c.Close()
	line := server.n.z.wantAccess(t, `direction="inbound"`, `dst.workload="server"`, "src.addr="+client.ip.String())
	if strings.Contains(line, "identity") {
		t.Errorf("an identity in the record of plaintext: %s", line)
	}
}

// A dedicated ztunnel marks nothing unless it is told to; without rules around it
// the application is called by the pod itself.
func TestDedicatedHasNoMark(t *testing.T) {
	for _, marked := range []bool{false, true} {
		t.Run(fmt.Sprintf("marked=%v", marked), func(t *testing.T) {
			m := newMesh(t)
			server, client := m.pod(nil, "server"), m.pod(nil, "client")
			server.n = &node{m: m, name: "n1", ns: server.ns}
			server.tell(true)
			server.echo(80)
			server.rejectMarked(t)
			server.n.z = server.n.start(func(c *ztunnel.Config) {
				*c = server.dedicatedConfig(m.workloadCA())
				c.Capture.Source = ztunnel.SourceNever
				if marked {
					c.Capture.Mark = ztunnel.DefaultMark
				}
			})
			server.n.z.ready(t)
			tunnel := client.tunnel(m.forge(mustID(t, "cluster.local", "shop", "client"), time.Now().Add(time.Hour)), server)
			if marked {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := tunnel.pool.Ensure(ctx, tunnel.target); err == nil {
					t.Error("a tunnel stands in spite of the mark: this test shows nothing")
				}
				return
			}
			s, err := tunnel.open(server.addr(80).String())
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			buf := make([]byte, 100)
			n, err := s.Read(buf)
			if want := "server sees " + server.ip.String() + "\n"; err != nil || string(buf[:n]) != want {
				t.Errorf("the server said %q, %v; want %q", buf[:n], err, want)
			}
		})
	}
}

// rejectMarked makes p refuse what leaves it with the mark of the mesh.
func (p *pod) rejectMarked(t *testing.T) {
	t.Helper()
	netnstest.Do(t, p.ns, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "nomark"})
		chain := c.AddChain(&nftables.Chain{
			Name: "output", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(ztunnel.DefaultMark)},
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
		}})
		return c.Flush()
	})
}

// A port of the mesh is taken in the only pod: no start, and the error says
// where and what to do.
func TestBindConflictDedicated(t *testing.T) {
	for _, port := range []uint16{15001, 15006, 15008} {
		t.Run(fmt.Sprint(port), func(t *testing.T) {
			m := newMesh(t)
			p := m.pod(nil, "server")
			p.n = &node{m: m, name: "n1", ns: p.ns}
			p.squat(t, port)
			err := p.n.build(p.dedicatedConfig("127.0.0.1:1")).run(t.Context())
			for _, word := range []string{fmt.Sprint(port), "address already in use", "stop what listens there"} {
				if err == nil || !strings.Contains(err.Error(), word) {
					t.Errorf("Run = %v, want it to say %q", err, word)
				}
			}
		})
	}
}
