package cases

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

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

// newPods is how many pods make a first connection.
const newPods = 20

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
	err = e.Deploy(ctx, App{Name: "newcomer", Replicas: newPods, Env: map[string]string{"FIRST": "server:80", "MARKER": e.Marker}})
	if err != nil {
		return "", err
	}
	took, err := e.firstLines(ctx, "newcomer")
	if err != nil {
		return "", err
	}
	got, err := leak.Clean()
	if err != nil {
		return "", err
	}
	slices.Sort(took)
	return fmt.Sprintf("%d pods, first answer after %v at the median, %v at worst; no plaintext in %d frames",
		len(took), took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), got.Frames), nil
}

// firstLines reads what the pods of an app say about their first connection.
func (e *Env) firstLines(ctx context.Context, app string) ([]time.Duration, error) {
	pods, err := e.Pods(ctx, app)
	if err != nil {
		return nil, err
	}
	var all []time.Duration
	for _, p := range pods {
		out, err := e.Kubectl(ctx, "", "logs", p.Name)
		if err != nil {
			return nil, err
		}
		var micros int64
		line, _, _ := strings.Cut(out[max(strings.Index(out, "first:"), 0):], "\n")
		if _, err := fmt.Sscanf(line, "first: ok %d us", &micros); err != nil {
			return nil, fmt.Errorf("pod %v on %s says %q", p, p.Node, line)
		}
		all = append(all, time.Duration(micros)*time.Microsecond)
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
