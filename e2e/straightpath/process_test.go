package straightpath

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab/labtest"
)

// capabilities are all that a ztunnel has in a cluster: to enter the namespaces
// of pods, and to mark sockets, to show foreign addresses and to ask conntrack.
const capabilities = "-all,+sys_admin,+net_admin"

// ztunnelBinary builds the real program, once for a test.
func ztunnelBinary(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := labtest.Build(t.Context(), dir, labtest.Ztunnel); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "ztunnel")
}

// process is a ztunnel that runs as a program of its own, with the capabilities
// it has in a cluster.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  *logs
	addr map[string]string // of its servers, by name
	done chan struct{}
}

// listening is how a ztunnel says where its servers are.
var listening = regexp.MustCompile(`listening\tserver="(\w+)" addr="([^"]+)"`)

// startProcess runs binary as a ztunnel of n, and waits until it listens.
func (n *node) startProcess(binary string, env ...string) *process {
	t := n.m.t
	t.Helper()
	p := &process{t: t, log: newLogs(t, n.name), addr: map[string]string{}, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	p.cmd = exec.CommandContext(ctx, "setpriv", "--no-new-privs", "--bounding-set", capabilities, "--inh-caps", "-all", "--", binary)
	up := n.config().XDS
	p.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "NODE_NAME=" + n.name, "INSTANCE_IP=127.0.0.1",
		"POD_NAME=ztunnel-" + n.name, "POD_NAMESPACE=istio-system",
		"XDS_ADDRESS=" + up.Address, "CA_ADDRESS=" + up.Address, "XDS_ROOT_CA=" + up.RootCA, "CA_ROOT_CA=" + up.RootCA,
		"AUTH_TOKEN=" + up.Token, "INPOD_UDS=" + n.sock, "AMBIT_SOCKET_OWNER=off",
		"ADMIN_ADDR=127.0.0.1:0", "STATS_ADDR=127.0.0.1:0", "READINESS_ADDR=127.0.0.1:0",
	}, env...)
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			_, _ = p.log.Write(append(lines.Bytes(), '\n'))
			if m := listening.FindStringSubmatch(lines.Text()); m != nil && len(p.addr) < 3 {
				if p.addr[m[1]] = m[2]; len(p.addr) == 3 {
					close(ready)
				}
			}
		}
	})
	go func() {
		defer close(p.done)
		reading.Wait()
		_ = p.cmd.Wait() // how it ended is the tests' to judge
	}()
	t.Cleanup(func() { cancel(); <-p.done })
	select {
	case <-ready:
	case <-p.done:
		t.Fatal("ztunnel has ended instead of listening")
	case <-time.After(patience):
		t.Fatal("ztunnel does not listen")
	}
	eventually(t, "ztunnel is ready", func() error {
		resp, err := http.Get("http://" + p.addr["readiness"] + "/healthz/ready")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
	return p
}

// signal sends sig and does not wait.
func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// wait waits until the program has ended.
func (p *process) wait() {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatal("ztunnel has not ended")
	}
}

// resident is how much memory the program has, in bytes.
func (p *process) resident() int64 {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return kib << 10
		}
	}
	p.t.Fatal("no VmRSS")
	return 0
}

// idleMemory is the most that a ztunnel with nothing to do may take for 30 pods.
const idleMemory = 40 << 20

func TestIdleMemory(t *testing.T) {
	m := newMesh(t)
	m.resolver()
	n := m.node("n1")
	n.z.stop()
	<-n.z.done
	p := n.startProcess(ztunnelBinary(t))
	const pods = 30
	for i := range pods {
		name := fmt.Sprintf("pod%d", i)
		pod := m.pod(n, name)
		pod.add()
		pod.tell(true)
	}
	eventually(t, "all pods have their certificates", func() error {
		resp, err := http.Get("http://" + p.addr["admin"] + "/config_dump")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var text strings.Builder
		if _, err := bufio.NewReader(resp.Body).WriteTo(&text); err != nil {
			return err
		}
		if got := strings.Count(text.String(), `"Available"`); got < pods {
			return fmt.Errorf("%d certificates", got)
		}
		return nil
	})
	rss := p.resident()
	t.Logf("%.1f MB for %d pods", float64(rss)/1e6, pods)
	most := int64(idleMemory)
	if labtest.Race {
		most *= 3 // the detector's shadow of each page in use
	}
	if rss > most {
		t.Errorf("%d bytes are resident, want at most %d", rss, most)
	}
}
