package lab

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Ports of the parts in a node's namespace.
const (
	istiodPort       = 15012
	istiodStatusPort = 15014
	ztunnelAdmin     = 15000
	ztunnelReady     = 15021
)

// readyTimeout is how long a part may take to be ready after its start, on a
// machine that is busy with other things.
const readyTimeout = 20 * time.Second

// Node is one machine of the lab's cluster.
type Node struct {
	// Set by addNode, then only read.
	Name    string
	NetNS   Namespace
	Address netip.Addr
	PodCIDR netip.Prefix
	Dir     string
	index   int
	chain   *chain

	// Owned by the lab's caller. Nil when stopped.
	Ztunnel *Process
	Agent   *Process
}

func (n *Node) pluginDir() string    { return filepath.Join(n.Dir, "cni") }
func (n *Node) pluginSocket() string { return filepath.Join(n.pluginDir(), "pluginevent.sock") }
func (n *Node) zdsSocket() string    { return filepath.Join(n.Dir, "zds", "ztunnel.sock") }

// ZDSSocket is where the agent hands pods to ztunnel.
func (n *Node) ZDSSocket() string { return n.zdsSocket() }

func (n *Node) tokenFile() string { return filepath.Join(n.Dir, "token") }

func (l *Lab) istiodDir() string   { return filepath.Join(l.dir, "istiod") }
func (l *Lab) caDir() string       { return filepath.Join(l.istiodDir(), "ca") }
func (l *Lab) tokensFile() string  { return filepath.Join(l.istiodDir(), "node-tokens") }
func (l *Lab) rootFile() string    { return filepath.Join(l.caDir(), "root-cert.pem") }
func (l *Lab) bin(n string) string { return filepath.Join(l.cfg.BinDir, n) }

// addNode makes the namespace, the directories and the CNI chain of node i.
func (l *Lab) addNode(i int) error {
	name := fmt.Sprintf("node-%d", i)
	n := &Node{
		Name: name, NetNS: Namespace{l.cfg.Name + "-" + name},
		Address: nodeAddr(i), PodCIDR: podCIDR(i),
		Dir: filepath.Join(l.dir, name), index: i,
	}
	for _, dir := range []string{n.Dir, n.pluginDir(), filepath.Dir(n.zdsSocket())} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	l.nodes = append(l.nodes, n)
	if err := l.makeNode(i); err != nil {
		return err
	}
	err := l.state.update(func(s *State) {
		s.Nodes = append(s.Nodes, NodeRecord{
			Name: n.Name, NetNS: n.NetNS.Name, Address: n.Address.String(), PodCIDR: n.PodCIDR.String(), Dir: n.Dir,
		})
	})
	if err != nil {
		return err
	}
	n.chain, err = l.newChain(n)
	return err
}

// startMesh starts the control plane, and then the parts of each node together.
func (l *Lab) startMesh(ctx context.Context) error {
	if err := l.attach(l.control, "control", netip.MustParseAddr(controlAddr)); err != nil {
		return err
	}
	// Waypoints are pods, and talk to the control plane.
	if err := l.control.Do(func() error { return routeToPods(l.cfg.Nodes, 0) }); err != nil {
		return err
	}
	if err := l.writeTokens(); err != nil {
		return err
	}
	l.cfg.Progress("istiod-lite")
	if err := l.StartIstiod(ctx); err != nil {
		return err
	}
	for _, n := range l.nodes {
		l.cfg.Progress("agent and ztunnel of " + n.Name)
		if err := l.StartAgent(ctx, n); err != nil {
			return err
		}
		if err := l.StartZtunnel(ctx, n); err != nil {
			return err
		}
	}
	for _, n := range l.nodes {
		if err := l.WaitZtunnel(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// writeTokens makes the secret by which each node proves itself.
func (l *Lab) writeTokens() error {
	var all strings.Builder
	all.WriteString("# token node-name\n")
	for _, n := range l.nodes {
		token := rand.Text()
		fmt.Fprintf(&all, "%s %s\n", token, n.Name)
		if err := os.WriteFile(n.tokenFile(), []byte(token), 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(l.tokensFile(), []byte(all.String()), 0o600)
}

// ReplaceTokens puts tokens into the file of istiod-lite that no node has, and
// returns how to undo that.
func (l *Lab) ReplaceTokens() (undo func() error, err error) {
	right, err := os.ReadFile(l.tokensFile())
	if err != nil {
		return nil, err
	}
	var wrong strings.Builder
	for _, n := range l.nodes {
		fmt.Fprintf(&wrong, "%s %s\n", rand.Text(), n.Name)
	}
	undo = func() error { return writeAtomic(l.tokensFile(), right, 0o600) }
	return undo, writeAtomic(l.tokensFile(), []byte(wrong.String()), 0o600)
}

// StartIstiod starts istiod-lite and waits until it serves.
func (l *Lab) StartIstiod(ctx context.Context) error {
	return l.StartIstiodWith(ctx, l.manifests.Dir)
}

// StartIstiodWith starts istiod-lite on another directory of manifests.
func (l *Lab) StartIstiodWith(ctx context.Context, configDir string) error {
	p, err := l.start(ctx, processSpec{
		name: "istiod-lite", ns: l.control, path: l.bin("istiod-lite"), dir: l.istiodDir(),
		args: []string{
			"--config-dir", configDir,
			"--ca-dir", l.caDir(),
			"--listen", fmt.Sprintf(":%d", istiodPort),
			"--node-tokens", l.tokensFile(),
			"--dns-name", controlAddr,
			"--status-addr", fmt.Sprintf("127.0.0.1:%d", istiodStatusPort),
		},
	})
	if err != nil {
		return err
	}
	l.istiod = p
	return waitReady(ctx, p, func(ctx context.Context) error {
		if _, err := os.Stat(l.rootFile()); err != nil {
			return err
		}
		return getOK(ctx, l.control, fmt.Sprintf("http://127.0.0.1:%d/readyz", istiodStatusPort))
	})
}

// StopIstiod ends istiod-lite.
func (l *Lab) StopIstiod() error {
	p := l.istiod
	l.istiod = nil
	return p.Stop()
}

// releaseLinger is shorter than an agent's own: both ztunnels of a lab hear of
// a change within milliseconds, and each line that takes a pod out waits for it.
const releaseLinger = 200 * time.Millisecond

// StartAgent starts the CNI agent of a node and waits for its socket.
func (l *Lab) StartAgent(ctx context.Context, n *Node) error {
	args := []string{
		"--socket", n.pluginSocket(),
		"--zds-socket", n.zdsSocket(),
		"--config-dir", l.manifests.Dir,
		"--node", n.Name,
		"--release-linger", releaseLinger.String(),
	}
	if _, other := l.cfg.Ztunnels[n.Name]; other {
		args = append(args, "--probe-mode=snat") // it neither asks about sockets nor knows a self-test
	}
	p, err := l.start(ctx, processSpec{
		name: "ambit-cni-agent", ns: n.NetNS, path: l.bin("ambit-cni-agent"), dir: n.Dir, args: args,
	})
	if err != nil {
		return err
	}
	n.Agent = p
	return waitReady(ctx, p, func(ctx context.Context) error {
		for _, path := range []string{n.pluginSocket(), n.zdsSocket()} {
			if _, err := os.Stat(path); err != nil {
				return err
			}
		}
		return nil
	})
}

// StartZtunnel starts the ztunnel of a node; extra is added to its environment.
// [Lab.WaitZtunnel] waits until it is ready.
func (l *Lab) StartZtunnel(ctx context.Context, n *Node, extra ...string) error {
	path := l.bin("ztunnel")
	if other, ok := l.cfg.Ztunnels[n.Name]; ok {
		path = other
	}
	address := fmt.Sprintf("https://%s:%d", controlAddr, istiodPort)
	env := []string{
		"NODE_NAME=" + n.Name,
		"INSTANCE_IP=" + n.Address.String(),
		"POD_NAME=ztunnel-" + n.Name,
		"POD_NAMESPACE=istio-system",
		"SERVICE_ACCOUNT=ztunnel",
		"INPOD_UDS=" + n.zdsSocket(),
		"AMBIT_SOCKET_OWNER=off", // there is no kubelet
		"XDS_ADDRESS=" + address,
		"CA_ADDRESS=" + address,
		"XDS_ROOT_CA=" + l.rootFile(),
		"CA_ROOT_CA=" + l.rootFile(),
		"AUTH_TOKEN=" + n.tokenFile(),
		fmt.Sprintf("SECRET_TTL=%ds", int(l.cfg.SecretTTL.Seconds())),
		"LOG_FORMAT=json",
	}
	p, err := l.start(ctx, processSpec{
		name: "ztunnel", ns: n.NetNS, path: path, dir: n.Dir,
		env: append(append(env, l.cfg.ZtunnelEnv...), extra...),
	})
	if err != nil {
		return err
	}
	n.Ztunnel = p
	return nil
}

// WaitZtunnel waits until the ztunnel of a node says that it is ready.
func (l *Lab) WaitZtunnel(ctx context.Context, n *Node) error {
	return waitReady(ctx, n.Ztunnel, func(ctx context.Context) error {
		return getOK(ctx, n.NetNS, fmt.Sprintf("http://127.0.0.1:%d/healthz/ready", ztunnelReady))
	})
}

// waitReady asks until ready says nil. When it does not, the error says what was
// missing last and what the process has written.
func waitReady(ctx context.Context, p *Process, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended before it was ready: %w\n%s", p.Record.Name, p.err, p.LogTail(8))
		default:
		}
		if lifecycle.Sleep(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("%s is not ready after %v: %w\n%s", p.Record.Name, readyTimeout, err, p.LogTail(8))
		}
	}
}

// getOK asks for a page inside a namespace and wants status 200.
func getOK(ctx context.Context, ns Namespace, url string) error {
	_, err := Get(ctx, ns, url)
	return err
}

// Get fetches a page inside a namespace. url has an address for its host.
func Get(ctx context.Context, ns Namespace, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       ns.dial,
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return body, fmt.Errorf("%s: %s: %s", url, res.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}
