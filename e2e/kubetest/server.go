package kubetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/ambit-mesh/ambit/e2e/cluster"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// adminToken is of group system:masters.
const adminToken = "admin-of-a-test-server"

// startTimeout is how long the server may take, on a machine that is busy.
const startTimeout = 2 * time.Minute

// Server is an API server.
type Server struct {
	*folder
	port     string
	programs cluster.ControlPlane
	etcd     *process
	api      *process
}

// shared is the server of a test binary.
type shared struct {
	once   sync.Once
	server *Server
	err    error
}

// one is the server of this test binary: starting one takes seconds.
var one shared

// Main runs the tests, ends the server and looks for goroutines that are left.
func Main(m *testing.M, options ...goleak.Option) {
	code := m.Run()
	if one.server != nil {
		one.server.stop()
	}
	if code == 0 {
		if err := goleak.Find(options...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// Get is the server of this test binary; it starts when it is asked for first.
func Get(t testing.TB) *Server {
	t.Helper()
	one.once.Do(func() {
		programs, err := cluster.FindControlPlane(t.Context(), cluster.Config{}, os.Getenv("CI") != "")
		if err != nil {
			one.err = err
			return
		}
		one.server, one.err = start(context.WithoutCancel(t.Context()), programs)
	})
	if errors.Is(one.err, cluster.ErrNotBuilt) && os.Getenv("CI") == "" {
		t.Skip(one.err)
	}
	if one.err != nil {
		t.Fatal(one.err)
	}
	return one.server
}

// start runs etcd and the API server.
func start(ctx context.Context, programs cluster.ControlPlane) (*Server, error) {
	f, err := makeFolder(os.TempDir())
	if err != nil {
		return nil, err
	}
	s := &Server{folder: f, programs: programs}
	ports, err := freePorts(3)
	if err == nil {
		err = s.prepare()
	}
	if err != nil {
		s.stop()
		return nil, err
	}
	s.port = ports[2]
	client, peer := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	s.etcd, err = s.run(ctx, "etcd", programs.Etcd, "--data-dir", filepath.Join(s.dir, "etcd"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	if err != nil {
		s.stop()
		return nil, err
	}
	if err := s.startAPI(ctx, client); err != nil {
		s.stop()
		return nil, err
	}
	if err := s.waitReady(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// startAPI runs the API server, beside an etcd at client.
func (s *Server) startAPI(ctx context.Context, client string) (err error) {
	at := func(name string) string { return filepath.Join(s.dir, name) }
	s.api, err = s.run(ctx, "kube-apiserver", s.programs.APIServer,
		"--etcd-servers", client, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port", s.port,
		"--cert-dir", at("certs"), "--token-auth-file", at("tokens.csv"), "--authorization-mode=RBAC,Node", "--anonymous-auth=false",
		"--service-account-key-file", at("sa.pub"), "--service-account-signing-key-file", at("sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--api-audiences=https://kubernetes.default.svc",
		"--service-cluster-ip-range=10.96.0.0/16", "--disable-admission-plugins=ServiceAccount", "--allow-privileged",
		"--endpoint-reconciler-type=none", "-v=0")
	return err
}

// prepare writes the files that the programs read.
func (s *Server) prepare() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"sa.key":     pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
		"sa.pub":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		"tokens.csv": []byte(adminToken + ",admin,admin,system:masters\n"),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// waitReady waits until the server answers that it is.
func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url()+"/readyz", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+adminToken)
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		for _, p := range []*process{s.etcd, s.api} {
			if p.ended() {
				return fmt.Errorf("%s has ended: %s", p.name, p.tail())
			}
		}
		if lifecycle.Sleep(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("the API server is not ready after %v: %s", startTimeout, s.api.tail())
		}
	}
}

// stop ends both programs and removes their files.
func (s *Server) stop() {
	s.api.stop()
	s.etcd.stop()
	if err := s.remove(); err != nil {
		fmt.Fprintln(os.Stderr, "kubetest:", err)
	}
}

// Pause stops the API server in its tracks until the result is called: it neither
// answers nor hangs up.
func (s *Server) Pause(t testing.TB) (resume func()) {
	t.Helper()
	if err := s.api.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := s.api.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	}
}

// url is that of the server.
func (s *Server) url() string { return "https://127.0.0.1:" + s.port }

// Config is that of a client with a token; empty means the administrator's.
func (s *Server) Config(token string) *rest.Config {
	if token == "" {
		token = adminToken
	}
	return &rest.Config{
		Host: s.url(), BearerToken: token, QPS: 1000, Burst: 2000,
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(s.dir, "certs", "apiserver.crt")},
	}
}

// Client is the administrator's.
func (s *Server) Client(t testing.TB) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(s.Config(""))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Kubeconfig writes a file for the holder of a token; empty means the
// administrator.
func (s *Server) Kubeconfig(t testing.TB, token string) string {
	t.Helper()
	c := s.Config(token)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: u, user: {token: %q}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, c.Host, c.CAFile, c.BearerToken)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// FreePorts are ports of loopback that nobody listens on.
func FreePorts(t testing.TB, n int) []string {
	t.Helper()
	ports, err := freePorts(n)
	if err != nil {
		t.Fatal(err)
	}
	return ports
}

// freePorts are ports of loopback that nobody listens on.
func freePorts(n int) ([]string, error) {
	var ports []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		_, port, err := net.SplitHostPort(ln.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}

// process is a program that runs.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   string
	owner lifecycle.Group
	done  chan struct{} // closed when it has ended
}

// run starts a program, whose output goes to a file. The kernel ends it should
// this process be killed.
func (s *Server) run(ctx context.Context, name, path string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(path, args...), log: filepath.Join(s.dir, name+".log"), done: make(chan struct{})}
	f, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	p.owner.Go(ctx, name, func(context.Context) {
		defer close(p.done)
		runtime.LockOSThread() // the program ends with the thread that started it
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait() // how it ended stands in its log
		}
	})
	return p, <-started
}

// ended reports whether the program has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop ends the program and waits for its end.
func (p *process) stop() {
	if p == nil {
		return
	}
	if p.cmd.Process != nil { // it was started
		p.cmd.Process.Signal(syscall.SIGCONT)
		p.cmd.Process.Kill()
	}
	p.owner.Wait()
}

// tail is the end of what the program has said.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-2000):]))
}
