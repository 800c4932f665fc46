package model_test

import (
	"fmt"
	"testing"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// node is one that was heard of, when status is True.
func node(name, status string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Node\nmetadata: {name: %s}\nstatus: {conditions: [{type: Ready, status: %q}]}\n", name, status)
}

// Whether a pod gets connections, by what its kubelet said last and by who says
// otherwise.
func TestWhoSaysThatAPodIsNotReady(t *testing.T) {
	for _, tt := range []struct {
		name              string
		ready, containers string // of the pod
		gates             string
		here, there       string // of its node, and of another one
		healthy           bool
	}{
		{"the kubelet says ready", "True", "True", "", "True", "True", true},
		{"the kubelet says not ready", "False", "False", "", "True", "True", false},
		{"a gate is closed", "False", "True", "[{conditionType: example.com/gate}]", "True", "True", false},
		{"its node is silent, others are not", "False", "True", "", "Unknown", "True", false},
		{"all nodes are silent: who says so is cut off", "False", "True", "", "Unknown", "Unknown", true},
		{"all are silent, and the kubelet had said not ready", "False", "False", "", "Unknown", "Unknown", false},
		{"its node was heard of again, and the pod not yet", "False", "True", "", "True", "Unknown", true},
		{"its node says itself that it is ill", "False", "True", "", "False", "True", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {nodeName: here, readinessGates: %s, containers: [{name: a, image: a}]}
status:
  phase: Running
  podIPs: [{ip: 10.0.0.1}]
  conditions: [{type: Ready, status: %q}, {type: ContainersReady, status: %q}]
`, orEmptyList(tt.gates), tt.ready, tt.containers)
			// In every order, for the last word makes the difference.
			parts := []string{node("here", tt.here), node("there", tt.there), pod}
			for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {2, 0, 1}} {
				m := mustModel(t, model.Config{}, node("here", "True"), node("there", "True"))
				for _, i := range order {
					m.Apply(mustEvents(t, parts[i])...)
				}
				if got := mustWorkload(t, m, "shop/web").Status == workloadapi.WorkloadStatus_HEALTHY; got != tt.healthy {
					t.Errorf("order %v: healthy %v, want %v", order, got, tt.healthy)
				}
			}
		})
	}
}

// orEmptyList is a list in YAML.
func orEmptyList(text string) string {
	if text == "" {
		return "[]"
	}
	return text
}
