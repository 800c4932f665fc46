package straightpath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/ambit-mesh/ambit/internal/zds"
)

// pod is a namespace on the wire of the mesh, perhaps enrolled.
type pod struct {
	m         *mesh
	n         *node // nil: in no node's care
	uid       string
	name      string
	namespace string
	account   string
	labels    string
	ill       bool // not Ready
	ip, ip6   netip.Addr
	ns        *netns.NS
}

func (p *pod) zds() zds.Pod {
	return zds.Pod{UID: p.uid, Info: zds.Info{Name: p.name, Namespace: p.namespace, ServiceAccount: p.account}, NS: p.ns}
}

// pod makes a pod of the namespace shop on node n (which may be nil), known to
// the control plane but not enrolled. Its service account has its name.
func (m *mesh) pod(n *node, name string) *pod {
	m.t.Helper()
	m.pods++
	p := &pod{
		m: m, n: n, uid: fmt.Sprintf("uid-%s-%d", name, m.pods), name: name, namespace: "shop", account: name,
		ip: netip.AddrFrom4([4]byte{10, 1, 1, byte(m.pods)}), labels: "app: " + name,
		ip6: netip.MustParseAddr(fmt.Sprintf("fd00::1:%x", m.pods)),
	}
	p.ns = netnstest.New(m.t)
	port := fmt.Sprintf("p%d", m.pods)
	netnstest.Veth(m.t, netnstest.End{NS: m.fabric, Name: port},
		netnstest.End{NS: p.ns, Name: "eth0", Prefixes: []netip.Prefix{netip.PrefixFrom(p.ip, 16), netip.PrefixFrom(p.ip6, 64)}})
	netnstest.Do(m.t, m.fabric, func() error { return enslave(port, "br0") })
	netnstest.Route(m.t, p.ns, netip.Prefix{}, netip.MustParseAddr("10.1.0.1"))
	if n != nil {
		p.tell(false)
	}
	return p
}

// enrolled makes a pod and enrols it, and waits until both sides know.
func (m *mesh) enrolled(n *node, name string) *pod {
	m.t.Helper()
	p := m.pod(n, name)
	p.enrol()
	return p
}

// tell writes the manifests of p.
func (p *pod) tell(enrolled bool) {
	p.m.t.Helper()
	annotation := ""
	if enrolled {
		annotation = "annotations: {ambient.istio.io/redirection: enabled}"
	}
	p.m.apply("pod-"+p.name, fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {namespace: %[2]s, name: %[3]s}
---
apiVersion: v1
kind: Pod
metadata:
  name: %[1]s
  namespace: %[2]s
  uid: %[4]s
  labels: {%[8]s}
  %[5]s
spec:
  nodeName: %[6]s
  serviceAccountName: %[3]s
  containers:
  - name: app
    image: app
    ports: [{name: web, containerPort: 80}]
status:
  phase: Running
  podIP: %[7]s
  podIPs: [{ip: %[7]s}, {ip: "%[9]s"}]
  conditions: [{type: Ready, status: %[10]q}]
`, p.name, p.namespace, p.account, p.uid, annotation, p.n.name, p.ip, p.labels, p.ip6, map[bool]string{false: "True", true: "False"}[p.ill]))
}

// enrol does what the agent does: rules, ztunnel, annotation, in that order.
func (p *pod) enrol() {
	p.m.t.Helper()
	p.add()
	p.tell(true)
	p.m.settled(p)
	p.certified()
}

// certified waits until p's node has its certificate: until then connections to p
// take a tunnel that waits for it, and no local path.
func (p *pod) certified() {
	p.m.t.Helper()
	eventually(p.m.t, p.n.name+" has the certificate of "+p.name, func() error {
		for _, c := range p.n.z.dump(p.m.t).Certificates {
			if strings.HasSuffix(c.Identity, "/ns/"+p.namespace+"/sa/"+p.account) && c.State == "Available" {
				return nil
			}
		}
		return errors.New("it has not")
	})
}

// add does the same, but tells the control plane nothing.
func (p *pod) add() {
	p.m.t.Helper()
	applyRules(p.m.t, p.ns)
	p.n.mu.Lock()
	p.n.pods[p.uid] = p
	p.n.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.m.t.Context(), patience)
	defer cancel()
	if err := p.n.agent.Add(ctx, p.zds()); err != nil {
		p.m.t.Fatalf("enrol %s: %v", p.name, err)
	}
}

// settled waits until every ztunnel knows that p is enrolled.
func (m *mesh) settled(p *pod) {
	m.t.Helper()
	for _, n := range m.nodes {
		eventually(m.t, n.name+" knows that "+p.name+" takes tunnels", func() error {
			dump := n.z.dump(m.t)
			for _, w := range dump.Workloads {
				if strings.Contains(w.UID, p.name) && w.Protocol == "HBONE" {
					return nil
				}
			}
			return fmt.Errorf("workloads: %+v", dump.Workloads)
		})
	}
}

// leave takes p out of ztunnel's care, as when the pod is deleted.
func (p *pod) leave() {
	p.m.t.Helper()
	p.n.mu.Lock()
	delete(p.n.pods, p.uid)
	p.n.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.m.t.Context(), patience)
	defer cancel()
	if err := p.n.agent.Del(ctx, p.uid); err != nil {
		p.m.t.Fatalf("remove %s: %v", p.name, err)
	}
}

// addr is a port of the pod.
func (p *pod) addr(port uint16) netip.AddrPort { return netip.AddrPortFrom(p.ip, port) }

// echo serves port of p: it says whom it sees, then echoes, and ends when the
// client has ended.
func (p *pod) echo(port uint16) {
	p.m.t.Helper()
	p.serve(port, func(c *net.TCPConn) {
		host, _, err := net.SplitHostPort(c.RemoteAddr().String())
		if err != nil {
			return
		}
		host = netip.MustParseAddr(host).Unmap().String()
		if _, err := fmt.Fprintf(c, "%s sees %s\n", p.name, host); err == nil {
			_, _ = io.Copy(c, c)
		}
	})
}

// serve runs handle for each connection to port of p, until the test ends.
func (p *pod) serve(port uint16, handle func(*net.TCPConn)) {
	p.m.t.Helper()
	l, err := p.ns.Listen(p.m.t.Context(), "tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), port), netns.SocketOptions{NoMark: true})
	if err != nil {
		p.m.t.Fatal(err)
	}
	var conns sync.WaitGroup
	open := map[*net.TCPConn]bool{}
	var mu sync.Mutex
	conns.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			conns.Go(func() {
				defer func() {
					c.Close()
					mu.Lock()
					delete(open, c)
					mu.Unlock()
				}()
				handle(c)
			})
		}
	})
	p.m.t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		conns.Wait()
	})
}

// dial connects from an application in p.
func (p *pod) dial(to netip.AddrPort) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(p.m.t.Context(), patience)
	defer cancel()
	c, err := p.ns.Dial(ctx, netns.DialOptions{Remote: to, SocketOptions: netns.SocketOptions{NoMark: true}})
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// dialMarked connects from p as the mesh itself does: past the rules.
func (p *pod) dialMarked(to netip.AddrPort) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(p.m.t.Context(), patience)
	defer cancel()
	return p.ns.Dial(ctx, netns.DialOptions{Remote: to})
}

// conn is a connection of an application under test.
type conn struct {
	*net.TCPConn
	t     *testing.T
	hello string // the first line that the server said
}

// connect connects from p to an echo server and reads its first line.
func (p *pod) connect(to netip.AddrPort) *conn {
	p.m.t.Helper()
	c, err := p.tryConnect(to)
	if err != nil {
		p.m.t.Fatalf("%s to %v: %v", p.name, to, err)
	}
	return c
}

// tryConnect is connect, for connections that may fail.
func (p *pod) tryConnect(to netip.AddrPort) (*conn, error) {
	tc, err := p.dial(to)
	if err != nil {
		return nil, err
	}
	c := &conn{TCPConn: tc, t: p.m.t}
	p.m.t.Cleanup(func() { tc.Close() })
	var line strings.Builder
	one := make([]byte, 1)
	for {
		if _, err := io.ReadFull(tc, one); err != nil {
			return nil, errors.Join(err, tc.Close())
		}
		if one[0] == '\n' {
			c.hello = line.String()
			return c, nil
		}
		line.WriteByte(one[0])
	}
}

// wantEcho sends text and wants it back.
func (c *conn) wantEcho(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatalf("write: %v", err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		c.t.Fatalf("read %q, %v; want %q", got, err, text)
	}
}

// wantReset wants the connection to be cut, and not to end.
func (c *conn) wantReset() {
	c.t.Helper()
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF || errors.Is(err, context.DeadlineExceeded) {
		c.t.Fatalf("read: %v, want a reset", err)
	}
}

// wantRefused wants a connection from p to be reset before the server says a
// word.
func (p *pod) wantRefused(to netip.AddrPort) {
	p.m.t.Helper()
	c, err := p.tryConnect(to)
	if err == nil {
		p.m.t.Fatalf("%s to %v: connected (%q), want a reset", p.name, to, c.hello)
	}
	if !isReset(err) {
		p.m.t.Fatalf("%s to %v: %v, want a reset", p.name, to, err)
	}
}
