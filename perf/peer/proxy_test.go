package peer

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Two hops of each proxy carry bytes both ways; where a program is missing the
// error says how to get it.
func TestProxiesCarryBytes(t *testing.T) {
	for _, p := range []Proxy{{Name: "haproxy"}, {Name: "haproxy", TLS: true}, {Name: "nginx"}, {Name: "nginx", TLS: true}} {
		t.Run(p.String(), func(t *testing.T) {
			if _, _, err := p.Find(t.Context()); err != nil {
				if !strings.Contains(err.Error(), "apt-get install") {
					t.Errorf("%v: it does not say how to get it", err)
				}
				return
			}
			app, entry, middle := echo(t), freePort(t), freePort(t)
			near, far := t.TempDir(), t.TempDir()
			if err := WriteCertificates(near, far); err != nil {
				t.Fatal(err)
			}
			run(t, p, far, Route{Listen: middle, To: app, TLSIn: p.TLS})
			run(t, p, near, Route{Listen: entry, To: middle, TLSOut: p.TLS})
			wantEcho(t, entry)
			if p.TLS {
				wantNoEcho(t, middle) // nobody comes in without a certificate
			}
		})
	}
}

// run runs one hop until the test ends.
func run(t *testing.T, p Proxy, dir string, route Route) {
	t.Helper()
	path, args, err := p.Command(t.Context(), dir, []Route{route})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", p, &said)
		}
	})
}

// echo serves what it gets.
func echo(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group lifecycle.Group
	group.Go(t.Context(), "accept", func(ctx context.Context) {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			group.Go(ctx, "echo", func(context.Context) {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); group.Wait() })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// freePort is a port that nobody uses now.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// exchange sends a word and returns what comes back.
func exchange(at netip.AddrPort) (string, error) {
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, "hello"); err != nil {
		return "", err
	}
	got := make([]byte, 5)
	n, err := io.ReadFull(c, got)
	return string(got[:n]), err
}

// wantEcho waits until the way stands.
func wantEcho(t *testing.T, at netip.AddrPort) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(20 * time.Second)
	for {
		got, err := exchange(at)
		if got == "hello" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v: %q, %v", at, got, err)
		}
		<-tick.C
	}
}

func wantNoEcho(t *testing.T, at netip.AddrPort) {
	t.Helper()
	if got, _ := exchange(at); got == "hello" {
		t.Errorf("%v answers without TLS", at)
	}
}

func TestUnknownProxy(t *testing.T) {
	if _, _, err := (Proxy{Name: "no-such-proxy"}).Find(t.Context()); err == nil {
		t.Error("it was found")
	}
}
