package sockowner

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

// dialEnv tells a copy of the test program to connect to its value, to say from
// where, and to hold the connection until its standard input ends.
const dialEnv = "AMBIT_TEST_DIAL"

// quickExit keeps the race detector from waiting at the end of a copy.
const quickExit = "GORACE=atexit_sleep_ms=0"

// dialAndHold is that copy.
func dialAndHold(address string) error {
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil { // in its cgroup now
		return err
	}
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Println(c.LocalAddr())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// dialer starts a process called name, in the cgroup v2 if that is not "", which
// connects to address; it returns from where.
func dialer(t *testing.T, name, cgroup, address string) netip.AddrPort {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), dialEnv+"="+address, quickExit)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	if cgroup != "" {
		if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintln(in, "go")
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("process %s: %v", name, err)
	}
	return netip.MustParseAddrPort(strings.TrimSpace(line))
}

// mountCgroups mounts cgroup v2 for the test.
func mountCgroups(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := syscall.Mount("none", root, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return root
}

// newCgroup makes a cgroup v2 for the test.
func newCgroup(t *testing.T, root, name string) string {
	t.Helper()
	dir := filepath.Join(root, "ambit-test-"+strconv.Itoa(os.Getpid())+"-"+name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// listenAt accepts connections on address and holds them.
func listenAt(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestLookup(t *testing.T) {
	netnstest.Require(t)
	server := listenAt(t, "127.0.0.1:0")
	server6 := listenAt(t, "[::1]:0")
	cgroups := mountCgroups(t)
	pods, unit := newCgroup(t, cgroups, "kubepods"), newCgroup(t, cgroups, "unit")
	host := NewHost(HostConfig{Names: []string{"ambit-kubelet"}, Cgroups: cgroups})
	for _, tt := range []struct {
		name    string
		client  netip.AddrPort
		server  netip.AddrPort
		want    Owner
		anybody bool
	}{
		{name: "the kubelet", client: dialer(t, "ambit-kubelet", "", server.String()), server: server, want: Owner{Found: true, Kubelet: true}},
		{name: "the kubelet over IPv6", client: dialer(t, "ambit-kubelet", "", server6.String()), server: server6, want: Owner{Found: true, Kubelet: true}},
		{name: "another process", client: dialer(t, "ambit-other", "", server.String()), server: server, want: Owner{Found: true}},
		{name: "another process where every one counts", client: dialer(t, "ambit-other", "", server.String()), server: server, want: Owner{Found: true, Kubelet: true}, anybody: true},
		{name: "a pod's process that calls itself kubelet", client: dialer(t, "ambit-kubelet", pods, server.String()), server: server, want: Owner{Found: true}},
		{name: "the kubelet in a cgroup", client: dialer(t, "ambit-kubelet", unit, server.String()), server: server, want: Owner{Found: true, Kubelet: true}},
		{name: "a helper in the kubelet's cgroup", client: dialer(t, "ambit-helper", unit, server.String()), server: server, want: Owner{Found: true, Kubelet: true}},
		{name: "nobody", client: netip.MustParseAddrPort("127.0.0.1:1"), server: server},
		{name: "nobody where every process counts", client: netip.MustParseAddrPort("127.0.0.1:1"), server: server, anybody: true},
		{name: "the listener itself", client: server, server: netip.MustParseAddrPort("127.0.0.1:1")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := host
			if tt.anybody {
				h = NewHost(HostConfig{AnySocket: true})
			}
			got, err := h.Lookup(t.Context(), tt.client, tt.server)
			if err != nil || got != tt.want {
				t.Errorf("Lookup = %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestKubeletThatStartsLater(t *testing.T) {
	netnstest.Require(t)
	server := listenAt(t, "127.0.0.1:0")
	h := NewHost(HostConfig{Names: []string{"ambit-kubelet2"}})
	before := dialer(t, "ambit-other", "", server.String())
	if _, err := h.Lookup(t.Context(), before, server); err == nil {
		t.Error("without a kubelet the owner is said to be known")
	}
	h.mu.Lock()
	h.listed = h.listed.Add(-kubeletsAgain) // time passes
	h.mu.Unlock()
	client := dialer(t, "ambit-kubelet2", "", server.String())
	if got, err := h.Lookup(t.Context(), client, server); err != nil || !got.Kubelet {
		t.Errorf("Lookup = %+v, %v; want the kubelet's", got, err)
	}
}

func TestAClosedSocketIsNobodysWord(t *testing.T) {
	netnstest.Require(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client, server := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
	c.Close()
	h := NewHost(HostConfig{Names: []string{"ambit-nobody"}})
	if got, err := h.Lookup(t.Context(), client, server); err == nil && got.Kubelet {
		t.Errorf("Lookup = %+v, want not the kubelet's", got)
	}
}

func TestOnlyOurUserIsAnswered(t *testing.T) {
	netnstest.Require(t)
	dir, err := os.MkdirTemp("/tmp", "ambit-sockowner-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	serve(t, path, table)
	for name, mode := range map[string]os.FileMode{dir: 0o755, path: 0o666} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "ask")
	if err := os.WriteFile(program, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		uid    uint32
		answer bool
	}{{"root", 0, true}, {"somebody else", 65534, false}} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(program)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), askEnv+"="+path, quickExit)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tt.uid, Gid: tt.uid}}
			out, err := cmd.CombinedOutput()
			if got := err == nil; got != tt.answer {
				t.Errorf("answered %v, want %v: %s", got, tt.answer, out)
			}
		})
	}
}

// askEnv tells a copy of the test program to ask the agent at its value.
const askEnv = "AMBIT_TEST_ASK"

// askOnce is that copy.
func askOnce(path string) error {
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer c.Close()
	req, err := newRequest(kubelet, pod)
	if err != nil {
		return err
	}
	if _, err := c.Write(req[:]); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, answerSize))
	return err
}

func BenchmarkLookup(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	client, server := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
	self, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		b.Fatal(err)
	}
	h := NewHost(HostConfig{Names: []string{strings.TrimSpace(string(self))}})
	b.ReportAllocs()
	for b.Loop() {
		if got, err := h.Lookup(b.Context(), client, server); err != nil || !got.Kubelet {
			b.Fatalf("Lookup = %+v, %v", got, err)
		}
	}
}

func TestIsPodCgroup(t *testing.T) {
	for _, tt := range []struct {
		path string
		want bool
	}{
		{"/system.slice/kubelet.service", false},
		{"/", false},
		{"/podman/unit", false},
		{"/kubepods/besteffort/pod0a1b2c3d-1111-2222-3333-444455556666/c", true},
		{"/kubepods.slice/kubepods-besteffort.slice/cri-1.scope", true},
		{"/../../pod0a1b2c3d-1111-2222-3333-444455556666/c", true}, // of a neighbour
		{"/../../pod0123456789abcdef0123456789abcdef/c", true},     // of a static pod
		{"/../../../system.slice/kubelet.service", false},
	} {
		if got := isPodCgroup(tt.path); got != tt.want {
			t.Errorf("isPodCgroup(%q) = %v, want %v", tt.path, got, tt.want)
		}
	}
}
