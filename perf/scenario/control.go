package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/perf/load"
	"github.com/ambit-mesh/ambit/perf/measure"
	"github.com/ambit-mesh/ambit/perf/report"
)

const (
	// perFile is how many workloads a file of manifests has, and perService how many
	// of them are behind a service.
	perFile, perService = 1000, 20
	// syncTimeout is how long a ztunnel may take until it knows a whole world.
	syncTimeout = 3 * time.Minute
	// changeTimeout is how long a change may take until it is felt.
	changeTimeout = 10 * time.Second
	// adminPort is where a ztunnel shows its picture, on its own machine only.
	adminPort = 15000
)

// cut is a policy that ends connections to the far end of across. It is one of a whole
// namespace: one with a selector arrives before the workload that names it, and the
// peer at hand then ends no connection that lives.
const cut = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: perf-cut, namespace: shop}
spec:
  action: DENY
  rules: [{from: [{source: {namespaces: [shop]}}]}]
`

// controlPlane measures a world of n workloads: how long a ztunnel that starts
// takes until it is ready, how long a changed policy takes from its file to a
// connection that it ends, and what both sides hold.
func controlPlane(n int, plan report.Plan, in depth) scene {
	return scene{
		name: fmt.Sprintf("control/%d", n), title: fmt.Sprintf("Control plane with %d workloads and %d services", n, n/perService),
		variants: meshVariants, repetitions: 1, in: in,
		prepare: func(ctx context.Context, s *site) error { return s.enterWorld(ctx, n) },
		undo:    func(ctx context.Context, s *site) error { return s.leaveWorld(ctx) },
		take: func(ctx context.Context, s *site, rep int) (*report.Sample, error) {
			node := s.lab.Node(1)
			if _, err := waitWorld(ctx, node, n); err != nil {
				return nil, err
			}
			out := &report.Sample{Variant: s.variant, Repetition: rep, Values: map[report.Metric]float64{}, Series: map[report.Series][]float64{}}
			took, err := coldSync(ctx, s, node, n)
			if err != nil {
				return nil, err
			}
			out.Values[report.ColdSync] = took.Seconds()
			// Once more, because a page of the whole world takes memory.
			if err := errors.Join(s.restartNode(ctx, node), s.lab.WaitZtunnel(ctx, node), lifecycle.Sleep(ctx, settled)); err != nil {
				return nil, err
			}
			got, err := measure.Take([]measure.Process{
				{Name: "control", PID: s.lab.Istiod().Record.PID}, {Name: "proxy", PID: node.Ztunnel.Record.PID},
			})
			if err != nil {
				return nil, err
			}
			out.Values[report.IstiodMemory] = float64(got.Processes["control"].Resident)
			out.Values[report.ZtunnelMemory] = float64(got.Processes["proxy"].Resident)
			for range plan.Changes {
				took, err := change(ctx, s)
				if err != nil {
					return nil, err
				}
				out.Series[report.SeriesChange] = append(out.Series[report.SeriesChange], took.Seconds())
			}
			return out, nil
		},
	}
}

// coldSync starts the ztunnel of a node anew and returns how long it takes until
// it knows n workloads and says that it is ready.
func coldSync(ctx context.Context, s *site, node *lab.Node, n int) (time.Duration, error) {
	if err := node.Ztunnel.Stop(); err != nil {
		return 0, err
	}
	begun := time.Now()
	if err := errors.Join(s.lab.StartZtunnel(ctx, node), s.lab.WaitZtunnel(ctx, node)); err != nil {
		return 0, err
	}
	ready := time.Since(begun)
	asked, err := waitWorld(ctx, node, n)
	if asked > 1 {
		ready = time.Since(begun) // it was ready before it knew all
	}
	return ready, err
}

// waitWorld waits until the ztunnel of a node shows n workloads, and returns how
// often it has asked.
func waitWorld(ctx context.Context, node *lab.Node, n int) (asked int, err error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	for {
		known, err := countWorkloads(ctx, node)
		if err != nil {
			return asked, err
		}
		asked++
		if known >= n {
			return asked, nil
		}
		if lifecycle.Sleep(ctx, 200*time.Millisecond) != nil {
			return asked, fmt.Errorf("%s knows %d of %d workloads after %v", node.Name, known, n, syncTimeout)
		}
	}
}

// countWorkloads asks the ztunnel of a node how many workloads it knows.
func countWorkloads(ctx context.Context, node *lab.Node) (int, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		doErr := node.NetNS.Do(func() error {
			c, err = new(net.Dialer).DialContext(ctx, network, addr)
			return nil
		})
		return c, errors.Join(doErr, err)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/config_dump", adminPort), nil)
	if err != nil {
		return 0, err
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var dump struct {
		Workloads []json.RawMessage `json:"workloads"`
	}
	if err := json.NewDecoder(res.Body).Decode(&dump); err != nil {
		return 0, fmt.Errorf("config_dump of %s: %w", node.Name, err)
	}
	return len(dump.Workloads), nil
}

// change writes a policy that ends a connection, and returns how long that took.
// Afterwards all is as before.
func change(ctx context.Context, s *site) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	from, to := s.lab.Pod(across.from[0], across.from[1]).NetNS, s.address(across, load.WebPort)
	var c net.Conn
	err = from.Do(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", to)
		return err
	})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if _, err := c.Write(load.OneRequest()); err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	buf := make([]byte, 4<<10)
	if _, err := c.Read(buf); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.world().Delete("perf-cut")) }() // whatever happens
	begun := time.Now()
	if err := s.world().Apply("perf-cut", cut); err != nil {
		return 0, err
	}
	for err == nil {
		_, err = c.Read(buf)
	}
	took = time.Since(begun)
	if ctx.Err() != nil {
		return 0, fmt.Errorf("a policy has not ended a connection after %v", changeTimeout)
	}
	if err := s.world().Delete("perf-cut"); err != nil {
		return 0, err
	}
	for {
		if _, err := firstByte(ctx, from, to); err == nil {
			return took, nil
		} else if lifecycle.Sleep(ctx, 5*time.Millisecond) != nil {
			return 0, fmt.Errorf("a policy that is gone still refuses after %v: %w", changeTimeout, err)
		}
	}
}

// world is the directory of manifests that the control plane reads meanwhile: the
// lab's and those of many workloads, which the agents of its nodes need not read.
func (s *site) world() lab.Manifests {
	return lab.Manifests{Dir: filepath.Join(s.lab.Dir(), "world")}
}

// enterWorld starts the control plane anew on a world of n workloads.
func (s *site) enterWorld(ctx context.Context, n int) error {
	dir := s.world().Dir
	if err := os.CopyFS(dir, os.DirFS(s.lab.Manifests().Dir)); err != nil {
		return err
	}
	if err := errors.Join(s.lab.StopIstiod(), s.lab.StartIstiodWith(ctx, dir)); err != nil {
		return err
	}
	return writeWorld(dir, n)
}

// leaveWorld undoes enterWorld.
func (s *site) leaveWorld(ctx context.Context) error {
	if err := errors.Join(s.lab.StopIstiod(), os.RemoveAll(s.world().Dir)); err != nil {
		return err
	}
	return s.lab.StartIstiod(ctx)
}

// writeWorld writes manifests of n workloads of other nodes, and of services over
// them, into a directory that may have some of them already.
func writeWorld(dir string, n int) error {
	var names strings.Builder
	for i := range worldNamespaces {
		fmt.Fprintf(&names, "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: world-%d, labels: {istio.io/dataplane-mode: ambient}}\n", i)
	}
	if err := writeManifest(dir, "world", names.String()); err != nil {
		return err
	}
	for first := 0; first < n; first += perFile {
		if err := writeManifest(dir, fmt.Sprintf("world-%d", first/perFile), worldPart(first, min(n, first+perFile))); err != nil {
			return err
		}
	}
	return nil
}

// writeManifest writes a file of manifests in one step.
func writeManifest(dir, name, text string) error {
	tmp := filepath.Join(dir, "."+name)
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, name+".yaml"))
}

// worldNamespaces is how many namespaces a world has.
const worldNamespaces = 20

// worldPart are the manifests of some workloads and of the services over them. The
// pods of a service are neighbours and share a service account.
func worldPart(first, end int) string {
	var b strings.Builder
	for i := first; i < end; i++ {
		service := i / perService
		namespace := service % worldNamespaces
		if i%perService == 0 {
			fmt.Fprintf(&b, `---
apiVersion: v1
kind: Service
metadata: {namespace: world-%d, name: app-%d}
spec: {clusterIP: %s, selector: {app: app-%[2]d}, ports: [{name: http, port: 80, targetPort: 8080}]}
`, namespace, service, worldAddr(100, service))
		}
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Pod
metadata:
  namespace: world-%d
  name: app-%d-%d
  uid: 00000000-0000-4000-8000-%012[4]d
  labels: {app: app-%[2]d}
  annotations: {ambient.istio.io/redirection: enabled}
spec: {nodeName: far-%[5]d, serviceAccountName: app-%[2]d, containers: [{name: app, image: app}]}
status: {phase: Running, podIP: %[6]s, podIPs: [{ip: %[6]s}], conditions: [{type: Ready, status: "True"}]}
`, namespace, service, i, i, i/100, worldAddr(110, i))
	}
	return b.String()
}

// worldAddr is an address that no lab has.
func worldAddr(second, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(second + i>>16), byte(i >> 8), byte(i)})
}
