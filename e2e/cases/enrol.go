package cases

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/e2e/cluster"
	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// enrolCases are about coming into the mesh and leaving it.
func enrolCases() []Case {
	return []Case{
		{Name: "label-unlabel", About: "pods join and leave the mesh by a label while traffic runs, and no request fails", Run: labelUnlabel},
		{Name: "first-connection", About: "the first connection of a new pod, made at once after its container started, goes through the mesh", Run: firstConnection},
		{Name: "opt-out", About: "a pod labelled none stays outside a namespace that is in the mesh", Run: optOut},
		{Name: "jobs-end", About: "a Job in the mesh ends when its program ends", Run: jobsEnd},
		{Name: "conflist-rewritten", About: "another tool rewrites the CNI configuration, and new pods still come into the mesh", Run: conflistRewritten},
	}
}

// pair deploys a client on the first node and a server with replicas on all, and
// returns the client.
func (e *Env) pair(ctx context.Context, replicas int, linger string) (Pod, error) {
	err := e.Deploy(ctx,
		App{Name: "client", Node: e.Cluster.Nodes()[0].Name},
		App{Name: "server", Replicas: replicas, Linger: linger})
	if err != nil {
		return Pod{}, err
	}
	return e.Pod(ctx, "client")
}

func labelUnlabel(ctx context.Context, e *Env) (string, error) {
	client, err := e.pair(ctx, 2, "")
	if err != nil {
		return "", err
	}
	load, err := e.Load(ctx, client, "server:80")
	if err != nil {
		return "", err
	}
	stream, err := e.Stream(ctx, client, fmt.Sprintf("server:%d", labapp.SumPort))
	if err != nil {
		return "", err
	}
	const rounds = 3
	for range rounds {
		if err := e.Enrol(ctx); err != nil {
			return "", err
		}
		e.Note("enrolled")
		if err := load.Flowing(ctx, 2*rate); err != nil {
			return "", err
		}
		if err := e.Release(ctx); err != nil {
			return "", err
		}
		e.Note("released")
		if err := load.Flowing(ctx, 2*rate); err != nil {
			return "", err
		}
	}
	now, err := load.Clean()
	if err != nil {
		return "", err
	}
	bytes, err := stream.Clean(ctx)
	if err != nil {
		return "", err
	}
	if err := e.Enrol(ctx); err != nil {
		return "", err
	}
	// What is opened now is inside, and nothing of it is seen.
	e.Marker += "-inside"
	leak, err := e.Watch(ctx, e.Marker)
	if err != nil {
		return "", err
	}
	inside, err := e.Load(ctx, client, "server:80")
	if err != nil {
		return "", err
	}
	if err := inside.Flowing(ctx, 2*rate); err != nil {
		return "", err
	}
	after, err := inside.Clean()
	if err != nil {
		return "", err
	}
	got, err := leak.Clean()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d times in and out: %s; a stream of %d bytes; then no plaintext in %d frames", rounds, summary(now, after), bytes, got.Frames), nil
}

// strict lets only the mesh talk to the pods of a namespace.
const strict = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
`

// closed takes the case's namespace into the mesh, before it has pods, and lets only the
// mesh in.
func (e *Env) closed(ctx context.Context) error {
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{modeLabel: modeMesh}); err != nil {
		return err
	}
	return e.Apply(ctx, strict)
}

// newcomer starts a pod and makes sure that the server answers it.
func (e *Env) newcomer(ctx context.Context) error {
	if err := e.Deploy(ctx, App{Name: "after"}); err != nil {
		return err
	}
	after, err := e.Pod(ctx, "after")
	if err != nil {
		return err
	}
	return e.Reachable(ctx, after, "server:80")
}

// New pods come in waves: so many at once, on as many nodes as there are.
const (
	newPods  = 20
	newWaves = 5
	// slowestNoted is how many of a wave are noted one by one.
	slowestNoted = 5
	// firstWithin is how long the first answer may take one pod in a hundred after its
	// program has started. Where the machine itself is slower, as pods outside the mesh
	// show, at most twice as long as there.
	firstWithin = 250 * time.Millisecond
)

func firstConnection(ctx context.Context, e *Env) (string, error) {
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{modeLabel: modeMesh}); err != nil {
		return "", err
	}
	leak, err := e.Watch(ctx, e.Marker)
	if err != nil {
		return "", err
	}
	if err := e.Apply(ctx, strict); err != nil {
		return "", err
	}
	probe, err := e.pair(ctx, 2, "")
	if err != nil {
		return "", err
	}
	if err := e.Reachable(ctx, probe, "server:80"); err != nil {
		return "", err
	}
	var inside []contact
	for range newWaves {
		some, err := e.newcomers(ctx, e.Namespace, "server:80")
		if err != nil {
			return "", err
		}
		inside = append(inside, some...)
	}
	got, err := leak.Clean()
	if err != nil {
		return "", err
	}
	// What the machine and the cluster take of it: the same outside the mesh.
	outside, err := e.Extra(ctx, "out", nil)
	if err != nil {
		return "", err
	}
	if err := e.Deploy(ctx, App{Name: "server", Namespace: outside, Replicas: 2}); err != nil {
		return "", err
	}
	control, err := e.newcomers(ctx, outside, "server:80")
	if err != nil {
		return "", err
	}
	evidence := fmt.Sprintf("first answer: %s; outside the mesh: %s; no plaintext in %d frames", contacts(inside), contacts(control), got.Frames)
	if slow := p99(inside); slow > firstWithin && slow > 2*p99(control) {
		return "", fmt.Errorf("%s; want at most %v at p99, or twice what it takes outside", evidence, firstWithin)
	}
	return evidence, nil
}

// newcomers starts pods that call an address at once, says how long it took them, and
// ends them.
func (e *Env) newcomers(ctx context.Context, namespace, address string) ([]contact, error) {
	app := App{Name: "newcomer", Namespace: namespace, Replicas: newPods, Env: map[string]string{"FIRST": address, "MARKER": e.Marker}}
	if err := e.Deploy(ctx, app); err != nil {
		return nil, err
	}
	all, err := e.firstLines(ctx, namespace, app.Name)
	if err != nil {
		return nil, err
	}
	if _, err := e.Kubectl(ctx, "", "--namespace", namespace, "delete", "deployment", app.Name); err != nil {
		return nil, err
	}
	return all, e.Until(ctx, readyWithin, "end of the newcomers", func(ctx context.Context) (bool, error) {
		pods, err := e.Kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app.Name})
		return err == nil && len(pods.Items) == 0, err
	})
}

// contact is the first connection of a pod: how long it took in all, and of that to
// look the name up and to connect.
type contact struct {
	pod                   Pod
	begun                 string // by the pod's clock, which is the machine's
	took, lookup, connect time.Duration
}

// p99 is how long the slowest of a hundred first connections took; it sorts them.
func p99(all []contact) time.Duration {
	slices.SortFunc(all, func(a, b contact) int { return cmp.Compare(a.took, b.took) })
	return all[(len(all)-1)*99/100].took
}

// contacts says how long first connections took, and where the time of the slowest went.
func contacts(all []contact) string {
	slow := p99(all)
	ms := func(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
	worst := all[len(all)-1]
	return fmt.Sprintf("%d pods, %v at the median, %v at p99, %v at worst (lookup %v, connect %v)",
		len(all), ms(all[len(all)/2].took), ms(slow), ms(worst.took), ms(worst.lookup), ms(worst.connect))
}

// firstLines reads what the pods of an app say about their first connection.
func (e *Env) firstLines(ctx context.Context, namespace, app string) ([]contact, error) {
	pods, err := e.PodsIn(ctx, namespace, app)
	if err != nil {
		return nil, err
	}
	var all []contact
	for _, p := range pods {
		out, err := e.Kubectl(ctx, "", "--namespace", namespace, "logs", p.Name)
		if err != nil {
			return nil, err
		}
		var took, lookup, connect int64
		var begun string
		line, _, _ := strings.Cut(out[max(strings.Index(out, "first:"), 0):], "\n")
		if _, err := fmt.Sscanf(line, "first: ok %d us, lookup %d us, connect %d us, begun %s", &took, &lookup, &connect, &begun); err != nil {
			return nil, fmt.Errorf("pod %v on %s says %q", p, p.Node, line)
		}
		us := func(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
		all = append(all, contact{p, begun, us(took), us(lookup), us(connect)})
	}
	slices.SortFunc(all, func(a, b contact) int { return cmp.Compare(b.took, a.took) })
	for _, c := range all[:min(len(all), slowestNoted)] { // so that the proxies' logs can be laid beside them
		e.Note("first connection of %v (%v) on %s, begun %s: %v, lookup %v, connect %v", c.pod, c.pod.IP, c.pod.Node, c.begun, c.took, c.lookup, c.connect)
	}
	return all, nil
}

func optOut(ctx context.Context, e *Env) (string, error) {
	if err := e.closed(ctx); err != nil {
		return "", err
	}
	err := e.Deploy(ctx,
		App{Name: "inside"}, App{Name: "server"},
		App{Name: "outside", Labels: map[string]string{modeLabel: "none"}})
	if err != nil {
		return "", err
	}
	inside, err := e.Pod(ctx, "inside")
	if err != nil {
		return "", err
	}
	outside, err := e.Pod(ctx, "outside")
	if err != nil {
		return "", err
	}
	if err := e.Reachable(ctx, inside, "server:80"); err != nil {
		return "", err
	}
	if err := outside.Refused(ctx, "server:80"); err != nil {
		return "", err
	}
	// The way out is open: who is outside may be called.
	if err := e.Reachable(ctx, inside, "outside:80"); err != nil {
		return "", err
	}
	return "the pod inside is answered under STRICT, the one outside is not, and can itself be called", nil
}

func jobsEnd(ctx context.Context, e *Env) (string, error) {
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{modeLabel: modeMesh}); err != nil {
		return "", err
	}
	err := e.Apply(ctx, fmt.Sprintf(`
apiVersion: batch/v1
kind: Job
metadata: {name: job}
spec:
  completions: 3
  parallelism: 3
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: app
        image: %s
        imagePullPolicy: IfNotPresent
        env: [{name: EXIT_AFTER, value: 2s}]
`, cluster.AppImage))
	if err != nil {
		return "", err
	}
	if _, err := e.Kubectl(ctx, "", "wait", "--for=condition=complete", "job/job", "--timeout=60s"); err != nil {
		return "", err
	}
	return "3 of 3 completed", nil
}

func conflistRewritten(ctx context.Context, e *Env) (string, error) {
	if err := e.closed(ctx); err != nil {
		return "", err
	}
	if err := e.Deploy(ctx, App{Name: "server"}); err != nil {
		return "", err
	}
	for _, n := range e.Cluster.Nodes() {
		if err := n.RewriteNetworkConfig(); err != nil {
			return "", err
		}
	}
	// At once, and again after the agent had time to see it.
	for i := range 3 {
		name := fmt.Sprintf("late-%d", i)
		if err := e.Deploy(ctx, App{Name: name, Replicas: 2}); err != nil {
			return "", err
		}
		if err := e.WaitEnrolled(ctx, true); err != nil {
			return "", err
		}
		pods, err := e.Pods(ctx, name)
		if err != nil {
			return "", err
		}
		for _, p := range pods {
			if err := e.Reachable(ctx, p, "server:80"); err != nil {
				return "", err
			}
		}
	}
	return "written over on every node; 6 new pods reach a STRICT server", nil
}
