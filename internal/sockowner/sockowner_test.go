package sockowner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// The test program plays other processes too.
	for env, play := range map[string]func(string) error{dialEnv: dialAndHold, askEnv: askOnce} {
		if arg := os.Getenv(env); arg != "" {
			if err := play(arg); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	goleak.VerifyTestMain(m)
}

var (
	kubelet = netip.MustParseAddrPort("10.0.0.1:40000")
	someone = netip.MustParseAddrPort("10.0.0.1:40001")
	trouble = netip.MustParseAddrPort("10.0.0.1:40002")
	pod     = netip.MustParseAddrPort("10.0.0.9:8080")
)

// table is a lookup that knows three sockets.
func table(_ context.Context, client, server netip.AddrPort) (Owner, error) {
	switch {
	case server != pod:
		return Owner{}, nil
	case client == trouble:
		return Owner{}, errors.New("the kernel is silent")
	}
	return Owner{Found: client == kubelet || client == someone, Kubelet: client == kubelet}, nil
}

// serve runs a server at path until the function that it returns is called.
func serve(t *testing.T, path string, lookup Lookup) (stop func()) {
	t.Helper()
	return serveAll(t, path, Service{Lookup: lookup})
}

// serveAll is serve for a whole service.
func serveAll(t *testing.T, path string, service Service) (stop func()) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g lifecycle.Group
	g.Go(ctx, "serve", func(ctx context.Context) {
		if err := Serve(ctx, l, service); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); g.Wait() })
	t.Cleanup(stop)
	return stop
}

func TestOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	serve(t, path, table)
	c := NewClient(ClientConfig{Path: path})
	defer c.Close()
	for _, tt := range []struct {
		name           string
		client, server netip.AddrPort
		want           Owner
		wantErr        bool
	}{
		{"the kubelet's", kubelet, pod, Owner{Found: true, Kubelet: true}, false},
		{"another process of the node", someone, pod, Owner{Found: true}, false},
		{"nobody's", netip.MustParseAddrPort("10.0.0.1:1"), pod, Owner{}, false},
		{"IPv4 in IPv6 is IPv4", netip.AddrPortFrom(netip.AddrFrom16(kubelet.Addr().As16()), kubelet.Port()), pod, Owner{Found: true, Kubelet: true}, false},
		{"the agent cannot say", trouble, pod, Owner{}, true},
		{"two families", netip.MustParseAddrPort("[fd00::1]:1"), pod, Owner{}, true},
		{"no port", netip.MustParseAddrPort("10.0.0.1:0"), pod, Owner{}, true},
		{"no address", netip.AddrPort{}, pod, Owner{}, true},
		{"a zone", netip.MustParseAddrPort("[fe80::1%eth0]:1"), netip.MustParseAddrPort("[fe80::2]:1"), Owner{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := c.Owner(t.Context(), tt.client, tt.server)
			if (err != nil) != tt.wantErr || got != tt.want {
				t.Errorf("Owner = %+v, %v; want %+v, error %v", got, err, tt.want, tt.wantErr)
			}
		})
	}
}

func TestClientOutlivesTheAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	c := NewClient(ClientConfig{Path: path})
	defer c.Close()
	if _, err := c.Owner(t.Context(), kubelet, pod); err == nil {
		t.Error("without an agent there is an answer")
	}
	for range 2 { // the second agent finds a client with a connection to the first
		stop := serve(t, path, table)
		got, err := c.Owner(t.Context(), kubelet, pod)
		if err != nil || !got.Kubelet {
			t.Errorf("Owner = %+v, %v; want the kubelet's", got, err)
		}
		stop()
		os.Remove(path)
	}
}

func TestASilentAgentIsNotWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	serve(t, path, func(ctx context.Context, _, _ netip.AddrPort) (Owner, error) {
		<-ctx.Done()
		return Owner{}, context.Cause(ctx)
	})
	c := NewClient(ClientConfig{Path: path, Timeout: 20 * time.Millisecond})
	defer c.Close()
	start := time.Now()
	if got, err := c.Owner(t.Context(), kubelet, pod); err == nil {
		t.Errorf("Owner = %+v, want an error", got)
	}
	if took := time.Since(start); took > requestTimeout/2 {
		t.Errorf("it took %v, want about 20 ms", took)
	}
}

func TestManyAskAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	serve(t, path, table)
	c := NewClient(ClientConfig{Path: path, Timeout: 5 * time.Second})
	defer c.Close()
	var g lifecycle.Group
	defer g.Wait()
	for i := range maxConns / 2 {
		g.Go(t.Context(), "ask", func(ctx context.Context) {
			client := kubelet
			if i%2 == 1 {
				client = someone
			}
			for range 50 {
				got, err := c.Owner(ctx, client, pod)
				if err != nil || got.Kubelet != (client == kubelet) {
					t.Errorf("Owner(%v) = %+v, %v", client, got, err)
					return
				}
			}
		})
	}
}

func TestWhoMakesNoSenseIsCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	serve(t, path, table)
	good, err := newRequest(kubelet, pod)
	if err != nil {
		t.Fatal(err)
	}
	bad := good
	bad[0] = 9
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(append(append([]byte{}, good[:]...), bad[:]...)); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var all []byte
	for buf := make([]byte, 16); ; {
		n, err := conn.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			if os.IsTimeout(err) {
				t.Error("the connection stands after a request that makes no sense")
			}
			break
		}
	}
	if len(all) != answerSize || all[1] != byte(codeKubelet) {
		t.Errorf("answers %v, want one: the kubelet's", all)
	}
}

func FuzzParse(f *testing.F) {
	good, err := newRequest(kubelet, pod)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[:])
	f.Add(make([]byte, requestSize))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r request
		copy(r[:], data)
		client, server, err := r.parse()
		if err != nil {
			return
		}
		// What was understood says the same again.
		again, err := newRequest(client, server)
		if err != nil || again != r {
			t.Errorf("%v -> %v, %v -> %v, %v", r, client, server, again, err)
		}
	})
}

func FuzzParseMeans(f *testing.F) {
	for _, m := range []Means{{Any: true}, {Cgroups: []uint64{7}}, {Cgroups: []uint64{1, 2, 3, 4}}} {
		b := m.encode()
		f.Add(b[:])
	}
	f.Add(make([]byte, meansSize))
	f.Fuzz(func(t *testing.T, data []byte) {
		var b [meansSize]byte
		copy(b[:], data)
		m, err := parseMeans(b)
		if err != nil {
			return
		}
		if err := m.check(); err != nil {
			t.Fatalf("%v is read as %+v, by which nothing can be told: %v", b, m, err)
		}
		again, err := parseMeans(m.encode())
		if err != nil || again.Any != m.Any || !slices.Equal(again.Cgroups, m.Cgroups) {
			t.Errorf("%+v -> %+v, %v", m, again, err)
		}
	})
}
