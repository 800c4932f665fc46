package interop

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/e2e/cases"
	"github.com/ambit-mesh/ambit/e2e/cluster"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

var (
	//go:embed istiod.yaml
	istiodObjects string
	//go:embed ztunnel.yaml
	ztunnelObjects string
	//go:embed istio-cni.yaml
	agentObjects string
)

// part is one of three that make a mesh, ours or theirs.
type part struct {
	ours     string   // its name in `ambit install --parts`; empty for theirs
	set      []string // values of ours
	objects  string   // theirs
	workload string   // kind/name of what runs it
}

// Ours and theirs.
var (
	ourControl  = part{ours: "istiod-lite", set: []string{"istiod.replicas=1"}, workload: "deployment/istiod-lite"}
	ourAgent    = part{ours: "cni", workload: "daemonset/ambit-cni"}
	ourProxy    = part{ours: "ztunnel", workload: "daemonset/ztunnel"}
	peerControl = part{objects: istiodObjects, workload: "deployment/istiod"}
	peerAgent   = part{objects: agentObjects, workload: "daemonset/istio-cni-node"}
	peerProxy   = part{objects: ztunnelObjects, workload: "daemonset/ztunnel"}
	// Another ztunnel cannot ask the agent whose socket a probe is.
	ourAgentBesideOthers = part{ours: "cni", set: []string{"cni.probeMode=snat"}, workload: "daemonset/ambit-cni"}
)

// World is a mesh of mixed parts.
type World struct {
	Name  string // of lower case letters and '-'
	About string // what drives what, in one line

	parts []part   // control plane, agent, proxy
	same  []string // cases of a mesh that is all ours which hold here as they are
	// What the other's parts do differently.
	otherProxy, otherAgent bool
}

// Worlds lists the meshes in the order in which they are made.
func Worlds() []World {
	return []World{
		{
			Name: "istiod", About: "a real istiod drives our ztunnel and our CNI agent",
			parts: []part{peerControl, ourAgent, ourProxy},
			same:  []string{"policy", "strict-probes", "first-connection", "label-unlabel", "opt-out", "dns", "headless"},
		},
		{
			Name: "ztunnel", About: "our istiod-lite and our CNI agent drive a real Rust ztunnel",
			parts:      []part{ourControl, ourAgentBesideOthers, peerProxy},
			same:       []string{"policy", "strict-probes", "first-connection", "opt-out"},
			otherProxy: true,
		},
		{
			Name: "istio-cni", About: "a real istio-cni agent, and our istiod-lite, drive our ztunnel",
			parts:      []part{ourControl, peerAgent, ourProxy},
			same:       []string{"policy", "strict-probes", "first-connection", "opt-out", "dns"},
			otherAgent: true,
		},
		{
			Name: "alone", About: "our ztunnel between a real istiod and a real istio-cni agent",
			parts:      []part{peerControl, peerAgent, ourProxy},
			same:       []string{"policy", "strict-probes"},
			otherAgent: true,
		},
	}
}

// readyWithin is how long a part has to run on every node, on a busy machine.
const readyWithin = 3 * time.Minute

// Site is where worlds are made: a cluster, and the command that prints our parts.
type Site struct {
	Cluster *cluster.Cluster
	Ambit   string // path of the command ambit
	Peers   Peers
}

// Make makes a world, in the place of whatever mesh is on the cluster. The root of an
// earlier one stays, and the new one takes it over.
func (s Site) Make(ctx context.Context, w World) error {
	if err := s.Clear(ctx); err != nil {
		return fmt.Errorf("before world %s: %w", w.Name, err)
	}
	for _, p := range w.parts {
		text, err := s.manifest(ctx, p)
		if err != nil {
			return err
		}
		if err := s.apply(ctx, text); err != nil {
			return fmt.Errorf("world %s: %s: %w", w.Name, p.workload, err)
		}
	}
	for _, p := range w.parts {
		out, err := s.kubectl(ctx, "", "rollout", "status", p.workload, "--timeout="+readyWithin.String())
		if err != nil {
			pods, _ := s.kubectl(ctx, "", "get", "pods", "-o", "wide") // it may be the reason
			return fmt.Errorf("world %s: %w\n%s%s", w.Name, err, out, pods)
		}
	}
	return nil
}

// Clear removes what runs of any mesh, and the rights of it: an installation of ambit,
// and what a world consists of. Agents go first, while they may still tidy up.
func (s Site) Clear(ctx context.Context) error {
	// What remembers an installation; ambit uninstall knows all that belongs to it.
	if _, err := s.kubectl(ctx, "", "get", "configmap", "ambit-installation"); err == nil {
		if out, err := s.ambit(ctx, "uninstall", "--release-pods"); err != nil {
			return fmt.Errorf("%w:\n%s", err, out)
		}
	}
	const here, nowhere = "--ignore-not-found", "--selector=app.kubernetes.io/part-of=ambit"
	for _, args := range [][]string{
		{"daemonset", "ambit-cni", "istio-cni-node", here, "--cascade=foreground", "--timeout=90s"},
		{"daemonset", "ztunnel", here, "--cascade=foreground", "--timeout=90s"},
		{"deployment", "istiod", "istiod-lite", here, "--cascade=foreground", "--timeout=90s"},
		{"service", "istiod", here},
		{"clusterrolebinding", "interop-istiod", "interop-istio-cni", here},
		{"clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings", nowhere},
		{"serviceaccounts,roles,rolebindings,poddisruptionbudgets", nowhere},
	} {
		if _, err := s.kubectl(ctx, "", append([]string{"delete"}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

// Remove is Clear, and takes the namespace of the installation away too.
func (s Site) Remove(ctx context.Context) error {
	if err := s.Clear(ctx); err != nil {
		return err
	}
	_, err := s.kubectl(ctx, "", "delete", "namespace", cases.System, "--ignore-not-found", "--timeout=60s")
	return err
}

// manifest is what a part consists of.
func (s Site) manifest(ctx context.Context, p part) (string, error) {
	if p.ours == "" {
		return p.objects, nil
	}
	args := []string{"install", "-o", "yaml", "--parts", p.ours}
	for _, set := range p.set {
		args = append(args, "--set", set)
	}
	return s.ambit(ctx, args...)
}

// apply applies objects. Those of a kind whose definition was applied a moment ago are
// tried again.
func (s Site) apply(ctx context.Context, text string) error {
	if _, err := s.kubectl(ctx, "", "create", "namespace", cases.System); err != nil && !strings.Contains(err.Error(), "AlreadyExists") {
		return err
	}
	var err error
	for range 5 {
		// Definitions are longer than an annotation may be: the server keeps track.
		if _, err = s.kubectl(ctx, text, "apply", "--server-side", "--force-conflicts", "-f", "-"); err == nil {
			return nil
		}
		if err := lifecycle.Sleep(ctx, time.Second); err != nil {
			return err
		}
	}
	return err
}

// kubectl runs kubectl in the installation's namespace.
func (s Site) kubectl(ctx context.Context, input string, args ...string) (string, error) {
	cmd := s.Cluster.Kubectl(ctx, append([]string{"--namespace", cases.System}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), err
}

// ambit runs the command ambit and returns what it prints.
func (s Site) ambit(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.Ambit, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.Cluster.Kubeconfig())
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("ambit %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaints.String()))
	}
	return string(out), err
}
