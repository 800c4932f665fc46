package straightpath

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel"
)

// encrypted makes a ztunnel that takes no local path.
func encrypted(c *ztunnel.Config) { c.Tunnel.EncryptLocal = true }

// local_captured_inpod. One node, both captured: socket to socket, recorded as
// local by both ends.
func TestLocalCapturedInPod(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	wantCarried(t, client, server, n1, n1, "local")
	if n := n1.z.metric(t, "istio_tcp_connections_opened_total", `connection_security_policy="mutual_tls"`); n != 2 {
		t.Errorf("%v connections counted by both reporters, want 2", n)
	}
	for _, reporter := range []string{"source", "destination"} {
		eventually(t, "bytes counted by "+reporter, func() error {
			sent := n1.z.metric(t, "istio_tcp_received_bytes_total", `reporter="`+reporter+`"`)
			if sent != float64(len(carriedText)) {
				return fmt.Errorf("%v bytes from the client, want %d", sent, len(carriedText))
			}
			return nil
		})
	}
}

// The same with the local path switched off: through a tunnel.
func TestLocalCapturedEncrypted(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1", encrypted)
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	wantCarried(t, client, server, n1, n1, "tunnel")
}

// cross_node_captured_inpod. Two nodes, both captured: HBONE between two
// ztunnels.
func TestCrossNodeCapturedInPod(t *testing.T) {
	m := newMesh(t)
	n1, n2 := m.node("n1"), m.node("n2")
	client, server := m.enrolled(n1, "client"), m.enrolled(n2, "server")
	server.echo(80)
	wantCarried(t, client, server, n1, n2, "tunnel")
}

const carriedText = "carried by the mesh"

// wantCarried wants a connection from client to server to work, both ends to
// know who is who, and the server to see the client's address.
func wantCarried(t *testing.T, client, server *pod, from, to *node, hop string) {
	t.Helper()
	c := client.connect(server.addr(80))
	if want := "server sees " + client.ip.String(); c.hello != want {
		t.Errorf("the server said %q, want %q", c.hello, want)
	}
	c.wantEcho(carriedText)
	c.Close()
	who := []string{
		`src.identity="spiffe://cluster.local/ns/shop/sa/client"`, `dst.identity="spiffe://cluster.local/ns/shop/sa/server"`,
		`src.workload="client"`, `dst.workload="server"`, `hop="` + hop + `"`, "connection complete",
	}
	from.z.wantAccess(t, append(who, `direction="outbound"`, fmt.Sprintf("bytes_sent=%d", len(carriedText)))...)
	to.z.wantAccess(t, append(who, `direction="inbound"`, fmt.Sprintf("bytes_recv=%d", len(carriedText)))...)
}

// server_uncaptured_inpod. A captured client to a server outside the mesh: plain
// TCP.
func TestServerUncapturedInPod(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	client, server := m.enrolled(n1, "client"), m.pod(n1, "server")
	server.echo(80)

	c := client.connect(server.addr(80))
	if want := "server sees " + client.ip.String(); c.hello != want {
		t.Errorf("the server said %q, want %q", c.hello, want)
	}
	c.wantEcho("over plain TCP")
	c.Close()
	n1.z.wantAccess(t, `direction="outbound"`, `src.workload="client"`, "dst.addr="+server.addr(80).String(), `hop="direct"`)
}

// client_uncaptured_inpod. A client outside the mesh to a captured server:
// plaintext, by way of 15006.
func TestClientUncapturedInPod(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	client, server := m.pod(nil, "client"), m.enrolled(n1, "server")
	server.echo(80)

	c := client.connect(server.addr(80))
	if want := "server sees " + client.ip.String(); c.hello != want {
		t.Errorf("the server said %q, want %q", c.hello, want)
	}
	c.wantEcho("in plaintext")
	c.Close()
	line := n1.z.wantAccess(t, `direction="inbound"`, `dst.workload="server"`, "src.addr="+client.ip.String())
	if strings.Contains(line, "identity") {
		t.Errorf("an identity in the record of plaintext: %s", line)
	}
}

// service_loadbalancing. The address of a service leads to all of its endpoints,
// here and elsewhere.
func TestServiceLoadBalancing(t *testing.T) {
	m := newMesh(t)
	n1, n2 := m.node("n1"), m.node("n2")
	client := m.enrolled(n1, "client")
	for name, n := range map[string]*node{"here": n1, "there": n2} {
		p := m.pod(n, name)
		p.labels = "app: web"
		p.enrol()
		p.echo(8080)
	}
	vip := m.service("web", 80, "8080", 2)
	seen := map[string]int{}
	eventually(t, "both endpoints answer", func() error {
		c, err := client.tryConnect(vip)
		if err != nil {
			return err
		}
		name, _, _ := strings.Cut(c.hello, " ")
		seen[name]++
		c.Close()
		if len(seen) < 2 {
			return fmt.Errorf("answers: %v", seen)
		}
		return nil
	})
	n1.z.wantAccess(t, `dst.service="web.shop.svc.cluster.local"`, `dst.workload="here"`, `direction="outbound"`)
	n1.z.wantAccess(t, `dst.service="web.shop.svc.cluster.local"`, `dst.workload="there"`, `direction="outbound"`)
	n2.z.wantAccess(t, `dst.service="web.shop.svc.cluster.local"`, `direction="inbound"`)
}

// An endpoint that refuses TCP costs a try, not the connection.
func TestRetryOnAnotherEndpoint(t *testing.T) {
	m := newMesh(t)
	n1, n2 := m.node("n1"), m.node("n2")
	client := m.enrolled(n1, "client")
	for name, n := range map[string]*node{"good": n1, "dead": n2} {
		p := m.pod(n, name)
		p.labels = "app: web"
		p.enrol()
		if name == "good" {
			p.echo(8080)
		}
	}
	vip := m.service("web", 80, "8080", 2)
	for range 20 { // the dead one is chosen first by every second
		c := client.connect(vip)
		c.wantEcho("alive")
		c.Close()
	}
	if n := n2.z.metric(t, "istio_tcp_connections_failed_total"); n == 0 {
		t.Error("the dead endpoint was never tried: this test has shown nothing")
	}
	if n := n1.z.metric(t, "istio_tcp_connections_failed_total", `reporter="source"`); n != 0 {
		t.Errorf("%v connections of the client failed, want 0", n)
	}
}

// While no endpoint is healthy, a connection waits a moment for one: it is not long
// before a kubelet says otherwise, when all pods are called not ready by mistake.
func TestWaitsForAHealthyEndpoint(t *testing.T) {
	m := newMesh(t)
	n1, n2 := m.node("n1"), m.node("n2")
	client := m.enrolled(n1, "client")
	server := m.pod(n2, "server")
	server.labels = "app: web"
	server.enrol()
	server.echo(8080)
	vip := m.service("web", 80, "8080", 1)
	ill := func(now bool) {
		server.ill = now
		server.tell(true)
	}
	ill(true)
	eventually(t, "connections are refused", func() error {
		c, err := client.tryConnect(vip)
		if err == nil {
			c.Close()
			return errors.New("answered")
		}
		return nil
	})
	start := time.Now()
	client.wantRefused(vip)
	if took := time.Since(start); took < time.Second {
		t.Errorf("a connection was refused after %v, and did not wait", took)
	}
	c, err := client.dial(vip) // the proxy has it
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ill(false)
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("an endpoint has become healthy while a connection waited: %v", err)
	}
}

// An endpoint that does not answer at all costs seconds, and not what TCP would wait
// for it; with no other there it has that time.
func TestRetryOnAnotherEndpointAfterSilence(t *testing.T) {
	m := newMesh(t)
	n1, n2 := m.node("n1"), m.node("n2")
	client := m.enrolled(n1, "client")
	pods := map[string]*pod{}
	for name, n := range map[string]*node{"good": n1, "silent": n2} {
		p := m.pod(n, name)
		p.labels = "app: web"
		p.enrol()
		p.echo(8080)
		pods[name] = p
	}
	vip := m.service("web", 80, "8080", 2)
	silent := pods["silent"]
	silent.ignore(t, client.ip, workload.HBONEPort)
	slow := 0
	for start := time.Now(); slow == 0 && time.Since(start) < patience; { // it is chosen first by every second
		begin := time.Now()
		c := client.connect(vip)
		took := time.Since(begin)
		c.wantEcho("alive")
		c.Close()
		if took > 8*time.Second { // of 10 s that a connect may take
			t.Errorf("a connection was answered after %v", took)
		}
		if took > time.Second {
			slow++
		}
	}
	if slow == 0 {
		t.Error("the silent endpoint was never tried: this test has shown nothing")
	}

	// Called by its own address there is no other.
	answered := make(chan error, 1)
	var calling sync.WaitGroup
	calling.Go(func() {
		c, err := client.tryConnect(silent.addr(8080))
		if err == nil {
			c.Close()
		}
		answered <- err
	})
	defer calling.Wait()
	select {
	case err := <-answered:
		t.Errorf("a silent endpoint was given up at once: %v", err)
	case <-time.After(3 * time.Second): // past what it has when another is there
	}
	silent.unfilter(t)
	if err := <-answered; err != nil {
		t.Errorf("the only endpoint was late, and was not waited for: %v", err)
	}
}

// ztunnel_shutdown. A graceful stop: what lives goes on until the deadline, new
// ones are refused.
func TestZtunnelShutdown(t *testing.T) {
	for _, hop := range []string{"local", "tunnel"} {
		t.Run(hop, func(t *testing.T) {
			m := newMesh(t)
			tune := func(c *ztunnel.Config) { c.Drain, c.Tunnel.EncryptLocal = 2*time.Second, hop == "tunnel" }
			n1 := m.node("n1", tune)
			client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
			server.echo(80)
			c := client.connect(server.addr(80))
			start := time.Now()
			n1.z.stop()
			eventually(t, "new connections are refused", func() error {
				if c, err := client.tryConnect(server.addr(80)); err == nil {
					c.Close()
					return errors.New("connected")
				}
				return nil
			})
			c.wantEcho("still here")
			c.wantReset()
			<-n1.z.done
			if took := time.Since(start); took < time.Second || took > 4*time.Second {
				t.Errorf("the end came after %v, want the deadline of 2s", took)
			}
			n1.z.wantAccess(t, "outlived its grace period")
		})
	}
}

// Shutdown does not wait for longer than connections live.
func TestDrainEndsWithTheLastConnection(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1", func(c *ztunnel.Config) { c.Drain = time.Hour })
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	c := client.connect(server.addr(80))
	n1.z.stop()
	c.wantEcho("during the drain")
	c.Close()
	select {
	case <-n1.z.done:
	case <-time.After(patience):
		t.Fatal("ztunnel waits although no connection is left")
	}
}

// Quit by the admin port ends the process politely.
func TestQuitByAdmin(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	n1.z.post(t, "/quitquitquit")
	select {
	case <-n1.z.done:
	case <-time.After(patience):
		t.Fatal("ztunnel goes on")
	}
}

// server_shutdown. The destination pod goes: its connections end at once, by
// reset.
func TestServerShutdown(t *testing.T) {
	for _, hop := range []string{"local", "tunnel", "plaintext"} {
		t.Run(hop, func(t *testing.T) {
			m := newMesh(t)
			n1 := m.node("n1")
			from := n1
			if hop == "tunnel" {
				from = m.node("n2")
			}
			server := m.enrolled(n1, "server")
			client := m.pod(from, "client")
			if hop != "plaintext" {
				client.enrol()
			}
			server.echo(80)
			c := client.connect(server.addr(80))
			c.wantEcho("alive")
			start := time.Now()
			server.leave()
			c.wantReset()
			if took := time.Since(start); took > time.Second {
				t.Errorf("cut after %v, want at once", took)
			}
			n1.z.wantAccess(t, `direction="inbound"`, "removed from the mesh")
		})
	}
}

// Half-close is kept: who says FIN first still gets the answer.
func TestHalfClose(t *testing.T) {
	for _, path := range []string{"local", "tunnel", "plaintext", "passthrough"} {
		t.Run(path, func(t *testing.T) {
			client, server := pairOn(t, path)
			server.serve(80, func(c *net.TCPConn) {
				all, err := io.ReadAll(c)
				if err == nil {
					fmt.Fprintf(c, "got %d bytes", len(all))
				}
			})
			c, err := client.dial(server.addr(80))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			text := strings.Repeat("x", 300_000)
			if _, err := io.WriteString(c, text); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(c)
			if want := "got 300000 bytes"; err != nil || string(answer) != want {
				t.Errorf("answer %q, %v; want %q and a clean end", answer, err, want)
			}
		})
	}
}

// A reset stays a reset, in both directions and on all paths.
func TestResetStaysReset(t *testing.T) {
	for _, path := range []string{"local", "tunnel", "plaintext", "passthrough"} {
		t.Run(path+"/by the server", func(t *testing.T) {
			client, server := pairOn(t, path)
			server.serve(80, func(c *net.TCPConn) {
				if _, err := io.WriteString(c, "bye\n"); err != nil {
					return
				}
				_, _ = c.Read(make([]byte, 1))
				_ = c.SetLinger(0)
			})
			c := client.connect(server.addr(80))
			if _, err := io.WriteString(c, "x"); err != nil {
				t.Fatal(err)
			}
			c.wantReset()
		})
		t.Run(path+"/by the client", func(t *testing.T) {
			client, server := pairOn(t, path)
			seen := make(chan error, 1)
			server.serve(80, func(c *net.TCPConn) {
				_, err := io.WriteString(c, "hello\n")
				if err == nil {
					_, err = c.Read(make([]byte, 1))
				}
				seen <- err
			})
			c := client.connect(server.addr(80))
			if err := c.SetLinger(0); err != nil {
				t.Fatal(err)
			}
			c.Close()
			select {
			case err := <-seen:
				if !isReset(err) {
					t.Errorf("the server saw %v, want a reset", err)
				}
			case <-time.After(patience):
				t.Error("the server saw nothing")
			}
		})
	}
}

// pairOn makes a client and a server that meet on the path of that name.
func pairOn(t *testing.T, path string) (client, server *pod) {
	t.Helper()
	m := newMesh(t)
	n1 := m.node("n1")
	switch path {
	case "local":
		return m.enrolled(n1, "client"), m.enrolled(n1, "server")
	case "tunnel":
		n2 := m.node("n2")
		return m.enrolled(n1, "client"), m.enrolled(n2, "server")
	case "plaintext":
		return m.pod(nil, "client"), m.enrolled(n1, "server")
	default:
		return m.enrolled(n1, "client"), m.pod(n1, "server")
	}
}

// Nothing listens: the client sees a reset, and the record says whose fault.
func TestServerDoesNotListen(t *testing.T) {
	for _, path := range []string{"local", "tunnel", "plaintext", "passthrough"} {
		t.Run(path, func(t *testing.T) {
			client, server := pairOn(t, path)
			client.wantRefused(server.addr(81))
			n1 := client.m.nodes["n1"]
			n1.z.wantAccess(t, "error=", "listen")
		})
	}
}

// The same over IPv6, on every path: source address, identity, echo.
func TestIPv6(t *testing.T) {
	for _, path := range []string{"local", "tunnel", "plaintext", "passthrough"} {
		t.Run(path, func(t *testing.T) {
			client, server := pairOn(t, path)
			server.echo(80)
			c := client.connect(netip.AddrPortFrom(server.ip6, 80))
			if want := "server sees " + client.ip6.String(); c.hello != want {
				t.Errorf("the server said %q, want %q", c.hello, want)
			}
			c.wantEcho("over IPv6")
			c.Close()
			hop := path
			if path == "plaintext" || path == "passthrough" {
				hop = "direct"
			}
			client.m.nodes["n1"].z.wantAccess(t, "src.addr=["+client.ip6.String(), `hop="`+hop+`"`, "connection complete")
		})
	}
}
