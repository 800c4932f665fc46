package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Ports of a waypoint that the lab uses.
const (
	waypointPort  = 15008
	waypointReady = 15021
)

// Waypoint is a waypoint of the lab: a pod outside the mesh in which one runs.
type Waypoint struct {
	Pod     *Pod
	Process *Process
	run     func(ctx context.Context, p *Pod) (*Process, error)
}

// WaypointSpec says which waypoint to start.
type WaypointSpec struct {
	Namespace, Name string
	Node            int
	// Address of its service. Zero means WaypointAddr.
	Address netip.Addr
	// Run starts the program in the pod. Nil means ours.
	Run func(ctx context.Context, p *Pod) (*Process, error)
}

// StartWaypoint starts a pod with a waypoint in it, writes its Gateway and Service,
// and waits until it is ready. When it fails, nothing of it is left.
func (l *Lab) StartWaypoint(ctx context.Context, namespace, name string, node int) (*Waypoint, error) {
	return l.StartWaypointAs(ctx, WaypointSpec{Namespace: namespace, Name: name, Node: node})
}

// StartWaypointAs is StartWaypoint with every choice. One that spec.Run has started
// need not be ready when it returns.
func (l *Lab) StartWaypointAs(ctx context.Context, spec WaypointSpec) (*Waypoint, error) {
	p, err := l.StartPod(ctx, PodSpec{
		Namespace: spec.Namespace, Name: spec.Name, App: spec.Name, ServiceAccount: spec.Name, Node: spec.Node, MeshLabel: "none", Bare: true,
	})
	if err != nil {
		return nil, err
	}
	if !spec.Address.IsValid() {
		spec.Address = WaypointAddr()
	}
	if spec.Run == nil {
		spec.Run = l.runWaypoint
	}
	w := &Waypoint{Pod: p, run: spec.Run}
	if err = l.describeWaypoint(p, spec.Address); err == nil {
		w.Process, err = spec.Run(ctx, p)
	}
	if err != nil {
		return nil, errors.Join(err, l.StopWaypoint(context.WithoutCancel(ctx), w))
	}
	return w, nil
}

// describeWaypoint writes the objects that stand for a waypoint.
func (l *Lab) describeWaypoint(p *Pod, addr netip.Addr) error {
	return l.manifests.Apply(waypointFile(p), serviceAccountManifest(p.Namespace, p.Name), fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s, namespace: %s}
spec: {gatewayClassName: ambit-waypoint, listeners: [{name: mesh, port: %d, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}]}
`, p.Name, p.Namespace, waypointPort), fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s}
spec: {clusterIP: %s, selector: {app: %s}, ports: [{name: mesh, port: %d, targetPort: %d}]}
`, p.Name, p.Namespace, addr, p.App, waypointPort, waypointPort))
}

// runWaypoint starts our waypoint in a pod and waits until it is ready.
func (l *Lab) runWaypoint(ctx context.Context, p *Pod) (*Process, error) {
	control := fmt.Sprintf("https://%s:%d", controlAddr, istiodPort)
	w, err := l.start(ctx, processSpec{
		name: p.Namespace + "-" + p.Name, ns: p.NetNS, path: l.bin("waypoint"), dir: p.Node.Dir, env: l.cfg.WaypointEnv,
		args: []string{
			"--gateway", p.Name, "--pod-namespace", p.Namespace, "--pod-name", p.Name, "--instance-ip", p.Address.String(), "--node", p.Node.Name,
			"--xds-address", control, "--xds-root-ca", l.rootFile(), "--token", p.Node.tokenFile(), "--node-token",
		},
	})
	if err != nil {
		return nil, err
	}
	ready := fmt.Sprintf("http://%s/healthz/ready", netip.AddrPortFrom(p.Address, waypointReady))
	err = waitReady(ctx, w, func(ctx context.Context) error { return getOK(ctx, p.NetNS, ready) })
	if err != nil {
		return nil, errors.Join(err, w.Stop())
	}
	return w, nil
}

// RestartWaypoint ends the program of a waypoint and starts it anew in the same pod.
func (l *Lab) RestartWaypoint(ctx context.Context, w *Waypoint) (err error) {
	if err := w.Process.Stop(); err != nil {
		return err
	}
	w.Process, err = w.run(ctx, w.Pod)
	return err
}

// WaypointAddr is the address of the service of a lab's waypoint.
func WaypointAddr() netip.Addr { return serviceAddr(30) }

// ExtraServiceAddr is an address for a service that a caller writes itself, counted
// from 1.
func ExtraServiceAddr(i int) netip.Addr { return serviceAddr(40 + i) }

func waypointFile(p *Pod) string { return "waypoint-" + p.Namespace + "-" + p.Name }

// StopWaypoint ends a waypoint and removes what stands for it.
func (l *Lab) StopWaypoint(ctx context.Context, w *Waypoint) error {
	var errs []error
	if w.Process != nil {
		errs = append(errs, w.Process.Stop())
	}
	return errors.Join(append(errs, l.manifests.Delete(waypointFile(w.Pod)), l.StopPod(ctx, w.Pod))...)
}

// WaitLine returns the first line of the waypoint's log that has all of the texts.
// It waits for it up to 3 seconds.
func (w *Waypoint) WaitLine(ctx context.Context, texts ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for {
		log, err := os.ReadFile(w.Process.Record.Log)
		if err != nil {
			return "", err
		}
		for line := range strings.SplitSeq(string(log), "\n") {
			all := true
			for _, t := range texts {
				all = all && strings.Contains(line, t)
			}
			if all && line != "" {
				return line, nil
			}
		}
		if err := lifecycle.Sleep(ctx, 50*time.Millisecond); err != nil {
			return "", fmt.Errorf("no line of %v's log has %q: %w", w.Pod, texts, err)
		}
	}
}

// Label sets a label of a running pod.
func (l *Lab) Label(p *Pod, key, value string) error {
	if p.labels == nil {
		p.labels = map[string]string{}
	}
	if p.labels[key] = value; value == "" {
		delete(p.labels, key)
	}
	return l.WritePod(p)
}
