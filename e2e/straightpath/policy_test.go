package straightpath

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// service makes a service over the pods with label app=name, and waits until
// every ztunnel knows it with that many endpoints.
func (m *mesh) service(name string, port int, target string, endpoints int) netip.AddrPort {
	m.t.Helper()
	m.pods++
	vip := netip.AddrFrom4([4]byte{10, 96, 0, byte(m.pods)})
	m.apply("service-"+name, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: %s}
spec:
  type: ClusterIP
  clusterIP: %s
  clusterIPs: [%s]
  ipFamilies: [IPv4]
  selector: {app: %s}
  ports: [{name: http, protocol: TCP, port: %d, targetPort: %s}]
`, name, vip, vip, name, port, target))
	for _, n := range m.nodes {
		eventually(m.t, n.name+" knows the endpoints of "+name, func() error {
			d := n.z.dump(m.t)
			for _, s := range d.Services {
				if s.Name == name && len(s.Endpoints) == endpoints {
					return nil
				}
			}
			return fmt.Errorf("services: %+v", d.Services)
		})
	}
	return netip.AddrPortFrom(vip, uint16(port))
}

// allowOnly is a policy that lets one service account reach the server.
func allowOnly(account string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: only-%[1]s}
spec:
  selector: {matchLabels: {app: server}}
  action: ALLOW
  rules: [{from: [{source: {principals: ["cluster.local/ns/shop/sa/%[1]s"]}}]}]
`, account)
}

// denyFrom is a policy that keeps one service account from the server.
func denyFrom(account string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: not-%[1]s}
spec:
  selector: {matchLabels: {app: server}}
  action: DENY
  rules: [{from: [{source: {principals: ["cluster.local/ns/shop/sa/%[1]s"]}}]}]
`, account)
}

const strict = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {namespace: shop, name: default}
spec: {mtls: {mode: STRICT}}
`

// knows waits until the ztunnel of n has that many policies.
func (n *node) knows(policies int) {
	n.m.t.Helper()
	eventually(n.m.t, fmt.Sprintf("%s has %d policies", n.name, policies), func() error {
		if d := n.z.dump(n.m.t); len(d.Policies) != policies {
			return fmt.Errorf("it has %+v", d.Policies)
		}
		return nil
	})
}

// policy. An allow list that does not name the client: reset for the client, 401
// and DENY at the server, and the rule that allows is in the record.
func TestPolicy(t *testing.T) {
	for _, path := range []string{"local", "tunnel"} {
		t.Run(path, func(t *testing.T) {
			client, server := pairOn(t, path)
			m := client.m
			other := m.enrolled(client.n, "other")
			server.echo(80)
			m.apply("policy", allowOnly("other"))
			server.n.knows(1)

			client.wantRefused(server.addr(80))
			client.n.z.wantAccess(t, `direction="outbound"`, `src.workload="client"`, "401")
			server.n.z.wantAccess(t, `direction="inbound"`, `src.workload="client"`, "allow policies exist, but none allowed")
			for reporter, n := range map[string]*node{"source": client.n, "destination": server.n} {
				if got := n.z.metric(t, "istio_tcp_connections_failed_total", `response_flags="DENY"`, `reporter="`+reporter+`"`); got != 1 {
					t.Errorf("%s reports %v denied connections, want 1", reporter, got)
				}
			}
			c := other.connect(server.addr(80))
			c.wantEcho("allowed")
			c.Close()
			server.n.z.wantAccess(t, `direction="inbound"`, `src.workload="other"`, "shop/only-other", "connection complete")
		})
	}
}

// A change of policy cuts the connections that it does not allow any more, and
// only those; on the local path as in a tunnel.
func TestPolicyChangeCutsLiveConnections(t *testing.T) {
	for _, path := range []string{"local", "tunnel"} {
		t.Run(path, func(t *testing.T) {
			client, server := pairOn(t, path)
			m := client.m
			other := m.enrolled(client.n, "other")
			server.echo(80)
			cut, spared := client.connect(server.addr(80)), other.connect(server.addr(80))
			start := time.Now()
			m.apply("policy", denyFrom("client"))
			cut.wantReset()
			if took := time.Since(start); took > time.Second {
				t.Errorf("cut after %v, want within a second", took)
			}
			server.n.z.wantAccess(t, `direction="inbound"`, `src.workload="client"`, "shop/not-client")
			spared.wantEcho("goes on")
			m.remove("policy")
			server.n.knows(0)
			client.connect(server.addr(80)).wantEcho("allowed again")
		})
	}
}

// STRICT refuses plaintext, also what lives already, and not the mesh.
func TestStrictRefusesPlaintext(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	outside, client, server := m.pod(nil, "outside"), m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	live := outside.connect(server.addr(80))
	live.wantEcho("permissive")
	m.apply("strict", strict)
	live.wantReset()
	outside.wantRefused(server.addr(80))
	client.connect(server.addr(80)).wantEcho("proven")
	n1.z.wantAccess(t, `direction="inbound"`, "src.addr="+outside.ip.String(), "error=", "hop=\"direct\"")
}
