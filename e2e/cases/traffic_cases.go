package cases

import (
	"context"
	"fmt"
	"strings"

	"github.com/ambit-mesh/ambit/e2e/cluster"
	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// trafficCases are about what runs through the mesh.
func trafficCases() []Case {
	return []Case{
		{Name: "rollout", About: "a deployment is rolled out under load, and no request fails", Run: rollout("300ms")},
		{Name: "rollout-slow-exit", About: "the same when pods ignore SIGTERM for a while, without a preStop sleep", Run: rollout("5s")},
		{Name: "scale-to-one", About: "replicas come and go under load, and no request fails", Run: scaling},
		{Name: "ports", About: "a Service with several ports and named target ports leads to the right ones", Run: severalPorts},
		{Name: "headless", About: "the names of a StatefulSet lead to its pods, one by one and together", Run: headless},
		{Name: "host-network", About: "pods in the network of their node and pods in the mesh reach each other", Run: hostNetwork},
	}
}

// meshed puts a client and a server into the mesh from the start, under STRICT, with a
// capture that was there before them.
func (e *Env) meshed(ctx context.Context, replicas int, linger string) (Pod, *Leak, error) {
	if err := e.closed(ctx); err != nil {
		return Pod{}, nil, err
	}
	leak, err := e.Watch(ctx, e.Marker)
	if err != nil {
		return Pod{}, nil, err
	}
	client, err := e.pair(ctx, replicas, linger)
	return client, leak, err
}

// verdict ends a load and a capture that must both be clean.
func verdict(load *Load, leak *Leak) (string, error) {
	now, err := load.Clean()
	if err != nil {
		return "", err
	}
	got, err := leak.Clean()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s; no plaintext in %d frames", summary(now), got.Frames), nil
}

// rollout replaces all pods of a server twice.
func rollout(linger string) func(context.Context, *Env) (string, error) {
	return func(ctx context.Context, e *Env) (string, error) {
		client, leak, err := e.meshed(ctx, 3, linger)
		if err != nil {
			return "", err
		}
		load, err := e.Load(ctx, client, "server:80")
		if err != nil {
			return "", err
		}
		for range 2 {
			if _, err := e.Kubectl(ctx, "", "rollout", "restart", "deployment/server"); err != nil {
				return "", err
			}
			if _, err := e.Kubectl(ctx, "", "rollout", "status", "deployment/server", "--timeout=90s"); err != nil {
				return "", err
			}
		}
		if err := e.WaitReady(ctx, e.Namespace, "server", 3); err != nil {
			return "", err
		}
		if err := load.Flowing(ctx, rate); err != nil {
			return "", err
		}
		return verdict(load, leak)
	}
}

func scaling(ctx context.Context, e *Env) (string, error) {
	client, leak, err := e.meshed(ctx, 2, "")
	if err != nil {
		return "", err
	}
	load, err := e.Load(ctx, client, "server:80")
	if err != nil {
		return "", err
	}
	for _, n := range []int{6, 1, 4, 1} {
		if _, err := e.Kubectl(ctx, "", "scale", "deployment/server", fmt.Sprintf("--replicas=%d", n)); err != nil {
			return "", err
		}
		if err := e.WaitReady(ctx, e.Namespace, "server", n); err != nil {
			return "", err
		}
		if err := load.Flowing(ctx, rate); err != nil {
			return "", err
		}
	}
	return verdict(load, leak)
}

func severalPorts(ctx context.Context, e *Env) (string, error) {
	client, leak, err := e.meshed(ctx, 2, "")
	if err != nil {
		return "", err
	}
	err = e.Apply(ctx, `
apiVersion: v1
kind: Service
metadata: {name: named}
spec:
  selector: {app: server}
  ports:
  - {name: a, port: 1001, targetPort: http}
  - {name: b, port: 1002, targetPort: echo}
  - {name: c, port: 1003, targetPort: 7001}
`)
	if err != nil {
		return "", err
	}
	load, err := e.Load(ctx, client, "named:1001")
	if err != nil {
		return "", err
	}
	echo, err := client.Do(ctx, labapp.Request{Do: labapp.DoEcho, Address: "named:1002", Text: "by name"})
	if err != nil || echo.Text != "by name" {
		return "", fmt.Errorf("echo by a named port: %q, %w", echo.Text, err)
	}
	banner, err := client.Do(ctx, labapp.Request{Do: labapp.DoBanner, Address: "named:1003"})
	if err != nil || !strings.HasPrefix(banner.Text, "220 ") {
		return "", fmt.Errorf("banner by a number: %q, %w", banner.Text, err)
	}
	if err := load.Flowing(ctx, rate); err != nil {
		return "", err
	}
	return verdict(load, leak)
}

func headless(ctx context.Context, e *Env) (string, error) {
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{modeLabel: modeMesh}); err != nil {
		return "", err
	}
	err := e.Apply(ctx, strict+fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: set}
spec: {clusterIP: None, selector: {app: set}, ports: [{name: http, port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: set}
spec:
  serviceName: set
  replicas: 3
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: set}}
  template:
    metadata: {labels: {app: set}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: app
        image: %s
        imagePullPolicy: IfNotPresent
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
`, cluster.AppImage))
	if err != nil {
		return "", err
	}
	if err := e.Deploy(ctx, App{Name: "client"}); err != nil {
		return "", err
	}
	if err := e.WaitReady(ctx, e.Namespace, "set", 3); err != nil {
		return "", err
	}
	client, err := e.Pod(ctx, "client")
	if err != nil {
		return "", err
	}
	for i := range 3 {
		name := fmt.Sprintf("set-%d", i)
		if err := e.Reachable(ctx, client, name+".set:8080"); err != nil {
			return "", err
		}
		hello, err := client.Hello(ctx, name+".set:8080")
		if err != nil || hello.Pod != name {
			return "", fmt.Errorf("%s.set answered as %q: %w", name, hello.Pod, err)
		}
	}
	load, err := e.Load(ctx, client, "set:8080")
	if err != nil {
		return "", err
	}
	if err := load.Flowing(ctx, 2*rate); err != nil {
		return "", err
	}
	now, err := load.Clean()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("each of 3 names led to its pod; by the set's name %s, answered by %d pods", summary(now), len(now.Servers)), nil
}

func hostNetwork(ctx context.Context, e *Env) (string, error) {
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{modeLabel: modeMesh}); err != nil {
		return "", err
	}
	nodes := e.Cluster.Nodes()
	err := e.Deploy(ctx,
		App{Name: "server", Replicas: 2}, App{Name: "client", Node: nodes[0].Name},
		App{Name: "host", Host: true, Node: nodes[len(nodes)-1].Name})
	if err != nil {
		return "", err
	}
	client, err := e.Pod(ctx, "client")
	if err != nil {
		return "", err
	}
	host, err := e.Pod(ctx, "host")
	if err != nil {
		return "", err
	}
	out, err := e.Load(ctx, client, "host:80")
	if err != nil {
		return "", err
	}
	in, err := e.Load(ctx, host, "server:80")
	if err != nil {
		return "", err
	}
	if err := in.Flowing(ctx, 2*rate); err != nil {
		return "", err
	}
	first, err := out.Clean()
	if err != nil {
		return "", err
	}
	second, err := in.Clean()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("to the host's network %s; from it %s", summary(first), summary(second)), nil
}
