package lab

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/cni/event"
)

// What is listed is what the agents say, not what the lab once wanted.
func TestEnrolledIsTheWordOfTheAgents(t *testing.T) {
	dir := t.TempDir()
	answer(t, filepath.Join(dir, "node-1"), []event.Pod{
		{UID: "u1", Namespace: "shop", Name: "web", ServiceAccount: "front", State: event.Enrolled, Reason: "label"},
		{UID: "u2", Namespace: "shop", Name: "cart", ServiceAccount: "cart", State: event.Outside, Reason: "no label"},
	})
	state := State{
		Nodes: []NodeRecord{{Name: "node-1", Dir: filepath.Join(dir, "node-1")}, {Name: "node-2", Dir: filepath.Join(dir, "node-2")}},
		Pods: []PodRecord{
			{UID: "u1", Namespace: "shop", Name: "web", Node: "node-1"},
			{UID: "u2", Namespace: "shop", Name: "cart", Node: "node-1", Mesh: true}, // it was, once
			{UID: "u3", Namespace: "shop", Name: "lost", Node: "node-1", Mesh: true},
			{UID: "u4", Namespace: "bank", Name: "ledger", Node: "node-2", Mesh: true},
		},
	}
	got, err := Enrolled(t.Context(), state)
	if err == nil || !strings.Contains(err.Error(), "agent of node-2") || strings.Contains(err.Error(), "node-1:") {
		t.Errorf("error = %v, want one that names the agent of node-2 alone", err)
	}
	want := []EnrolledPod{
		{state.Pods[0], "enrolled", "label", "spiffe://cluster.local/ns/shop/sa/front"},
		{state.Pods[1], "outside", "no label", ""},
		{state.Pods[2], "unknown", "the agent does not know it", ""},
		{state.Pods[3], "unknown", "the agent does not answer", ""},
	}
	if len(got) != len(want) {
		t.Fatalf("%d pods, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("pod %d is %+v, want %+v", i, got[i], want[i])
		}
	}
}

// answer is an agent of the node in dir that knows pods.
func answer(t *testing.T, dir string, pods []event.Pod) {
	t.Helper()
	n := Node{Dir: dir}
	if err := os.MkdirAll(n.pluginDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", n.pluginSocket())
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != event.PathPods {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(pods)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
}
