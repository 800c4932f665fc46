package cases

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ambit-mesh/ambit/e2e/cluster"
	"github.com/ambit-mesh/ambit/internal/lab/labapp"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// downFor is how long parts of the cluster are held down.
const downFor = 60 * time.Second

// ztunnelGrace is how long the old ztunnel of a node carries what stands, as the chart
// has it.
const ztunnelGrace = 30 * time.Second

// faultCases take parts of the mesh and of the cluster away.
func faultCases() []Case {
	return []Case{
		{Name: "ztunnel-rolling-update", About: "ztunnels are replaced under load: no new connection fails, and a stream lives to the end of the grace period", Run: ztunnelUpdate},
		{Name: "ztunnel-killed", About: "a ztunnel is killed: its pods are never outside the mesh, and are served again within seconds", Run: ztunnelKilled},
		{Name: "agent-killed", About: "the agents are killed under load: no request fails, and new pods come into the mesh or not at all", Run: agentKilled},
		{Name: "agent-away", About: "the agents are away for 20 s under STRICT: the kubelet's probes pass, so that no pod becomes unready, and no request fails", Run: agentAway},
		{Name: "istiod-down", About: "both istiod-lite are gone for 60 s while pods come and go: no request between pods that stand fails", Run: istiodDown},
		{Name: "apiserver-down", About: "the API server is stopped for 60 s under load: no request fails", Run: apiserverDown},
		{Name: "all-not-ready", About: "all pods of a service are marked NotReady for a moment, as when an API server comes back and nodes were not heard of: no request fails", Run: allNotReady},
		{Name: "node-reboot", About: "a node is switched off and on again: its pods are never outside the mesh, and come back into it", Run: nodeReboot, Breaks: true},
	}
}

// guarded is a mesh under load whose borders are watched: a capture on every node, and
// on each node a stranger that sends plaintext to a server all the time.
type guarded struct {
	e         *Env
	client    Pod
	load      *Load
	leak      *Leak
	strangers []*Load
}

// guard builds what guarded says.
func (e *Env) guard(ctx context.Context, replicas int) (*guarded, error) {
	outside, err := e.Extra(ctx, "out", nil)
	if err != nil {
		return nil, err
	}
	g := &guarded{e: e}
	if g.client, g.leak, err = e.meshed(ctx, replicas, ""); err != nil {
		return nil, err
	}
	if g.load, err = e.Load(ctx, g.client, "server:80"); err != nil {
		return nil, err
	}
	servers, err := e.Pods(ctx, "server")
	if err != nil {
		return nil, err
	}
	for i, n := range e.Cluster.Nodes() {
		name := fmt.Sprintf("stranger-%d", i+1)
		if err := e.Deploy(ctx, App{Name: name, Namespace: outside, Node: n.Name}); err != nil {
			return nil, err
		}
		pods, err := e.PodsIn(ctx, outside, name)
		if err != nil {
			return nil, err
		}
		target := servers[i%len(servers)]
		for _, s := range servers {
			if s.Node == n.Name { // on its own node no other stands between
				target = s
			}
		}
		stranger, err := e.stranger(ctx, pods[0], target.At(labapp.HTTPPort))
		if err != nil {
			return nil, err
		}
		g.strangers = append(g.strangers, stranger)
	}
	return g, nil
}

// stranger sends plaintext from outside the mesh, slowly, with a marker that is not the
// capture's: what it sends is on the wire rightly, what it is answered is not.
func (e *Env) stranger(ctx context.Context, from Pod, to string) (*Load, error) {
	return e.begin(ctx, from, labapp.Request{Do: labapp.DoLoad, Address: to, Rate: 20, Text: "stranger", Timeout: time.Second})
}

// inside makes sure that nothing was outside the mesh.
func (g *guarded) inside() (string, error) {
	asked := 0
	for _, s := range g.strangers {
		now, err := s.Stop()
		if err != nil {
			return "", err
		}
		if now.OK > 0 {
			return "", fmt.Errorf("a stranger outside the mesh was answered %d times: %s", now.OK, s.What)
		}
		asked += now.Sent
	}
	got, err := g.leak.Clean()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d plaintext requests of strangers refused, no plaintext in %d frames", asked, got.Frames), nil
}

// clean ends a guarded mesh in which no request may have failed.
func (g *guarded) clean() (string, error) {
	now, err := g.load.Clean()
	if err != nil {
		return "", err
	}
	inside, err := g.inside()
	return summary(now) + "; " + inside, err
}

func ztunnelUpdate(ctx context.Context, e *Env) (string, error) {
	g, err := e.guard(ctx, 2)
	if err != nil {
		return "", err
	}
	stream, err := e.Stream(ctx, g.client, fmt.Sprintf("server:%d", labapp.SumPort))
	if err != nil {
		return "", err
	}
	if _, err := e.Kubectl(ctx, "", "--namespace", System, "rollout", "restart", "daemonset/ztunnel"); err != nil {
		return "", err
	}
	// The first node has its new ztunnel, and the old one has most of its grace left.
	err = e.Until(ctx, time.Minute, "a ztunnel that ends", func(ctx context.Context) (bool, error) {
		out, err := e.Kubectl(ctx, "", "--namespace", System, "get", "pods", "-l", ztunnels, "-o", "jsonpath={.items[*].metadata.deletionTimestamp}")
		return out != "", err
	})
	if err != nil {
		return "", err
	}
	if err := lifecycle.Sleep(ctx, ztunnelGrace*2/3); err != nil {
		return "", err
	}
	bytes, err := stream.Clean(ctx)
	if err != nil {
		return "", fmt.Errorf("within the grace period: %w", err)
	}
	if _, err := e.Kubectl(ctx, "", "--namespace", System, "rollout", "status", "daemonset/ztunnel", "--timeout=150s"); err != nil {
		return "", err
	}
	if err := g.load.Flowing(ctx, 2*rate); err != nil {
		return "", err
	}
	now, err := g.load.Stop()
	if err != nil {
		return "", err
	}
	// A connection that stood is carried by the old ztunnel until its grace has ended.
	if err := newOnesFine(now); err != nil {
		return "", err
	}
	inside, err := g.inside()
	return fmt.Sprintf("%s; a stream of %d bytes; %s", summary(now), bytes, inside), err
}

// systemPods lists the running pods of a part of the installation.
func (e *Env) systemPods(ctx context.Context, selector string) ([]Pod, error) {
	return e.selected(ctx, System, selector)
}

// Selectors of the parts of the installation.
const (
	ztunnels = "app=ztunnel"
	agents   = "k8s-app=ambit-cni-node"
	istiods  = "app=istiod-lite"
)

// kill ends the program of a pod at once.
func (p Pod) kill() error {
	pid, err := p.PID()
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

func ztunnelKilled(ctx context.Context, e *Env) (string, error) {
	g, err := e.guard(ctx, 2)
	if err != nil {
		return "", err
	}
	proxies, err := e.systemPods(ctx, ztunnels)
	if err != nil {
		return "", err
	}
	var worst time.Duration
	for _, p := range proxies {
		e.Note("kill %v", p)
		if err := p.kill(); err != nil {
			return "", err
		}
		start := time.Now()
		// Two seconds' worth of answers: it works again.
		if err := g.load.Flowing(ctx, 2*rate); err != nil {
			return "", err
		}
		worst = max(worst, time.Since(start)-2*time.Second)
		if err := e.allReady(ctx, ztunnels); err != nil {
			return "", err
		}
	}
	now, err := g.load.Stop()
	if err != nil {
		return "", err
	}
	inside, err := g.inside()
	return fmt.Sprintf("%d ztunnels killed: %d of %d requests failed, none before; at most about %v without answers; %s",
		len(proxies), now.Failed, now.Sent, worst.Round(100*time.Millisecond), inside), err
}

// allReady waits until all pods of a part of the installation are ready.
func (e *Env) allReady(ctx context.Context, selector string) error {
	_, err := e.Kubectl(ctx, "", "--namespace", System, "wait", "--for=condition=Ready", "pod", "-l", selector, "--timeout=90s")
	return err
}

func agentKilled(ctx context.Context, e *Env) (string, error) {
	g, err := e.guard(ctx, 2)
	if err != nil {
		return "", err
	}
	all, err := e.systemPods(ctx, agents)
	if err != nil {
		return "", err
	}
	e.Undo(func(ctx context.Context) error { return e.renew(ctx, agents) })
	for _, a := range all {
		if err := a.kill(); err != nil {
			return "", err
		}
	}
	// At once, while there is no agent.
	err = e.Deploy(ctx, App{Name: "late", Replicas: 4, Env: map[string]string{"FIRST": "server:80", "MARKER": e.Marker}})
	if err != nil {
		return "", err
	}
	took, err := e.firstLines(ctx, e.Namespace, "late")
	if err != nil {
		return "", err
	}
	if err := e.WaitEnrolled(ctx, true); err != nil {
		return "", err
	}
	evidence, err := g.clean()
	return fmt.Sprintf("%d agents killed, %d pods started meanwhile, all in the mesh from their first connection; %s", len(all), len(took), evidence), err
}

// agentsAwayFor is how long no agent runs: a pod whose probes fail is unready after
// three seconds, and the kubelet waits ten and then twenty before it starts a program
// again that keeps ending.
const agentsAwayFor = 20 * time.Second

func agentAway(ctx context.Context, e *Env) (string, error) {
	g, err := e.guard(ctx, 2)
	if err != nil {
		return "", err
	}
	if err := e.Deploy(ctx, App{Name: "probed", Replicas: 2, Probes: probed}); err != nil {
		return "", err
	}
	before, err := e.readiness(ctx)
	if err != nil {
		return "", err
	}
	killed, err := e.holdDown(ctx, agents, agentsAwayFor)
	if err != nil {
		return "", err
	}
	after, err := e.readiness(ctx)
	if err != nil {
		return "", err
	}
	if before != after {
		return "", fmt.Errorf("readiness and restarts of pods before:\n%safter:\n%s", before, after)
	}
	e.Note("agents may come back")
	if err := e.renew(ctx, agents); err != nil {
		return "", err
	}
	e.Note("they are back")
	if err := e.newcomer(ctx); err != nil {
		return "", err
	}
	e.Note("a new pod is in")
	evidence, err := g.clean()
	return fmt.Sprintf("agents killed %d times within %v, no pod unready; %s", killed, agentsAwayFor, evidence), err
}

// holdDown kills the programs of a part of the installation whenever they run, for a
// time, and says how often.
func (e *Env) holdDown(ctx context.Context, selector string, d time.Duration) (killed int, err error) {
	all, err := e.systemPods(ctx, selector)
	if err != nil {
		return 0, err
	}
	for start := time.Now(); time.Since(start) < d; {
		for _, p := range all {
			if p.kill() == nil {
				killed++
			}
		}
		if err := lifecycle.Sleep(ctx, pollEvery); err != nil {
			return killed, err
		}
	}
	return killed, nil
}

// renew replaces the pods of a part of the installation. The kubelet waits for up to
// five minutes before it starts a program again that keeps ending; a new pod's it starts
// at once.
func (e *Env) renew(ctx context.Context, selector string) error {
	if _, err := e.Kubectl(ctx, "", "--namespace", System, "delete", "pod", "-l", selector); err != nil {
		return err
	}
	return e.Until(ctx, readyWithin, "new pods of "+selector, func(ctx context.Context) (bool, error) {
		pods, err := e.systemPods(ctx, selector)
		if err != nil || len(pods) < len(e.Cluster.Nodes()) {
			return false, err
		}
		return true, e.allReady(ctx, selector)
	})
}

// readiness tells of all pods of the case since when they are ready, and how often they
// were started again.
func (e *Env) readiness(ctx context.Context) (string, error) {
	return e.Kubectl(ctx, "", "get", "pods", "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status} since {.status.conditions[?(@.type=="Ready")].lastTransitionTime}, restarts {.status.containerStatuses[0].restartCount}{"\n"}{end}`)
}

func istiodDown(ctx context.Context, e *Env) (string, error) {
	g, err := e.guard(ctx, 2)
	if err != nil {
		return "", err
	}
	back := func(ctx context.Context) error {
		if _, err := e.Kubectl(ctx, "", "--namespace", System, "scale", "deployment/istiod-lite", "--replicas=2"); err != nil {
			return err
		}
		return e.allReady(ctx, istiods)
	}
	all, err := e.systemPods(ctx, istiods)
	if err != nil {
		return "", err
	}
	if _, err := e.Kubectl(ctx, "", "--namespace", System, "scale", "deployment/istiod-lite", "--replicas=0"); err != nil {
		return "", err
	}
	e.Undo(back)
	for _, p := range all {
		if err := p.kill(); err != nil {
			e.Note("%v has ended by itself: %v", p, err)
		}
	}
	e.Note("no istiod-lite")
	rounds, err := e.comeAndGo(ctx, downFor)
	if err != nil {
		return "", err
	}
	e.Note("istiod-lite comes back")
	if err := back(ctx); err != nil {
		return "", err
	}
	e.Note("it is back")
	if err := e.newcomer(ctx); err != nil {
		return "", err
	}
	e.Note("a new pod is in")
	evidence, err := g.clean()
	return fmt.Sprintf("down for %v, %d pods came and went; %s", downFor, rounds, evidence), err
}

// comeAndGo has pods of the case's namespace start and end for a time. Without a
// control plane they need not become ready; they must not get outside the mesh.
func (e *Env) comeAndGo(ctx context.Context, d time.Duration) (rounds int, err error) {
	app := App{Name: "mayfly", Env: map[string]string{"FIRST": "server:80", "MARKER": e.Marker}}
	if err := e.Apply(ctx, app.manifest()); err != nil {
		return 0, err
	}
	for start := time.Now(); time.Since(start) < d; rounds++ {
		if err := lifecycle.Sleep(ctx, 5*time.Second); err != nil {
			return rounds, err
		}
		if _, err := e.Kubectl(ctx, "", "delete", "pod", "-l", "app=mayfly", "--wait=false"); err != nil {
			return rounds, err
		}
	}
	_, err = e.Kubectl(ctx, "", "delete", "deployment", "mayfly")
	return rounds, err
}

// kubeletsBackWithin is how long a kubelet may take to watch its pods again once there is
// an API server: it waits up to a minute between two tries, and has to list and to watch.
const kubeletsBackWithin = 3 * time.Minute

func apiserverDown(ctx context.Context, e *Env) (string, error) {
	g, err := e.guard(ctx, 2)
	if err != nil {
		return "", err
	}
	control := e.Cluster.Control()
	start := func(ctx context.Context) error {
		if err := control.StartService(ctx, "kube-apiserver"); err != nil {
			return err
		}
		return e.Until(ctx, time.Minute, "the API server answers again", func(ctx context.Context) (bool, error) {
			_, err := e.Kubectl(ctx, "", "get", "--raw=/readyz")
			return err == nil, err
		})
	}
	if err := control.StopService(ctx, "kube-apiserver"); err != nil {
		return "", err
	}
	e.Undo(start)
	e.Note("no API server")
	if err := lifecycle.Sleep(ctx, downFor); err != nil {
		return "", err
	}
	if err := start(ctx); err != nil {
		return "", err
	}
	e.Note("the API server is back")
	// What is made now comes into the mesh as before. Nobody is needed for it but
	// kubelets and agents, who come back in their own time; controllers and scheduler
	// take longer.
	for _, n := range e.Cluster.Nodes() {
		if _, err := e.Kube.CoreV1().Pods(e.Namespace).Create(ctx, barePod("after-"+n.Name, "after", n.Name), metav1.CreateOptions{}); err != nil {
			return "", err
		}
	}
	err = e.Until(ctx, kubeletsBackWithin, "kubelets that have heard of their new pods", func(ctx context.Context) (bool, error) {
		pods, err := e.Kube.CoreV1().Pods(e.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=after"})
		if err != nil {
			return false, err
		}
		for _, p := range pods.Items {
			if p.Status.StartTime == nil { // which the kubelet writes
				return false, fmt.Errorf("that of %s has not", p.Spec.NodeName)
			}
		}
		return true, nil
	})
	if err != nil {
		return "", err
	}
	e.Note("the kubelets know the new pods")
	if err := e.WaitReady(ctx, e.Namespace, "after", len(e.Cluster.Nodes())); err != nil {
		return "", err
	}
	e.Note("new pods are ready")
	after, err := e.Pod(ctx, "after")
	if err != nil {
		return "", err
	}
	if err := e.Reachable(ctx, after, "server:80"); err != nil {
		return "", err
	}
	evidence, err := g.clean()
	return fmt.Sprintf("stopped for %v; %s", downFor, evidence), err
}

// notReadyTimes is how often all pods of a server are marked NotReady. A kubelet takes
// some ten seconds to correct that.
const notReadyTimes = 4

// allNotReady does to a server's pods what the node lifecycle controller does when it
// has not heard of their nodes, although they run.
func allNotReady(ctx context.Context, e *Env) (string, error) {
	g, err := e.guard(ctx, 2)
	if err != nil {
		return "", err
	}
	servers, err := e.Pods(ctx, "server")
	if err != nil {
		return "", err
	}
	const patch = `{"status":{"conditions":[{"type":"Ready","status":"False","reason":"NodeNotReady"}]}}`
	for range notReadyTimes {
		for _, s := range servers {
			if _, err := e.Kube.CoreV1().Pods(s.Namespace).Patch(ctx, s.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
				return "", err
			}
		}
		if err := e.WaitReady(ctx, e.Namespace, "server", len(servers)); err != nil {
			return "", err
		}
	}
	evidence, err := g.clean()
	return fmt.Sprintf("%d times; %s", notReadyTimes, evidence), err
}

func nodeReboot(ctx context.Context, e *Env) (string, error) {
	nodes := e.Cluster.Nodes()
	victim := nodes[len(nodes)-1]
	g, err := e.guard(ctx, 2*len(nodes))
	if err != nil {
		return "", err
	}
	off := time.Now()
	// The capture on the node ends with it; one on the new machine starts before
	// anything runs there.
	if err := e.reboot(ctx, victim.Name, g.leak); err != nil {
		return "", err
	}
	e.Note("%s is on again", victim.Name)
	err = e.Until(ctx, 2*time.Minute, "pods on "+victim.Name+" are back", func(ctx context.Context) (bool, error) {
		return e.startedSince(ctx, victim.Name, off)
	})
	if err != nil {
		return "", err
	}
	if err := errors.Join(e.allReady(ctx, ztunnels), e.allReady(ctx, agents)); err != nil {
		return "", err
	}
	servers, err := e.Pods(ctx, "server")
	if err != nil {
		return "", err
	}
	for _, s := range servers {
		if err := e.Reachable(ctx, g.client, s.At(labapp.HTTPPort)); err != nil {
			return "", err
		}
	}
	if err := e.WaitEnrolled(ctx, true); err != nil {
		return "", err
	}
	now, err := g.load.Stop()
	if err != nil {
		return "", err
	}
	// Strangers on the victim ended with it.
	g.strangers = g.strangers[:len(g.strangers)-1]
	inside, err := g.inside()
	return fmt.Sprintf("%d of %d requests failed while the node was away; its pods are in the mesh again; %s", now.Failed, now.Sent, inside), err
}

// startedSince reports whether all servers of a node run, are ready and have started
// after a time: until its kubelet is there again, the cluster tells of those before.
func (e *Env) startedSince(ctx context.Context, node string, since time.Time) (bool, error) {
	pods, err := e.Kube.CoreV1().Pods(e.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=server"})
	if err != nil {
		return false, err
	}
	for _, p := range pods.Items {
		if !isReady(p) {
			return false, fmt.Errorf("pod %s on %s is not ready", p.Name, p.Spec.NodeName)
		}
		for _, c := range p.Status.ContainerStatuses {
			// Times of the API are whole seconds.
			if p.Spec.NodeName == node && (c.State.Running == nil || c.State.Running.StartedAt.Before(&metav1.Time{Time: since.Truncate(time.Second)})) {
				return false, fmt.Errorf("pod %s on %s is the one from before", p.Name, node)
			}
		}
	}
	return true, nil
}

// reboot switches a node off and on, and goes on watching it.
func (e *Env) reboot(ctx context.Context, name string, leak *Leak) error {
	if err := leak.drop(name); err != nil {
		return err
	}
	return e.Cluster.RebootNode(ctx, name, func(n cluster.Node) error {
		return leak.add(ctx, n.Name, e.Marker, n.NetNS)
	})
}
