package cases

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// policyCases are about who may talk to whom.
func policyCases() []Case {
	return []Case{
		{Name: "strict-probes", About: "under STRICT the kubelet's HTTP, TCP and gRPC probes pass, and plaintext from pods outside does not", Run: strictProbes},
		{Name: "strict-outside", About: "what STRICT meets from outside works or is refused: scrape, port-forward, NodePort", Run: strictOutside},
		{Name: "policy", About: "policies by service account, namespace, IP block and port decide, and changes reach live connections", Run: policies},
		{Name: "policy-errors", About: "a policy with a mistake says so in its status", Run: policyErrors},
		{Name: "netpol-15008", About: "a NetworkPolicy that blocks 15008 is named by ambit check, with a patch that helps", Run: netpol15008},
		{Name: "netpol-one-node", About: "a NetworkPolicy between two pods of one node counts in the mesh too", Run: netpolOneNode},
	}
}

// probed is a container with one probe of each kind.
const probed = `readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1, failureThreshold: 2}
        livenessProbe: {tcpSocket: {port: 7000}, periodSeconds: 1, failureThreshold: 2}
        startupProbe: {grpc: {port: 7005}, periodSeconds: 1, failureThreshold: 10}`

func strictProbes(ctx context.Context, e *Env) (string, error) {
	if err := e.closed(ctx); err != nil {
		return "", err
	}
	outside, err := e.Extra(ctx, "out", nil)
	if err != nil {
		return "", err
	}
	err = e.Deploy(ctx,
		App{Name: "server", Replicas: 4, Probes: probed}, App{Name: "client"},
		App{Name: "stranger", Namespace: outside, Replicas: 2})
	if err != nil {
		return "", err
	}
	client, err := e.Pod(ctx, "client")
	if err != nil {
		return "", err
	}
	if err := e.Reachable(ctx, client, "server:80"); err != nil {
		return "", err
	}
	if err := e.refusedByAll(ctx, outside, "stranger", "server"); err != nil {
		return "", err
	}
	// Ten rounds of each probe; none may fail.
	if err := e.Until(ctx, 20*time.Second, "ten rounds of probes", after(10*time.Second)); err != nil {
		return "", err
	}
	out, err := e.Kubectl(ctx, "", "get", "pods", "-l", "app=server", "-o",
		`jsonpath={range .items[*]}{.status.containerStatuses[0].restartCount}{.status.containerStatuses[0].ready} {end}`)
	if err != nil {
		return "", err
	}
	if out != "0true 0true 0true 0true " {
		return "", fmt.Errorf("restarts and readiness of four probed pods: %q", out)
	}
	events, err := e.Kubectl(ctx, "", "get", "events", "--field-selector=reason=Unhealthy", "-o", "jsonpath={.items[*].message}")
	if err != nil {
		return "", err
	}
	// Before the program listens a probe is refused; that is not the mesh.
	if strings.Contains(events, "EOF") || strings.Contains(events, "reset") || strings.Contains(events, "timeout") || strings.Contains(events, "context deadline") {
		return "", fmt.Errorf("failed probes: %s", events)
	}
	return "4 pods, 10 s of HTTP, TCP and gRPC probes without a failure; strangers on every node refused", nil
}

// after is a condition that holds after a time.
func after(d time.Duration) func(context.Context) (bool, error) {
	start := time.Now()
	return func(context.Context) (bool, error) { return time.Since(start) > d, nil }
}

// refusedByAll makes sure that no pod of an app outside gets an answer of any pod of
// an app of the case, by its address.
func (e *Env) refusedByAll(ctx context.Context, outside, stranger, server string) error {
	strangers, err := e.PodsIn(ctx, outside, stranger)
	if err != nil {
		return err
	}
	servers, err := e.Pods(ctx, server)
	if err != nil {
		return err
	}
	for _, s := range strangers {
		for _, p := range servers {
			if err := s.Refused(ctx, p.At(labapp.HTTPPort)); err != nil {
				return err
			}
		}
	}
	return nil
}

func strictOutside(ctx context.Context, e *Env) (string, error) {
	if err := e.closed(ctx); err != nil {
		return "", err
	}
	outside, err := e.Extra(ctx, "out", nil)
	if err != nil {
		return "", err
	}
	err = e.Deploy(ctx, App{Name: "server", Replicas: 2}, App{Name: "scraper", Namespace: outside})
	if err != nil {
		return "", err
	}
	err = e.Apply(ctx, `
apiVersion: v1
kind: Service
metadata: {name: door}
spec: {type: NodePort, selector: {app: server}, ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]}
`)
	if err != nil {
		return "", err
	}
	if err := e.refusedByAll(ctx, outside, "scraper", "server"); err != nil {
		return "", err
	}
	if err := e.nodePort(ctx, false); err != nil {
		return "", err
	}
	if err := e.portForward(ctx); err != nil {
		return "", err
	}
	// The remedy that the documentation names.
	err = e.Apply(ctx, `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: one-port}
spec:
  selector: {matchLabels: {app: server}}
  mtls: {mode: STRICT}
  portLevelMtls: {"8080": {mode: PERMISSIVE}}
`)
	if err != nil {
		return "", err
	}
	scraper, err := e.PodsIn(ctx, outside, "scraper")
	if err != nil {
		return "", err
	}
	if err := e.Reachable(ctx, scraper[0], "server."+e.Namespace+":80"); err != nil {
		return "", err
	}
	if err := e.nodePort(ctx, true); err != nil {
		return "", err
	}
	if r, err := scraper[0].Do(ctx, labapp.Request{Do: labapp.DoEcho, Address: fmt.Sprintf("server.%s:7000", e.Namespace), Text: "x"}); err == nil {
		return "", fmt.Errorf("a port without an exception answered %q in the clear", r.Text)
	}
	return "port-forward works; scrape and NodePort are refused, and work with a PERMISSIVE port, the others stay closed", nil
}

// nodePort asks through a port of each node, from the machine of the control plane,
// as a load balancer would.
func (e *Env) nodePort(ctx context.Context, want bool) error {
	for _, n := range e.Cluster.Nodes() {
		url := fmt.Sprintf("http://%v:30080/", n.Address)
		ask := func(ctx context.Context) (bool, error) {
			_, err := Fetch(ctx, e.Cluster.Control().PID, url)
			return err == nil, err
		}
		if want {
			if err := e.Until(ctx, 20*time.Second, url, ask); err != nil {
				return err
			}
		} else if ok, _ := ask(ctx); ok {
			return fmt.Errorf("%s is answered under STRICT", url)
		}
	}
	return nil
}

// portForward asks a pod through `kubectl port-forward`.
func (e *Env) portForward(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pod, err := e.Pod(ctx, "server")
	if err != nil {
		return err
	}
	cmd := e.Cluster.Kubectl(ctx, "--namespace", e.Namespace, "port-forward", "pod/"+pod.Name, ":8080")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer cmd.Wait()
	defer cancel()
	var port int
	if _, err := fmt.Fscanf(out, "Forwarding from 127.0.0.1:%d", &port); err != nil {
		return fmt.Errorf("port-forward: %w", err)
	}
	if _, err := Fetch(ctx, cmd.Process.Pid, fmt.Sprintf("http://127.0.0.1:%d/", port)); err != nil {
		return fmt.Errorf("through port-forward: %w", err)
	}
	return nil
}

// policyHead begins a policy for the pods of the server.
const policyHead = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guard}
spec:
  selector: {matchLabels: {app: server}}
  action: ALLOW
  rules:
`

func policies(ctx context.Context, e *Env) (string, error) {
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{modeLabel: modeMesh}); err != nil {
		return "", err
	}
	other, err := e.Extra(ctx, "b", map[string]string{modeLabel: modeMesh})
	if err != nil {
		return "", err
	}
	err = e.Deploy(ctx, App{Name: "server", Replicas: 2}, App{Name: "alice"}, App{Name: "bob"}, App{Name: "carol", Namespace: other})
	if err != nil {
		return "", err
	}
	clients := map[string]Pod{}
	for name, ns := range map[string]string{"alice": e.Namespace, "bob": e.Namespace, "carol": other} {
		pods, err := e.PodsIn(ctx, ns, name)
		if err != nil {
			return "", err
		}
		clients[name] = pods[0]
	}
	address := fmt.Sprintf("server.%s:80", e.Namespace)
	load, err := e.Load(ctx, clients["alice"], address)
	if err != nil {
		return "", err
	}
	tests := []struct{ what, rule, allowed string }{
		{"service account", fmt.Sprintf("  - from: [{source: {principals: [cluster.local/ns/%s/sa/alice]}}]\n", e.Namespace), "alice"},
		{"namespace", fmt.Sprintf("  - from: [{source: {namespaces: [%s]}}]\n", e.Namespace), "alice bob"},
		{"another namespace, and alice", fmt.Sprintf("  - from: [{source: {namespaces: [%s]}}, {source: {principals: [cluster.local/ns/%s/sa/alice]}}]\n", other, e.Namespace), "alice carol"},
		{"IP block", fmt.Sprintf("  - from: [{source: {ipBlocks: [%v]}}, {source: {ipBlocks: [%v]}}]\n", clients["carol"].IP, clients["alice"].IP), "alice carol"},
		{"port", "  - to: [{operation: {ports: [\"8080\"]}}]\n", "alice bob carol"},
		{"another port, except for alice", fmt.Sprintf("  - to: [{operation: {ports: [\"7000\"]}}]\n  - from: [{source: {principals: [cluster.local/ns/%s/sa/alice]}}]\n", e.Namespace), "alice"},
	}
	for _, tt := range tests {
		if err := e.Apply(ctx, policyHead+tt.rule); err != nil {
			return "", err
		}
		for name, pod := range clients {
			want := strings.Contains(tt.allowed, name)
			err := e.Until(ctx, 10*time.Second, fmt.Sprintf("policy by %s: %s allowed: %v", tt.what, name, want), func(ctx context.Context) (bool, error) {
				_, err := pod.Hello(ctx, address)
				return (err == nil) == want, nil
			})
			if err != nil {
				return "", err
			}
		}
	}
	// Alice was allowed all the time.
	now, err := load.Clean()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d policies for three clients; meanwhile, of the one that each allowed: %s", len(tests), summary(now)), nil
}

func policyErrors(ctx context.Context, e *Env) (string, error) {
	err := e.Apply(ctx, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: l7-rule}
spec:
  action: ALLOW
  rules:
  - to: [{operation: {methods: [GET]}}]
`)
	if err != nil {
		return "", err
	}
	status := ""
	err = e.Until(ctx, 20*time.Second, "a status of the policy", func(ctx context.Context) (bool, error) {
		status, err = e.Kubectl(ctx, "", "get", "authorizationpolicies.security.istio.io", "l7-rule", "-o",
			`jsonpath={range .status.conditions[*]}{.type}={.status} {.reason}: {.message};{end}`)
		return strings.Contains(status, "ZtunnelAccepted="), err
	})
	if err != nil {
		return "", err
	}
	if !strings.Contains(status, "methods") {
		return "", fmt.Errorf("the status does not name the field: %s", status)
	}
	return status, nil
}

// blocksAll lets a namespace's pods be reached at their own ports only.
const blocksAll = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-http}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{ports: [{port: 8080}]}]
`

func netpol15008(ctx context.Context, e *Env) (string, error) {
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{modeLabel: modeMesh}); err != nil {
		return "", err
	}
	if err := e.Apply(ctx, blocksAll); err != nil {
		return "", err
	}
	client, err := e.pair(ctx, 2, "")
	if err != nil {
		return "", err
	}
	if err := client.Refused(ctx, "server:80"); err != nil {
		return "", err
	}
	out, err := e.Run(ctx, "check")
	if err == nil || !strings.Contains(out, "only-http") || !strings.Contains(out, "15008") {
		return "", fmt.Errorf("ambit check does not name the NetworkPolicy only-http and port 15008 (%w):\n%s", err, out)
	}
	_, err = e.Kubectl(ctx, "", "patch", "networkpolicy", "only-http", "--type=json", "-p",
		`[{"op":"add","path":"/spec/ingress/-","value":{"ports":[{"port":15008,"protocol":"TCP"}]}}]`)
	if err != nil {
		return "", err
	}
	if err := e.Reachable(ctx, client, "server:80"); err != nil {
		return "", err
	}
	return "named by ambit check before it was asked for; with 15008 allowed the server answers", nil
}

func netpolOneNode(ctx context.Context, e *Env) (string, error) {
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{modeLabel: modeMesh}); err != nil {
		return "", err
	}
	node := e.Cluster.Nodes()[0].Name
	err := e.Deploy(ctx, App{Name: "server", Node: node}, App{Name: "friend", Node: node}, App{Name: "foe", Node: node},
		App{Name: "scout", Node: node, Labels: map[string]string{modeLabel: "none"}})
	if err != nil {
		return "", err
	}
	scout, err := e.Pod(ctx, "scout")
	if err != nil {
		return "", err
	}
	friend, err := e.Pod(ctx, "friend")
	if err != nil {
		return "", err
	}
	foe, err := e.Pod(ctx, "foe")
	if err != nil {
		return "", err
	}
	// A scout that is refused says something only when it was let in before: the way to
	// a service that is new may be missing.
	if err := e.Reachable(ctx, scout, "server:80"); err != nil {
		return "", err
	}
	err = e.Apply(ctx, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: 15008}, {port: 8080}]}]
`)
	if err != nil {
		return "", err
	}
	// It is in force when somebody outside the mesh is no longer let in.
	err = e.Until(ctx, 30*time.Second, "the policy to be in force", func(ctx context.Context) (bool, error) {
		err := scout.Refused(ctx, "server:80")
		return err == nil, err
	})
	if err != nil {
		return "", err
	}
	// The friend makes the way that one from the foe might be tempted to use.
	if err := e.Reachable(ctx, friend, "server:80"); err != nil {
		return "", err
	}
	for _, atOnce := range []int{1, settled} {
		if err := foe.RefusedAll(ctx, "server:80", atOnce); err != nil {
			return "", err
		}
	}
	if err := e.Reachable(ctx, friend, "server:80"); err != nil {
		return "", err
	}
	return "two clients beside the server: the one that the policy names is answered, the other is not", nil
}
