package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/e2e/cluster"
)

// meshed are the namespaces of the suite's meshes; backends are two that it waits for
// although nothing but tests of gateways uses them.
var (
	meshed   = []string{"gateway-conformance-mesh", "gateway-conformance-mesh-consumer"}
	backends = []string{"gateway-conformance-app-backend", "gateway-conformance-web-backend"}
)

// withWaypoint is a namespace in the mesh with a waypoint. It serves workloads, too:
// a test calls a pod by its address, which the pod lets in through the waypoint only.
const withWaypoint = `
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: %[1]s, labels: {istio.io/waypoint-for: all}}
spec: {gatewayClassName: ambit-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
`

// withPod is a namespace with one pod: the suite begins when there is one in each, and
// brings them itself only for gateways.
const withPod = `
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s}
---
apiVersion: v1
kind: Pod
metadata: {name: placeholder, namespace: %[1]s}
spec: {containers: [{name: echo, image: "%[2]s", imagePullPolicy: IfNotPresent}], terminationGracePeriodSeconds: 1}
---
`

// readyWithin is how long waypoints have to run, on a busy machine.
const readyWithin = 5 * time.Minute

// makeNamespaces makes them and waits for their waypoints.
func makeNamespaces(ctx context.Context, c *cluster.Cluster, echo string) error {
	var text strings.Builder
	for _, ns := range meshed {
		fmt.Fprintf(&text, withWaypoint, ns)
	}
	for _, ns := range backends {
		fmt.Fprintf(&text, withPod, ns, echo)
	}
	apply := c.Kubectl(ctx, "apply", "-f", "-")
	apply.Stdin = strings.NewReader(text.String())
	if out, err := apply.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	for _, ns := range meshed {
		wait := c.Kubectl(ctx, "--namespace", ns, "wait", "gateway/waypoint", "--for=condition=Programmed", "--timeout="+readyWithin.String())
		if out, err := wait.CombinedOutput(); err != nil {
			return fmt.Errorf("waypoint of %s: %w\n%s", ns, err, out)
		}
	}
	return nil
}
