package interop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/e2e/cases"
	"github.com/ambit-mesh/ambit/internal/lab/labapp"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// The label by which pods join.
const (
	modeLabel = "istio.io/dataplane-mode"
	modeMesh  = "ambient"
)

// Cases lists what a world promises.
func (w World) Cases(peers Peers) []cases.Case {
	own := []cases.Case{
		{Name: "traffic", About: "traffic both ways, across nodes and on one node: nothing fails, no plaintext, servers see the client's address, both ends record both identities", Run: w.traffic},
		{Name: "half-close", About: "a half-close arrives, and a server that speaks first is heard", Run: w.halfClose},
		{Name: "deny", About: "a DENY rule is in force, and leaves others alone", Run: w.deny},
		{Name: "cut", About: "a policy that comes cuts connections that live", Run: w.cut},
		{Name: "label", About: "pods join and leave by a label without a restart, and are reached in both states", Run: w.label},
		{Name: "owner", About: "ambit check names who owns the nodes, and ambit install refuses to fight it", Run: w.owner},
	}
	if !w.otherProxy && w.parts[0].ours == "" {
		own = append(own, cases.Case{Name: "istioctl", About: "istioctl ztunnel-config reads our ztunnel: workload, service, policy, certificate, connections, all, log", Run: w.istioctl(peers)})
	}
	for _, c := range cases.All() {
		if slices.Contains(w.same, c.Name) {
			own = append(own, c)
		}
	}
	for i := range own {
		own[i].Name = w.Name + "-" + own[i].Name
	}
	return own
}

// cast is who plays in a world's cases: two clients that are servers too, and a server,
// so that there are ways both between nodes and on one.
type cast struct{ alice, bob, server cases.Pod }

// meshed takes the case's namespace into the mesh, lets only the mesh in, and deploys
// alice and the server on the first node, and bob on the last.
func meshed(ctx context.Context, e *cases.Env) (cast, error) {
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{modeLabel: modeMesh}); err != nil {
		return cast{}, err
	}
	if err := e.Apply(ctx, strict); err != nil {
		return cast{}, err
	}
	return deployed(ctx, e)
}

// deployed deploys the cast.
func deployed(ctx context.Context, e *cases.Env) (c cast, err error) {
	nodes := e.Cluster.Nodes()
	near, far := nodes[0].Name, nodes[len(nodes)-1].Name
	err = e.Deploy(ctx, cases.App{Name: "alice", Node: near}, cases.App{Name: "server", Node: near}, cases.App{Name: "bob", Node: far})
	for name, pod := range map[string]*cases.Pod{"alice": &c.alice, "bob": &c.bob, "server": &c.server} {
		if err == nil {
			*pod, err = e.Pod(ctx, name)
		}
	}
	return c, err
}

// strict lets only the mesh in.
const strict = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
`

func (w World) traffic(ctx context.Context, e *cases.Env) (string, error) {
	c, err := meshed(ctx, e)
	if err != nil {
		return "", err
	}
	for _, way := range []struct {
		from cases.Pod
		to   string
	}{{c.alice, "bob:80"}, {c.bob, "alice:80"}, {c.alice, "server:80"}} {
		if err := e.Reachable(ctx, way.from, way.to); err != nil {
			return "", err
		}
	}
	leak, err := e.Watch(ctx, e.Marker)
	if err != nil {
		return "", err
	}
	var loads []*cases.Load
	for _, way := range []struct {
		from cases.Pod
		to   string
	}{{c.alice, "bob:80"}, {c.bob, "alice:80"}, {c.alice, "server:80"}} {
		load, err := e.LoadAtOnce(ctx, way.from, way.to)
		if err != nil {
			return "", err
		}
		loads = append(loads, load)
	}
	var sent, fresh int
	for _, load := range loads {
		if err := load.Flowing(ctx, 300); err != nil {
			return "", err
		}
	}
	for _, load := range loads {
		now, err := load.Stop()
		if err == nil && now.Failed > 0 {
			err = fmt.Errorf("%d of %d requests failed, the first after %v: %s", now.Failed, now.Sent, now.Failures[0].After, now.Failures[0].Error)
		}
		if err != nil {
			return "", fmt.Errorf("load %s: %w", load.What, err)
		}
		sent, fresh = sent+now.Sent, fresh+now.New
	}
	got, err := leak.Clean()
	if err != nil {
		return "", err
	}
	if err := sources(ctx, c); err != nil {
		return "", err
	}
	if err := recorded(ctx, e, "alice", "bob"); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d requests on three ways, %d on new connections, 0 failed; sources kept; both identities recorded at both ends; no plaintext in %d frames", sent, fresh, got.Frames), recorded(ctx, e, "bob", "alice")
}

// sources makes sure that servers see the addresses of their clients.
func sources(ctx context.Context, c cast) error {
	for _, way := range []struct{ from, to cases.Pod }{{c.alice, c.bob}, {c.bob, c.alice}, {c.alice, c.server}} {
		hello, err := way.from.Hello(ctx, way.to.At(labapp.HTTPPort))
		if err != nil {
			return err
		}
		if host, _, _ := strings.Cut(hello.Remote, ":"); host != way.from.IP.String() {
			return fmt.Errorf("%v saw the source address %s, want %v", way.to, hello.Remote, way.from.IP)
		}
	}
	return nil
}

// recorded makes sure that the ztunnels of both ends have recorded a connection with both
// identities. The keys of records are the same in both.
func recorded(ctx context.Context, e *cases.Env, from, to string) error {
	id := "spiffe://cluster.local/ns/" + e.Namespace + "/sa/"
	return e.Until(ctx, 10*time.Second, fmt.Sprintf("records of a connection from %s to %s", from, to), func(ctx context.Context) (bool, error) {
		log, err := e.Kubectl(ctx, "", "logs", "--namespace", cases.System, "--selector=app=ztunnel", "--since=3m", "--tail=-1")
		if err != nil {
			return false, err
		}
		ends := map[string]int{}
		for line := range strings.Lines(log) {
			at := strings.Index(line, id+from)
			if at < 0 || !strings.Contains(line, id+to) {
				continue
			}
			for _, end := range []string{"outbound", "inbound"} {
				if strings.Contains(line, end) {
					ends[end]++
				}
			}
		}
		if ends["outbound"] == 0 || ends["inbound"] == 0 {
			return false, fmt.Errorf("records with %s%s and %s%s: %v", id, from, id, to, ends)
		}
		return true, nil
	})
}

func (w World) halfClose(ctx context.Context, e *cases.Env) (string, error) {
	c, err := meshed(ctx, e)
	if err != nil {
		return "", err
	}
	const size = 4 << 20
	for _, way := range []struct{ from, to cases.Pod }{{c.alice, c.bob}, {c.bob, c.alice}, {c.alice, c.server}} {
		if err := e.Reachable(ctx, way.from, way.to.At(labapp.HTTPPort)); err != nil {
			return "", err
		}
		r, err := way.from.Do(ctx, labapp.Request{Do: labapp.DoUpload, Address: way.to.At(labapp.SumPort), Bytes: size, Timeout: 20 * time.Second})
		if err != nil {
			return "", err
		}
		if r.Got == nil || r.Sent == nil || *r.Got != *r.Sent {
			return "", fmt.Errorf("%v sent %+v, %v counted %+v", way.from, r.Sent, way.to, r.Got)
		}
		if r, err = way.from.Do(ctx, labapp.Request{Do: labapp.DoBanner, Address: way.to.At(labapp.BannerPort)}); err != nil {
			return "", err
		}
		if want := "220 " + way.to.Name + " ready"; !strings.HasPrefix(r.Text, "220 ") {
			return "", fmt.Errorf("%v heard %q, want %q", way.from, r.Text, want)
		}
	}
	return fmt.Sprintf("%d MiB, then FIN, then the server's sum of them, on three ways; a server's first word heard on each", size>>20), nil
}

// denyAlice keeps alice from the servers.
const denyAlice = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-alice}
spec:
  action: DENY
  rules:
  - from: [{source: {principals: [cluster.local/ns/%s/sa/alice]}}]
`

func (w World) deny(ctx context.Context, e *cases.Env) (string, error) {
	c, err := meshed(ctx, e)
	if err != nil {
		return "", err
	}
	for _, from := range []cases.Pod{c.alice, c.bob} {
		if err := e.Reachable(ctx, from, "server:80"); err != nil {
			return "", err
		}
	}
	policy := fmt.Sprintf(denyAlice, e.Namespace)
	start := time.Now()
	if err := e.Apply(ctx, policy); err != nil {
		return "", err
	}
	err = e.Until(ctx, 20*time.Second, "alice is refused", func(ctx context.Context) (bool, error) {
		return c.alice.Refused(ctx, "server:80") == nil, nil
	})
	if err != nil {
		return "", err
	}
	took := time.Since(start)
	for range 5 {
		if err := errors.Join(c.alice.Refused(ctx, "server:80"), c.alice.Refused(ctx, c.bob.At(labapp.HTTPPort))); err != nil {
			return "", err
		}
	}
	if err := e.Reachable(ctx, c.bob, "server:80"); err != nil {
		return "", fmt.Errorf("the rule does not name bob: %w", err)
	}
	if err := e.Delete(ctx, policy); err != nil {
		return "", err
	}
	return fmt.Sprintf("alice refused %v after the rule came, on one node and across; bob let in; without the rule alice is let in again", took.Round(time.Millisecond)),
		e.Reachable(ctx, c.alice, "server:80")
}

// denySelected is denyAlice for the pods of one app.
const denySelected = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-alice-by-selector}
spec:
  selector: {matchLabels: {app: %s}}
  action: DENY
  rules:
  - from: [{source: {principals: [cluster.local/ns/%s/sa/alice]}}]
`

// cutWithin is how long a connection may live on under a policy that forbids it: what
// kubectl and a busy machine take is in it.
const cutWithin = 10 * time.Second

func (w World) cut(ctx context.Context, e *cases.Env) (string, error) {
	c, err := meshed(ctx, e)
	if err != nil {
		return "", err
	}
	var evidence []string
	// Of one server for its whole namespace, of the other by a selector.
	for _, policy := range []struct{ what, text string }{
		{"for the namespace", fmt.Sprintf(denyAlice, e.Namespace)},
		{"by a selector", fmt.Sprintf(denySelected, "server", e.Namespace) + "---" + fmt.Sprintf(strings.Replace(denySelected, "no-alice-by", "no-alice-to-bob-by", 1), "bob", e.Namespace)},
	} {
		took, err := cutBy(ctx, e, c, policy.text)
		alive := errors.Is(err, errAlive)
		if err != nil && !alive {
			return "", err
		}
		// The Rust ztunnel evaluates a connection with the workload as it was when the
		// connection began: a policy that the workload names only since then cuts nothing.
		if alive && !(w.otherProxy && policy.what == "by a selector") {
			return "", fmt.Errorf("policy %s: %w", policy.what, err)
		}
		if alive {
			evidence = append(evidence, policy.what+" not within "+cutWithin.String()+": the Rust ztunnel asks a live connection only the policies that its workload named when it began")
		} else {
			evidence = append(evidence, fmt.Sprintf("%s: on one node after %v, across after %v", policy.what, took[0], took[1]))
		}
	}
	return "live connections cut " + strings.Join(evidence, "; "), nil
}

// errAlive says that connections live on.
var errAlive = errors.New("a connection lives on under a policy that forbids it")

// cutBy holds connections of alice, applies a policy, and says how long each lived on.
func cutBy(ctx context.Context, e *cases.Env, c cast, policy string) (took [2]time.Duration, err error) {
	var live [2]*labapp.Session
	for i, to := range []cases.Pod{c.server, c.bob} {
		if err := e.Reachable(ctx, c.alice, to.At(labapp.HTTPPort)); err != nil {
			return took, err
		}
		live[i], err = c.alice.Begin(ctx, labapp.Request{Do: labapp.DoWatch, Address: to.At(labapp.TickerPort), Timeout: time.Minute})
		if err != nil {
			return took, err
		}
		defer live[i].Close()
		if r, err := live[i].Next(ctx); err != nil || r.Done {
			return took, fmt.Errorf("no line from %v: %s: %w", to, r.Error, err)
		}
	}
	start := time.Now() // what kubectl takes counts
	if err := e.Apply(ctx, policy); err != nil {
		return took, err
	}
	defer func() { err = errors.Join(err, e.Delete(ctx, policy)) }()
	waiting, cancel := context.WithTimeout(ctx, cutWithin)
	defer cancel()
	for i, session := range live {
		if _, err := session.Wait(waiting); err != nil {
			return took, errors.Join(errAlive, err)
		}
		took[i] = time.Since(start).Round(time.Millisecond)
	}
	return took, nil
}

func (w World) label(ctx context.Context, e *cases.Env) (string, error) {
	c, err := deployed(ctx, e)
	if err != nil {
		return "", err
	}
	load, err := e.Load(ctx, c.bob, "alice:80")
	if err != nil {
		return "", err
	}
	if err := e.Enrol(ctx); err != nil {
		return "", err
	}
	if err := lifecycle.Sleep(ctx, 2*time.Second); err != nil {
		return "", err
	}
	// What begins now is inside: only the mesh is let in.
	if err := e.Apply(ctx, strict); err != nil {
		return "", err
	}
	if err := e.Reachable(ctx, c.alice, "bob:80"); err != nil {
		return "", fmt.Errorf("under STRICT: %w", err)
	}
	if err := recorded(ctx, e, "alice", "bob"); err != nil {
		return "", err
	}
	if err := e.Delete(ctx, strict); err != nil {
		return "", err
	}
	if err := e.Release(ctx); err != nil {
		return "", err
	}
	if err := lifecycle.Sleep(ctx, 2*time.Second); err != nil {
		return "", err
	}
	if err := e.Reachable(ctx, c.alice, "bob:80"); err != nil {
		return "", fmt.Errorf("released: %w", err)
	}
	now, err := load.Stop()
	if err != nil {
		return "", err
	}
	if now.Failed == 0 {
		return fmt.Sprintf("in and out without a restart; meanwhile %d requests, 0 failed", now.Sent), nil
	}
	first := now.Failures[0]
	what := fmt.Sprintf("in and out without a restart; meanwhile %d of %d requests failed, the first: %s", now.Failed, now.Sent, first.Error)
	if !w.otherAgent && !w.otherProxy {
		return "", errors.New(what)
	}
	return what + " (that none fails is not promised beside another agent or proxy)", nil
}
