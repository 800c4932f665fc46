package cases

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// nameCases are about names, and about what the mesh says of itself.
func nameCases() []Case {
	return []Case{
		{Name: "dns", About: "names that only the mesh knows resolve in pods, by search domains of their own too", Run: names},
		{Name: "why", About: "ambit why tells of a connection where it starts and where it arrives", Run: tellWhy},
	}
}

// entryOf is a ServiceEntry over the servers of a case, with an address of the mesh's
// choice. Its host is api.NAMESPACE.test.
func entryOf(namespace string) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec:
  hosts: [api.%s.test]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  resolution: STATIC
  location: MESH_INTERNAL
  workloadSelector: {labels: {app: server}}
`, namespace)
}

func names(ctx context.Context, e *Env) (string, error) {
	client, leak, err := e.meshed(ctx, 2, "")
	if err != nil {
		return "", err
	}
	if err := e.Apply(ctx, entryOf(e.Namespace)); err != nil {
		return "", err
	}
	host := "api." + e.Namespace
	load, err := e.Load(ctx, client, host+".test:80")
	if err != nil {
		return "", err
	}
	if err := load.Flowing(ctx, 2*rate); err != nil {
		return "", err
	}
	// Names of the cluster, short and long, and one that nobody knows.
	for _, to := range []string{"server:80", "server." + e.Namespace + ":80", "server." + e.Namespace + ".svc.cluster.local:80"} {
		if err := e.Reachable(ctx, client, to); err != nil {
			return "", err
		}
	}
	switch _, err := client.Hello(ctx, "nowhere."+e.Namespace+".svc.cluster.local:80"); {
	case err == nil:
		return "", errors.New("a name that nobody knows has an address")
	case !strings.Contains(err.Error(), "no such host"):
		return "", fmt.Errorf("a name that nobody knows, want no such host: %w", err)
	}
	evidence, err := verdict(load, leak)
	if err != nil {
		return "", err
	}
	// A pod with a search domain of its own.
	_, err = e.Kubectl(ctx, "", "patch", "deployment/client", "--type=merge", "--patch",
		`{"spec":{"template":{"spec":{"dnsConfig":{"searches":["test"]}}}}}`)
	if err != nil {
		return "", err
	}
	if _, err := e.Kubectl(ctx, "", "rollout", "status", "deployment/client", "--timeout=90s"); err != nil {
		return "", err
	}
	if err := e.WaitReady(ctx, e.Namespace, "client", 1); err != nil {
		return "", err
	}
	if client, err = e.Pod(ctx, "client"); err != nil {
		return "", err
	}
	return evidence + "; by a pod's own search domain too", e.Reachable(ctx, client, host+":80")
}

func tellWhy(ctx context.Context, e *Env) (string, error) {
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{modeLabel: modeMesh}); err != nil {
		return "", err
	}
	client, err := e.pair(ctx, 1, "")
	if err != nil {
		return "", err
	}
	if err := e.Reachable(ctx, client, "server:80"); err != nil {
		return "", err
	}
	server, err := e.Pod(ctx, "server")
	if err != nil {
		return "", err
	}
	identity := "spiffe://cluster.local/ns/" + e.Namespace + "/sa/client to spiffe://cluster.local/ns/" + e.Namespace + "/sa/server"
	for _, destination := range []string{e.Namespace + "/" + server.Name, e.Namespace + "/server"} {
		err := e.Until(ctx, 10*time.Second, "ambit why tells of both ends", func(ctx context.Context) (bool, error) {
			out, err := e.Run(ctx, "why", e.Namespace+"/"+client.Name, destination)
			for _, want := range []string{"where it starts (" + client.Node + ", outbound)", "where it arrives (" + server.Node + ", inbound)", identity} {
				if err == nil && !strings.Contains(out, want) {
					err = fmt.Errorf("no %q in:\n%s", want, out)
				}
			}
			if err == nil && strings.Count(out, identity) < 2 {
				err = fmt.Errorf("only one end tells of it:\n%s", out)
			}
			return err == nil, err
		})
		if err != nil {
			return "", err
		}
	}
	return "told by both ends, for the pod and for its service", nil
}
