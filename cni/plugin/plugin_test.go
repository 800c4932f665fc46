package plugin

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agent is the other end of the socket: it notes what is asked and answers what
// the test says.
type agent struct {
	dir    string
	asked  []string
	bodies []string
	status int
	text   string
}

// newAgent serves until the test ends.
func newAgent(t *testing.T, status int, text string) *agent {
	t.Helper()
	a := &agent{dir: t.TempDir(), status: status, text: text}
	ln, err := net.Listen("unix", filepath.Join(a.dir, event.Socket))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a.asked = append(a.asked, r.Method+" "+r.URL.Path)
		a.bodies = append(a.bodies, string(body))
		w.WriteHeader(a.status)
		io.WriteString(w, a.text)
	})}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ln) }()
	t.Cleanup(func() { s.Close(); <-done })
	return a
}

const prevResult = `,"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/p"}],` +
	`"ips":[{"address":"10.1.0.7/24","gateway":"10.1.0.1","interface":0}]}`

// call runs one command as skel would.
func call(t *testing.T, command, dir, more, args string) error {
	t.Helper()
	f := Funcs(t.Context())
	a := &skel.CmdArgs{
		ContainerID: "c1", Netns: "/run/netns/p", IfName: "eth0", Args: args,
		StdinData: []byte(`{"cniVersion":"1.1.0","name":"net","type":"ambit-cni","cni_agent_run_dir":"` + dir + `"` + more + `}`),
	}
	return map[string]func(*skel.CmdArgs) error{"ADD": f.Add, "DEL": f.Del, "CHECK": f.Check, "GC": f.GC, "STATUS": f.Status}[command](a)
}

const podOfShop = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=u1;K8S_POD_INFRA_CONTAINER_ID=c1"

func TestCommandsAskTheAgent(t *testing.T) {
	tests := []struct {
		name, command, more, args string
		want                      string // method and path; "" for no question
	}{
		{"add asks with the pod", "ADD", prevResult, podOfShop, "POST /cmdadd"},
		{"check asks with the pod", "CHECK", prevResult, podOfShop, "POST /cmdcheck"},
		{"del tells", "DEL", prevResult, podOfShop, "POST /cmddel"},
		{"del without a result tells as well", "DEL", "", podOfShop, "POST /cmddel"},
		{"gc lists what is valid", "GC", `,"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]`, "", "POST /gc"},
		{"status asks", "STATUS", "", "", "GET /status"},
		{"an excluded namespace is not asked about", "ADD", prevResult + `,"exclude_namespaces":["shop"]`, podOfShop, ""},
		{"the agent's own pod can start without it", "ADD", prevResult + `,"pod_namespace":"shop"`, strings.Replace(podOfShop, "web-1", "ambit-cni-x", 1), ""},
		{"what is not a Kubernetes pod is none of ours", "ADD", prevResult, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAgent(t, http.StatusOK, "")
			if err := call(t, tt.command, a.dir, tt.more, tt.args); err != nil {
				t.Fatalf("%s: %v", tt.command, err)
			}
			if got := strings.Join(a.asked, ","); got != tt.want {
				t.Errorf("asked %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAddSaysWhatTheAgentNeeds(t *testing.T) {
	a := newAgent(t, http.StatusOK, "")
	if err := call(t, "ADD", a.dir, prevResult, podOfShop); err != nil {
		t.Fatal(err)
	}
	const want = `{"Netns":"/run/netns/p","PodName":"web-1","PodNamespace":"shop",` +
		`"IPs":[{"Interface":0,"Address":{"IP":"10.1.0.7","Mask":"////AA=="},"Gateway":"10.1.0.1"}],` +
		`"ContainerID":"c1","IfName":"eth0","PodUID":"u1","Network":"net"}`
	if a.bodies[0] != want {
		t.Errorf("body = %s\nwant %s", a.bodies[0], want)
	}
	var back event.Add
	if err := json.Unmarshal([]byte(a.bodies[0]), &back); err != nil || back.IPs[0].Address.String() != "10.1.0.7/24" {
		t.Errorf("read back: %+v, %v", back, err)
	}
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name, command, more string
		answers             bool
		code                uint // 0: no error
		want                string
	}{
		{"add fails with the agent's reason", "ADD", prevResult, true, types.ErrInternal, "no room"},
		{"check fails with the agent's reason", "CHECK", prevResult, true, types.ErrInternal, "no room"},
		{"status fails with the agent's reason", "STATUS", "", true, types.ErrPluginNotAvailable, "no room"},
		{"gc fails with the agent's reason", "GC", "", true, types.ErrInternal, "no room"},
		{"del fails with the agent's reason", "DEL", "", true, types.ErrInternal, "no room"},
		{"add without an agent fails, to be tried again", "ADD", prevResult, false, types.ErrTryAgainLater, "pluginevent.sock"},
		{"status without an agent says so", "STATUS", "", false, types.ErrPluginNotAvailable, "does ambit-cni-agent run"},
		{"del without an agent does not hold the pod's end up", "DEL", "", false, 0, ""},
		{"add first in the chain says where it belongs", "ADD", "", true, types.ErrInvalidNetworkConfig, "move the entry"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "none")
			if tt.answers {
				dir = newAgent(t, http.StatusServiceUnavailable, "no room\n").dir
			}
			err := call(t, tt.command, dir, tt.more, podOfShop)
			if tt.code == 0 {
				if err != nil {
					t.Fatalf("error = %v, want none", err)
				}
				return
			}
			e, ok := errors.AsType[*types.Error](err)
			if !ok || e.Code != tt.code || !strings.Contains(e.Msg+e.Details, tt.want) {
				t.Errorf("error = %#v, want code %d with %q", err, tt.code, tt.want)
			}
		})
	}
}

// FuzzConfig: whatever the runtime passes, the plugin answers with an error of
// the specification or asks the agent; it never panics.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"n","type":"ambit-cni"`+prevResult+`}`), podOfShop)
	f.Add([]byte(`{"cniVersion":"0.3.1","prevResult":{"ips":[{"version":"4","address":"10.0.0.1/8"}]}}`), "K8S_POD_NAME")
	f.Fuzz(func(t *testing.T, stdin []byte, args string) {
		a := &skel.CmdArgs{StdinData: stdin, Args: args}
		conf, _, err := read(a)
		if err == nil {
			_, err = conf.result()
		}
		if _, ok := errors.AsType[*types.Error](err); err != nil && !ok {
			t.Errorf("error %v is not one of the specification", err)
		}
	})
}
