package interop

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/e2e/cases"
	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// owner asks `ambit check` and `ambit install` beside parts of another mesh.
func (w World) owner(ctx context.Context, e *cases.Env) (string, error) {
	var owners []string
	for _, p := range w.parts {
		if p.ours == "" {
			_, name, _ := strings.Cut(p.workload, "/")
			owners = append(owners, cases.System+"/"+name)
		}
	}
	before, err := e.Kubectl(ctx, "", "get", "all", "--namespace", cases.System, "-o", "name")
	if err != nil {
		return "", err
	}
	for _, command := range []string{"check", "install"} {
		out, err := e.Run(ctx, command)
		if err == nil {
			return "", fmt.Errorf("ambit %s has no objection:\n%s", command, out)
		}
		for _, owner := range owners {
			if !strings.Contains(out, owner) {
				return "", fmt.Errorf("ambit %s does not name %s:\n%s", command, owner, out)
			}
		}
	}
	after, err := e.Kubectl(ctx, "", "get", "all", "--namespace", cases.System, "-o", "name")
	if err != nil {
		return "", err
	}
	if before != after {
		return "", fmt.Errorf("before ambit install:\n%s\nafter:\n%s", before, after)
	}
	return "ambit check names " + strings.Join(owners, " and ") + "; ambit install refuses, and nothing has changed", nil
}

// istioctl reads our ztunnel with the tool of Istio, while a connection is open.
func (w World) istioctl(peers Peers) func(context.Context, *cases.Env) (string, error) {
	return func(ctx context.Context, e *cases.Env) (string, error) {
		c, err := meshed(ctx, e)
		if err != nil {
			return "", err
		}
		if err := e.Apply(ctx, fmt.Sprintf(denyAlice, "elsewhere")); err != nil {
			return "", err
		}
		if err := e.Reachable(ctx, c.alice, "bob:80"); err != nil {
			return "", err
		}
		live, err := c.alice.Begin(ctx, labapp.Request{Do: labapp.DoWatch, Address: c.bob.At(labapp.TickerPort), Timeout: time.Minute})
		if err != nil {
			return "", err
		}
		defer live.Close()
		if _, err := live.Next(ctx); err != nil {
			return "", err
		}
		node := e.Cluster.Nodes()[0].Name
		pod, err := e.Kubectl(ctx, "", "get", "pods", "--namespace", cases.System, "-l", "app=ztunnel", "--field-selector=spec.nodeName="+node, "-o", "jsonpath={.items[0].metadata.name}")
		if err != nil {
			return "", err
		}
		id := "spiffe://cluster.local/ns/" + e.Namespace + "/sa/"
		asked := []struct {
			command string
			want    []string // in the short form
			json    string   // in the whole
		}{
			{"workload", []string{c.alice.Name, c.bob.Name, c.bob.IP.String(), "HBONE"}, `"serviceAccount": "alice"`},
			{"service", []string{e.Namespace, "bob", "1/1"}, `"hostname": "bob.` + e.Namespace},
			{"policy", []string{e.Namespace, "no-alice", "Deny"}, `"name": "no-alice"`},
			{"certificate", []string{id + "alice", "Leaf", "Root", "true"}, id + "alice"},
			{"connections", []string{c.alice.Name, c.bob.Name, "Outbound"}, fmt.Sprintf("%v:%d", c.bob.IP, labapp.TickerPort)},
			{"all", []string{c.alice.Name, id + "alice", "no-alice"}, id + "alice"},
		}
		for _, a := range asked {
			short, err := peers.Ctl(ctx, e.Cluster, "ztunnel-config", a.command, pod+"."+cases.System).CombinedOutput()
			if err != nil {
				return "", fmt.Errorf("istioctl ztunnel-config %s: %w:\n%s", a.command, err, short)
			}
			for _, want := range a.want {
				if !strings.Contains(string(short), want) {
					return "", fmt.Errorf("istioctl ztunnel-config %s does not show %q:\n%s", a.command, want, short)
				}
			}
			e.Note("istioctl ztunnel-config %s:\n%s", a.command, short)
			if a.command == "all" {
				continue
			}
			long, err := peers.Ctl(ctx, e.Cluster, "ztunnel-config", a.command, pod+"."+cases.System, "-o", "json").CombinedOutput()
			if err != nil || !strings.Contains(string(long), a.json) {
				return "", fmt.Errorf("istioctl ztunnel-config %s -o json does not show %q: %w:\n%s", a.command, a.json, err, long)
			}
		}
		// It sets the level of logs, and puts it back.
		for _, args := range [][]string{{"--level", "debug"}, {"--reset"}} {
			out, err := peers.Ctl(ctx, e.Cluster, append([]string{"ztunnel-config", "log", pod + "." + cases.System}, args...)...).CombinedOutput()
			if err != nil {
				return "", errors.Join(err, fmt.Errorf("istioctl ztunnel-config log %v:\n%s", args, out))
			}
			e.Note("istioctl ztunnel-config log %v: %s", args, out)
		}
		return "workload, service, policy, certificate and connections, short and as JSON, all, log: they show what is there", nil
	}
}
