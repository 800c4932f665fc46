package hbone

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// proxyEnv makes TestProxyProcess a proxy: "role peer app".
const proxyEnv = "HBONE_PROXY"

// proxyProcess is a proxy in a process of its own.
type proxyProcess struct {
	cmd  *exec.Cmd
	addr string
}

// inProcesses makes two hops of two processes, as they are in a mesh: inside
// one process the scheduler saves most of the wake-ups that they cost.
func inProcesses(kind string) func(testing.TB, string) twoHops {
	return func(b testing.TB, app string) twoHops {
		certs := newCerts(b)
		in := startProxy(b, certs, kind+"-in", "-", app)
		out := startProxy(b, certs, kind+"-out", in.addr, app)
		return twoHops{entry: out.addr, cpu: func() time.Duration { return in.cpu() + out.cpu() }}
	}
}

// startProxy starts this test binary as a proxy.
func startProxy(b testing.TB, certs *testCerts, role, peer, app string) *proxyProcess {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestProxyProcess$", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", proxyEnv, role, peer, app))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { stdin.Close(); cmd.Process.Kill(); cmd.Wait() })
	stdin.Write(certs.pem(b))
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatalf("proxy %s: %v", role, err)
	}
	return &proxyProcess{cmd: cmd, addr: strings.TrimSpace(line)}
}

// cpu is the CPU time the process has used.
func (p *proxyProcess) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// TestProxyProcess is a proxy of inProcesses; without its environment it checks
// that a proxy in a process of its own carries bytes.
func TestProxyProcess(t *testing.T) {
	f := strings.Fields(os.Getenv(proxyEnv))
	if len(f) != 3 {
		app := appListener(t, func(c *net.TCPConn) { io.Copy(c, c) })
		for _, kind := range []string{"ours", "xnet", "fresh"} {
			c := dialTCP(t, inProcesses(kind)(t, app).entry)
			c.Write([]byte("hello"))
			c.CloseWrite()
			if got, err := io.ReadAll(c); string(got) != "hello" {
				t.Errorf("%s: echo = %q, %v", kind, got, err)
			}
		}
		return
	}
	role, peer, app := f[0], f[1], f[2]
	certs := readCerts(t)
	var addr string
	switch role {
	case "ours-in":
		n := newNode(t, nodeConfig{certs: certs, server: ServerConfig{Handle: proxyTo}})
		addr = n.addr.String()
	case "ours-out":
		n := &node{t: t, certs: certs, addr: netip.MustParseAddrPort(peer), pool: NewPool(PoolConfig{}, nil)}
		t.Cleanup(n.pool.Close)
		addr = n.entry(app, nil)
	case "attacked":
		n := newNode(t, nodeConfig{certs: certs, server: ServerConfig{Handle: attacked}})
		addr = n.addr.String()
	case "xnet-in":
		addr = newTheirs(t, certs, pooled.inbound).addr
	case "fresh-in":
		addr = newTheirs(t, certs, fresh.inbound).addr
	case "xnet-out", "fresh-out":
		how := pooled
		if role == "fresh-out" {
			how = fresh
		}
		h := &theirs{transport: theirTransport(t, certs), addr: peer}
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		addr = appListener(t, func(c *net.TCPConn) { how.outbound(ctx, c, h, app) })
		t.Cleanup(cancel)
	}
	fmt.Println(addr)
	io.Copy(io.Discard, os.Stdin) // until killed
}

// pem is what readCerts reads: certificate, key, and an end.
func (c *testCerts) pem(t testing.TB) []byte {
	key, err := x509.MarshalECPrivateKey(c.cert.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Certificate[0]})
	pem.Encode(&b, &pem.Block{Type: "EC PRIVATE KEY", Bytes: key})
	return b.Bytes()
}

// readCerts reads what pem wrote from standard input, which stays open.
func readCerts(t testing.TB) *testCerts {
	t.Helper()
	var blocks []*pem.Block
	var text []byte
	for len(blocks) < 2 {
		p := make([]byte, 4<<10)
		n, err := os.Stdin.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, p[:n]...)
		for {
			b, rest := pem.Decode(text)
			if b == nil {
				break
			}
			blocks, text = append(blocks, b), rest
		}
	}
	leaf, err := x509.ParseCertificate(blocks[0].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.ParseECPrivateKey(blocks[1].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	c := &testCerts{pool: x509.NewCertPool()}
	c.pool.AddCert(leaf)
	c.cert.Certificate, c.cert.PrivateKey, c.cert.Leaf = [][]byte{blocks[0].Bytes}, private, leaf
	return c
}
