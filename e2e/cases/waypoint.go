package cases

import (
	"context"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// waypointCases are about waypoints that the control plane makes.
func waypointCases() []Case {
	return []Case{
		{Name: "waypoint", About: "a Gateway becomes a waypoint, which decides about requests; around it nobody gets in", Run: waypointServes},
		{Name: "waypoint-command", About: "ambit waypoint makes, shows and removes a waypoint for a service of another namespace, and cuts nothing off", Run: waypointCommand},
		{Name: "waypoint-missing", About: "what is bound to a waypoint that is not there is refused, and the caller's log says why", Run: waypointMissing},
		{Name: "waypoint-open", About: "labels lead around a waypoint, while it is missing or always; without them callers are refused, and ambit check and ambit why say either", Run: waypointOpen},
		{Name: "waypoint-canary", About: "two waypoints share the connections to a service by weight, and no request fails when the weight changes or the canary goes", Run: waypointCanary},
		{Name: "waypoint-budgets", About: "retry budgets of an XBackendTrafficPolicy and of a ServiceProfile bound what is tried again", Run: waypointBudgets},
		{Name: "waypoint-limits", About: "a RateLimit bounds the requests of a rule that names it, of each caller or of all together", Run: waypointLimits},
		{Name: "waypoint-delegates", About: "a VirtualService leaves a part of its requests to another, and both statuses say what does not fit", Run: waypointDelegates},
		{Name: "waypoint-rivals", About: "of two objects that contradict each other one counts, and the statuses of both say which", Run: waypointRivals},
		{Name: "waypoint-rollout", About: "a waypoint is rolled out and scaled down under requests and gRPC conversations, and none fails", Run: waypointRollout},
	}
}

// gatewayManifest asks for a waypoint. Its instances are as many as the annotations
// say, so that a case decides and no autoscaler.
const gatewayManifest = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: %[1]s
  annotations: {ambit.dev/waypoint-replicas: "%[2]d", ambit.dev/waypoint-max-replicas: "%[2]d"}
spec:
  gatewayClassName: ambit-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
`

// bind is the label that asks for a waypoint.
const bind = "istio.io/use-waypoint"

// throughWaypoint puts a client and two servers into the mesh, with a waypoint of so
// many instances before the server.
func (e *Env) throughWaypoint(ctx context.Context, instances int) (Pod, error) {
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{modeLabel: modeMesh}); err != nil {
		return Pod{}, err
	}
	client, err := e.pair(ctx, 2, "")
	if err != nil {
		return Pod{}, err
	}
	if err := e.instances(ctx, "waypoint", instances); err != nil {
		return Pod{}, err
	}
	if _, err := e.Kubectl(ctx, "", "label", "service", "server", bind+"=waypoint"); err != nil {
		return Pod{}, err
	}
	return client, e.bound(ctx, "True")
}

// instances makes a waypoint, or changes how many instances it has, and waits until
// they are Ready and no others are left.
func (e *Env) instances(ctx context.Context, gateway string, n int) error {
	if err := e.Apply(ctx, fmt.Sprintf(gatewayManifest, gateway, n)); err != nil {
		return err
	}
	return e.instancesReady(ctx, gateway, n)
}

// ofGateway selects the pods of a waypoint, and what else is made for it.
func ofGateway(name string) string { return "gateway.networking.k8s.io/gateway-name=" + name }

// instancesReady waits until a waypoint has exactly so many pods, all Ready.
func (e *Env) instancesReady(ctx context.Context, gateway string, n int) error {
	err := e.Until(ctx, readyWithin, fmt.Sprintf("%d instances of %s", n, gateway), func(ctx context.Context) (bool, error) {
		d, err := e.Kube.AppsV1().Deployments(e.Namespace).Get(ctx, gateway, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		pods, err := e.Kube.CoreV1().Pods(e.Namespace).List(ctx, metav1.ListOptions{LabelSelector: ofGateway(gateway)})
		if err != nil {
			return false, err
		}
		s := d.Status
		if s.ObservedGeneration != d.Generation || int(s.AvailableReplicas) != n || int(s.UpdatedReplicas) != n || len(pods.Items) != n {
			return false, fmt.Errorf("%d available, %d of the newest version, %d pods", s.AvailableReplicas, s.UpdatedReplicas, len(pods.Items))
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	return e.Until(ctx, readyWithin, "a Gateway that is Programmed", func(ctx context.Context) (bool, error) {
		said, err := e.Kubectl(ctx, "", "get", "gateway", gateway, "-o", `jsonpath={.status.conditions[?(@.type=="Programmed")].status}`)
		return said == "True", err
	})
}

// bound waits until the server's Service says of its waypoint what it should.
func (e *Env) bound(ctx context.Context, want string) error {
	return e.Until(ctx, 20*time.Second, "istio.io/WaypointBound="+want, func(ctx context.Context) (bool, error) {
		said, err := e.Kubectl(ctx, "", "get", "service", "server", "-o", `jsonpath={.status.conditions[?(@.type=="istio.io/WaypointBound")].status}`)
		return said == want, err
	})
}

// seenFrom waits until the server sees an instance of the case's waypoint as its client.
func (e *Env) seenFrom(ctx context.Context, client Pod) error {
	return e.seenFromIn(ctx, client, e.Namespace)
}

// seenFromIn is seenFrom for a waypoint of any namespace.
func (e *Env) seenFromIn(ctx context.Context, client Pod, namespace string) error {
	return e.Until(ctx, 20*time.Second, "requests that come by the waypoint", func(ctx context.Context) (bool, error) {
		hello, err := client.Hello(ctx, "server:80")
		if err != nil {
			return false, err
		}
		pods, err := e.selected(ctx, namespace, ofGateway("waypoint"))
		if err != nil {
			return false, err
		}
		for _, p := range pods {
			if strings.HasPrefix(hello.Remote, p.IP.String()+":") {
				return true, nil
			}
		}
		return false, fmt.Errorf("the server sees %s", hello.Remote)
	})
}

// byHeader lets requests in that carry a header.
const byHeader = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: with-a-pass}
spec:
  targetRefs: [{group: "", kind: Service, name: server}]
  rules: [{when: [{key: "request.headers[x-pass]", values: ["yes"]}]}]
`

func waypointServes(ctx context.Context, e *Env) (string, error) {
	outside, err := e.Extra(ctx, "out", nil)
	if err != nil {
		return "", err
	}
	client, err := e.throughWaypoint(ctx, 2)
	if err != nil {
		return "", err
	}
	if err := e.Deploy(ctx, App{Name: "stranger", Namespace: outside, Replicas: 2}); err != nil {
		return "", err
	}
	if err := e.seenFrom(ctx, client); err != nil {
		return "", err
	}
	if err := e.Apply(ctx, byHeader); err != nil {
		return "", err
	}
	ask := func(ctx context.Context, header string) (map[int]int, error) {
		r, err := client.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: "server:80", Header: header, Count: settled, Statuses: true})
		return r.Statuses, err
	}
	err = e.Until(ctx, 20*time.Second, "403 for requests without the header, and 200 with it", func(ctx context.Context) (bool, error) {
		without, err := ask(ctx, "")
		if err != nil {
			return false, err
		}
		with, err := ask(ctx, "X-Pass: yes")
		return err == nil && without[403] == settled && len(with) == 0, err
	})
	if err != nil {
		return "", err
	}
	// Around the waypoint: from the mesh by the pods' addresses, and without the mesh.
	servers, err := e.Pods(ctx, "server")
	if err != nil {
		return "", err
	}
	for _, s := range servers {
		if err := client.Refused(ctx, s.At(labapp.HTTPPort)); err != nil {
			return "", err
		}
	}
	if err := e.refusedByAll(ctx, outside, "stranger", "server"); err != nil {
		return "", err
	}
	return "two instances; a rule of a header allowed and refused; the pods' addresses refused to the mesh, and plaintext to strangers on every node", nil
}

func waypointMissing(ctx context.Context, e *Env) (string, error) {
	client, err := e.throughWaypoint(ctx, 1)
	if err != nil {
		return "", err
	}
	if err := e.seenFrom(ctx, client); err != nil {
		return "", err
	}
	if _, err := e.Kubectl(ctx, "", "delete", "gateway", "waypoint"); err != nil {
		return "", err
	}
	if err := e.gone(ctx, "waypoint"); err != nil {
		return "", err
	}
	if err := e.bound(ctx, "False"); err != nil {
		return "", err
	}
	for range settled {
		if err := client.Refused(ctx, "server:80"); err != nil {
			return "", err
		}
	}
	if err := e.logSays(ctx, client, "unknown waypoint: waypoint "+e.Namespace+"/waypoint."); err != nil {
		return "", err
	}
	if err := e.instances(ctx, "waypoint", 1); err != nil {
		return "", err
	}
	if err := e.Reachable(ctx, client, "server:80"); err != nil {
		return "", err
	}
	return "with the Gateway went what it consisted of; the service was refused, the log named the waypoint; it served again with the Gateway", nil
}

// gone waits until nothing is left of what a Gateway consisted of.
func (e *Env) gone(ctx context.Context, gateway string) error {
	return e.Until(ctx, 60*time.Second, "the end of what Gateway "+gateway+" consisted of", func(ctx context.Context) (bool, error) {
		left, err := e.Kubectl(ctx, "", "get", "deployments,services,serviceaccounts,hpa,pdb,pods", "-l", ofGateway(gateway), "-o", "name")
		if left = strings.Join(strings.Fields(left), ", "); err == nil && left != "" {
			err = fmt.Errorf("there is still %s", left)
		}
		return err == nil, err
	})
}

// logSays makes sure that the log of the proxy that serves a pod says something.
func (e *Env) logSays(ctx context.Context, pod Pod, want string) error {
	log, err := e.proxyLog(ctx, pod.Node)
	if err == nil && !strings.Contains(log, want) {
		err = fmt.Errorf("the log of the proxy on %s does not say %q", pod.Node, want)
	}
	return err
}

// proxyLog is what the proxy of a node has said lately.
func (e *Env) proxyLog(ctx context.Context, node string) (string, error) {
	pods, err := e.Kube.CoreV1().Pods(System).List(ctx, metav1.ListOptions{LabelSelector: "app=ztunnel", FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return "", err
	}
	if len(pods.Items) == 0 {
		return "", fmt.Errorf("no ztunnel on %s", node)
	}
	return e.Kubectl(ctx, "", "--namespace", System, "logs", "--since=2m", pods.Items[0].Name)
}

func waypointRollout(ctx context.Context, e *Env) (string, error) {
	client, err := e.throughWaypoint(ctx, 3)
	if err != nil {
		return "", err
	}
	if err := e.seenFrom(ctx, client); err != nil {
		return "", err
	}
	load, err := e.Load(ctx, client, "server:80")
	if err != nil {
		return "", err
	}
	talks, err := e.Talks(ctx, client, "server:7005")
	if err != nil {
		return "", err
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"rollout", func() error {
			// Another setting of the waypoint is another version of its pods.
			if _, err := e.Kubectl(ctx, "", "annotate", "--overwrite", "gateway", "waypoint", "ambit.dev/waypoint-drain=20s"); err != nil {
				return err
			}
			err := e.Until(ctx, 20*time.Second, "a new version of the waypoint", func(ctx context.Context) (bool, error) {
				args, err := e.Kubectl(ctx, "", "get", "deployment", "waypoint", "-o", "jsonpath={.spec.template.spec.containers[0].args}")
				return strings.Contains(args, "--drain=20s"), err
			})
			if err != nil {
				return err
			}
			return e.instancesReady(ctx, "waypoint", 3)
		}},
		{"scale-down", func() error {
			if _, err := e.Kubectl(ctx, "", "annotate", "--overwrite", "gateway", "waypoint", "ambit.dev/waypoint-replicas=1", "ambit.dev/waypoint-max-replicas=1"); err != nil {
				return err
			}
			return e.instancesReady(ctx, "waypoint", 1)
		}},
	} {
		if err := step.do(); err != nil {
			return "", fmt.Errorf("%s: %w", step.what, err)
		}
		if err := load.Flowing(ctx, rate); err != nil {
			return "", fmt.Errorf("%s: %w", step.what, err)
		}
		if err := talks.Flowing(ctx, 20); err != nil {
			return "", fmt.Errorf("%s: %w", step.what, err)
		}
	}
	now, err := load.Clean()
	if err != nil {
		return "", err
	}
	talked, err := talks.CleanTalks()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("three instances replaced, then one left: %s; %d gRPC conversations of 3 s, %d failed", summary(now), talked.Sent, talked.Failed), nil
}
