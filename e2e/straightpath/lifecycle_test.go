package straightpath

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/ztunnel"
)

// prefetch_forget_certs. The certificate of a pod is there before its first
// connection, and forgotten when the last pod of its identity has gone.
func TestPrefetchForgetCerts(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	a, b := m.pod(n1, "a"), m.pod(n1, "b")
	for _, p := range []*pod{a, b} {
		p.account = "shared"
		p.tell(false)
		p.enrol()
	}
	state := func() string {
		for _, c := range n1.z.dump(t).Certificates {
			if strings.HasSuffix(c.Identity, "/sa/shared") {
				return c.State
			}
		}
		return "none"
	}
	want := func(what, want string) {
		t.Helper()
		eventually(t, what, func() error {
			if got := state(); got != want {
				return fmt.Errorf("it is %q, want %q", got, want)
			}
			return nil
		})
	}
	want("certificate without a connection", "Available")
	a.leave()
	want("certificate while another pod needs it", "Available")
	b.leave()
	want("certificate after the last pod", "none")
}

// Certificates are renewed under a running transfer: nothing is lost, and what
// is new uses the new one.
func TestCertificateRotationUnderTransfer(t *testing.T) {
	for _, hop := range []string{"local", "tunnel"} {
		t.Run(hop, func(t *testing.T) {
			m := newMesh(t)
			short := func(c *ztunnel.Config) { c.CA.SecretTTL, c.Tunnel.EncryptLocal = 4*time.Second, hop == "tunnel" }
			n1 := m.node("n1", short)
			client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
			server.echo(80)
			c := client.connect(server.addr(80))
			first := n1.z.serials(t)
			eventually(t, "both certificates were renewed twice", func() error {
				c.wantEcho(fmt.Sprint(rand.Uint64()))
				n := client.connect(server.addr(80))
				n.wantEcho("new connection")
				n.Close()
				now := n1.z.serials(t)
				for id, s := range first {
					if now[id] == s {
						return fmt.Errorf("%s has its first certificate", id)
					}
				}
				return nil
			})
			if cut := n1.z.log.access(`error="`); len(cut) > 0 {
				t.Errorf("connections broke: %s", cut)
			}
		})
	}
}

// serials are the serial numbers of the certificates, by identity.
func (p *proxy) serials(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, c := range p.dump(t).Certificates {
		if len(c.Chain) > 0 {
			out[c.Identity] = c.Chain[0].Serial
		}
	}
	return out
}

// The control plane is away: what lives goes on, what is new works, and a new
// pod may call others because the agent has told of it.
func TestControlPlaneAway(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	client, server, outside := m.enrolled(n1, "client"), m.enrolled(n1, "server"), m.pod(nil, "outside")
	server.echo(80)
	outside.echo(80)
	live := client.connect(server.addr(80))
	live.wantEcho("before")
	m.stopControlPlane()

	live.wantEcho("goes on")
	client.connect(server.addr(80)).wantEcho("new")
	fresh := m.pod(nil, "fresh")
	fresh.n = n1
	fresh.add()
	fresh.connect(outside.addr(80)).wantEcho("the agent's word is enough to call others")
	n1.z.wantAccess(t, `direction="outbound"`, `src.workload="fresh"`, "connection opened")

	m.startControlPlane(m.address)
	fresh.tell(true)
	m.settled(fresh)
	fresh.connect(server.addr(80)).wantEcho("caught up")
	n1.z.wantAccess(t, `direction="inbound"`, `src.workload="fresh"`, `sa/fresh`)
}

// restart ends the node's ztunnel, and returns when another one listens in the pods.
func (n *node) restart() {
	n.m.t.Helper()
	n.z.stop()
	<-n.z.done
	n.z = n.start()
	eventually(n.m.t, "the next ztunnel listens", func() error {
		if len(n.z.log.with("pod is served")) < len(n.snapshot()) {
			return errors.New("it does not")
		}
		return nil
	})
}

// A ztunnel that is new while the control plane is away knows nobody: what it is
// asked to carry waits, and nothing is sent in the clear.
func TestNothingInTheClearBeforeTheFirstPicture(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1", func(c *ztunnel.Config) { c.Drain = time.Millisecond })
	client, server := m.enrolled(n1, "client"), m.pod(n1, "outside")
	var called atomic.Int64
	server.serve(80, func(c *net.TCPConn) {
		called.Add(1)
		fmt.Fprintln(c, "hello")
	})
	client.connect(server.addr(80)) // outside the mesh, and called in the clear
	m.stopControlPlane()
	n1.restart()
	connected := make(chan error)
	go func() {
		_, err := client.tryConnect(server.addr(80))
		connected <- err
	}()
	m.startControlPlane(m.address)
	if err := <-connected; err != nil {
		t.Errorf("a connection that began before the picture came: %v", err)
	}

	// And when it does not come in time.
	before := called.Load()
	m.stopControlPlane()
	n1.restart()
	start := time.Now()
	client.wantRefused(server.addr(80))
	if took := time.Since(start); took < 4*time.Second || took > 8*time.Second {
		t.Errorf("refused after %v, want 5s", took)
	}
	if now := called.Load(); now != before {
		t.Errorf("the server was called %d times by a proxy that does not know whom it calls", now-before)
	}
	n1.z.wantAccess(t, "the control plane has not told who is in the mesh")
	m.startControlPlane(m.address) // whose end the test waits for
}

// A pod that the control plane does not know gets nothing in: the caller waits,
// and is refused after 5 s.
func TestUnknownPodTakesNothingIn(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	outside, fresh := m.pod(nil, "outside"), m.pod(nil, "fresh")
	fresh.n = n1
	fresh.echo(80)
	fresh.add()
	start := time.Now()
	outside.wantRefused(fresh.addr(80))
	if took := time.Since(start); took < 4*time.Second || took > 8*time.Second {
		t.Errorf("refused after %v, want 5s", took)
	}
	n1.z.wantAccess(t, "the control plane does not know this pod")
	// One that becomes known in time lets the caller in.
	told := time.AfterFunc(time.Second, func() { fresh.tell(true) })
	defer told.Stop()
	outside.connect(fresh.addr(80)).wantEcho("just in time")
}

// A second ztunnel takes over from the first while both have the pods' ports: no
// connection is lost, new or old.
func TestTwoZtunnelsOverlap(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1", func(c *ztunnel.Config) { c.Drain = time.Hour })
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	old := client.connect(server.addr(80))

	stop, done := make(chan struct{}), make(chan int)
	for range 4 {
		go func() {
			made := 0
			defer func() { done <- made }()
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := client.tryConnect(server.addr(80))
				if err != nil {
					t.Errorf("connection %d was lost: %v", made, err)
					return
				}
				c.Close()
				made++
			}
		}()
	}
	first := n1.z
	n1.z = n1.start()
	n1.z.ready(t)
	first.stop()
	eventually(t, "the second one carries connections", func() error {
		if n := len(n1.z.log.access(`direction="outbound"`, "connection complete")); n < 100 {
			return fmt.Errorf("%d so far", n)
		}
		return nil
	})
	close(stop)
	for range 4 {
		if made := <-done; made == 0 {
			t.Error("no connection was made: this test has shown nothing")
		}
	}
	old.wantEcho("the first one still carries what it has")
	old.Close()
	<-first.done
}

// ztunnel is killed and comes back: pods work again by the agent's snapshot.
func TestZtunnelRestart(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1", func(c *ztunnel.Config) { c.Drain = time.Millisecond })
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	c := client.connect(server.addr(80))
	n1.z.stop()
	c.wantReset()
	<-n1.z.done
	start := time.Now()
	n1.z = n1.start()
	eventually(t, "pods work again", func() error {
		c, err := client.tryConnect(server.addr(80))
		if err == nil {
			c.wantEcho("again")
		}
		return err
	})
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("pods work again after %v, want within 2s", took)
	}
}

// An application has taken a port of the mesh in its pod: the agent is told, we
// are not ready, and the pod is tried again until it works.
func TestBindConflictInPod(t *testing.T) {
	for _, port := range []uint16{15001, 15006, 15008, 15053} {
		t.Run(fmt.Sprint(port), func(t *testing.T) {
			t.Parallel()
			m := newMesh(t)
			n1 := m.node("n1")
			client, server := m.pod(n1, "client"), m.pod(n1, "server")
			server.echo(80)
			squatter := client.squat(t, port)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			applyRules(t, client.ns)
			if err := n1.agent.Add(ctx, client.zds()); err == nil || !strings.Contains(err.Error(), "address already in use") {
				t.Fatalf("the agent was told %v, want that the address is in use", err)
			}
			if pending := n1.z.Ready(); len(pending) != 1 || !strings.Contains(pending[0], "shop/client") {
				t.Errorf("pending: %q, want the pod", pending)
			}
			if n := n1.z.metric(t, "workload_manager_pending_proxy_count"); n != 1 {
				t.Errorf("%v pending pods in the metrics, want 1", n)
			}
			squatter.Close()
			n1.z.ready(t)
			client.connect(server.addr(80)).wantEcho("served after all")
		})
	}
}

// squat listens on a port of the mesh, alone.
func (p *pod) squat(t *testing.T, port uint16) net.Listener {
	t.Helper()
	l, err := p.ns.Listen(t.Context(), "tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), port),
		netns.SocketOptions{NoMark: true, Exclusive: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// The admin port is taken: no start.
func TestBindConflictOfAdmin(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log, err := telemetry.NewLogger(telemetry.LogConfig{}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{"admin", "stats", "readiness"} {
		cfg := ztunnel.Config{
			XDS:    ztunnel.Upstream{Address: "https://127.0.0.1:1", RootCA: "SYSTEM"},
			CA:     ztunnel.Upstream{Address: "https://127.0.0.1:1", RootCA: "SYSTEM"},
			Listen: ztunnel.Listen{Admin: "127.0.0.1:0", Stats: "127.0.0.1:0", Readiness: "127.0.0.1:0"},
		}
		switch where {
		case "admin":
			cfg.Listen.Admin = l.Addr().String()
		case "stats":
			cfg.Listen.Stats = l.Addr().String()
		default:
			cfg.Listen.Readiness = l.Addr().String()
		}
		z, err := ztunnel.New(cfg, ztunnel.Deps{Log: log})
		if err != nil {
			t.Fatal(err)
		}
		err = z.Run(t.Context())
		for _, word := range []string{l.Addr().String(), "address already in use", strings.ToUpper(where) + "_ADDR"} {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: Run = %v, want it to say %q", where, err, word)
			}
		}
	}
}

// Readiness comes with the first picture and the first snapshot, and goes with
// the agent.
func TestReadinessTransitions(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	if got := n1.z.get(t, "readiness", "/healthz/ready"); got != "ready\n" {
		t.Errorf("readiness says %q, want ready", got)
	}
	// A pod that cannot be served is named until it can, or is gone.
	p := m.pod(n1, "stuck")
	squatter := p.squat(t, 15008)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := n1.agent.Add(ctx, p.zds()); err == nil {
		t.Error("the pod is served although its port is taken")
	}
	if got := n1.z.get(t, "readiness", "/healthz/ready"); !strings.Contains(got, "shop/stuck") {
		t.Errorf("readiness says %q, want the pod that is not served", got)
	}
	if err := n1.agent.Del(ctx, p.uid); err != nil {
		t.Fatal(err)
	}
	squatter.Close()
	n1.z.ready(t)
	// Before there is a control plane, both first lists are missing.
	early := n1.build(n1.config())
	for _, task := range []string{"control plane", "CNI agent"} {
		if pending := strings.Join(early.Ready(), ", "); !strings.Contains(pending, task) {
			t.Errorf("before it runs %q is pending, want %s too", pending, task)
		}
	}
	early.Close()
	n1.stopAgent()
	eventually(t, "not ready without the agent", func() error {
		if got := n1.z.get(t, "readiness", "/healthz/ready"); !strings.Contains(got, "CNI agent") {
			return fmt.Errorf("readiness says %q", got)
		}
		return nil
	})
}

// Much data, both ways at once, arrives as it was sent, on every path.
func TestBulkBothWays(t *testing.T) {
	for _, path := range []string{"local", "tunnel", "plaintext", "passthrough"} {
		t.Run(path, func(t *testing.T) {
			client, server := pairOn(t, path)
			const size = 32 << 20
			sum := func(seed uint64) (io.Reader, [32]byte) {
				data := make([]byte, size)
				src := rand.NewChaCha8([32]byte{byte(seed)})
				_, _ = src.Read(data)
				return strings.NewReader(string(data)), sha256.Sum256(data)
			}
			up, upSum := sum(1)
			down, downSum := sum(2)
			got := make(chan [32]byte, 1)
			server.serve(80, func(c *net.TCPConn) {
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, _ = io.Copy(c, down)
					_ = c.CloseWrite()
				}()
				h := sha256.New()
				_, _ = io.Copy(h, c)
				<-done
				got <- [32]byte(h.Sum(nil))
			})
			c, err := client.dial(server.addr(80))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = io.Copy(c, up)
				_ = c.CloseWrite()
			}()
			h := sha256.New()
			if _, err := io.Copy(h, c); err != nil {
				t.Errorf("read: %v", err)
			}
			<-done
			if [32]byte(h.Sum(nil)) != downSum {
				t.Error("what the client got is not what the server sent")
			}
			if <-got != upSum {
				t.Error("what the server got is not what the client sent")
			}
		})
	}
}
