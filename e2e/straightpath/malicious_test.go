package straightpath

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/ztunnel"
)

// malicious_calls_inpod. Whoever calls a port of the mesh by its number gets
// nowhere: no loop, no admin page, no plaintext around the policy. Only the
// application's port answers, and of ztunnel's own pod its metrics, to a neighbour
// outside the mesh its readiness too.
func TestMaliciousCallsInPod(t *testing.T) {
	m := newMesh(t)
	n1, proxy := m.selfNode("n1")
	captured, other, outside := m.enrolled(n1, "client"), m.enrolled(n1, "server"), m.pod(nil, "outside")
	other.echo(80)
	captured.echo(80)
	localhost := netip.MustParseAddr("127.0.0.1")

	for _, client := range []*pod{captured, outside} {
		for target, addr := range map[string]netip.Addr{"self": client.ip, "localhost": localhost, "other": other.ip, "ztunnel pod": proxy.ip} {
			for _, port := range []uint16{15001, 15006, 15008, 80, 15000, 15020, 15021} {
				t.Run(fmt.Sprintf("%s calls port %d of %s", client.name, port, target), func(t *testing.T) {
					answers := port == 80 && (target == "other" || client == captured)
					if target == "ztunnel pod" {
						answers = port == 15020 || port == 15021 && client == outside
					}
					got, err := client.ask(t, netip.AddrPortFrom(addr, port))
					switch {
					case answers && (err != nil || got == ""):
						t.Errorf("answered %q, %v", got, err)
					case !answers && err == nil && got != "":
						t.Errorf("answered %q", got)
					case errors.Is(err, os.ErrDeadlineExceeded):
						t.Error("no end: is it a loop?")
					case strings.Contains(got, `"workloads"`):
						t.Errorf("the administration answered: %q", got)
					}
				})
			}
		}
	}
	eventually(t, "no connection is left", func() error {
		if n := n1.z.metric(t, "istio_tcp_sockets_open"); n != 0 {
			return fmt.Errorf("%v sockets open", n)
		}
		return nil
	})
}

// ask sends a request to an address and returns what comes before the end.
func (p *pod) ask(t *testing.T, to netip.AddrPort) (string, error) {
	t.Helper()
	c, err := p.ns.Dial(t.Context(), netns.DialOptions{Remote: to, SocketOptions: netns.SocketOptions{NoMark: true}})
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "GET /config_dump HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	if err := c.CloseWrite(); err != nil {
		return "", err
	}
	got, err := io.ReadAll(c)
	return string(got), err
}

// A NetworkPolicy between two pods of one node counts on the local path too: no
// tunnel, no witness, no connection.
func TestNetworkPolicyCountsOnTheLocalPath(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1", func(c *ztunnel.Config) { c.Tunnel.EncryptLocal = false })
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	client.connect(server.addr(80)).wantEcho("before")

	other := m.enrolled(n1, "other")
	server.reject(t, other.ip, 15008)
	other.wantRefused(server.addr(80))
	n1.z.wantAccess(t, `direction="outbound"`, `src.workload="other"`, "15008", `stage="dial"`)
	client.connect(server.addr(80)).wantEcho("others are not concerned")
}

// A NetworkPolicy that lets go on what has begun still counts for connections that
// begin later: neither the witness of the local path nor a tunnel that stands is
// an open door for ever.
func TestNewNetworkPolicyCountsForNewConnections(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1", func(c *ztunnel.Config) { c.Tunnel.ProveAfter = 200 * time.Millisecond })
	n2 := m.node("n2")
	client, near, far := m.enrolled(n1, "client"), m.enrolled(n1, "near"), m.enrolled(n2, "far")
	for _, server := range []*pod{near, far} {
		server.echo(80)
		lives := client.connect(server.addr(80))
		server.rejectNew(t, client.ip, 15008)
		eventually(t, "the policy counts for "+server.name, func() error {
			c, err := client.tryConnect(server.addr(80))
			if err == nil {
				c.Close()
				return errors.New("connected")
			}
			if !isReset(err) {
				t.Fatal(err)
			}
			return nil
		})
		if server == far { // on the node the witness has gone, and what it vouched for
			lives.wantEcho("what has begun goes on")
		}
	}
}

// The witness goes while a local connection lives, and cannot come back: the
// connection ends as it would have on the wire.
func TestWitnessLostCutsLocalConnections(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	c := client.connect(server.addr(80))
	c.wantEcho("before")
	server.reject(t, client.ip, 15008)
	server.killTunnels(t)
	c.wantReset()
	n1.z.wantAccess(t, `direction="outbound"`, `src.workload="client"`, "vouches for this local connection")
}

// The witness goes and comes back: nothing is felt.
func TestWitnessComesBack(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	c := client.connect(server.addr(80))
	before := len(n1.z.log.with("tunnel opened"))
	server.killTunnels(t)
	eventually(t, "a new witness stands", func() error {
		if n := len(n1.z.log.with("tunnel opened")); n <= before {
			return fmt.Errorf("%d tunnels so far", n)
		}
		return nil
	})
	c.wantEcho("nothing is felt")
}
