package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWhy(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ztunnel.log"), []byte(accessSample), 0o600); err != nil {
		t.Fatal(err)
	}
	state := State{
		Nodes: []NodeRecord{{Name: "node-1", Dir: t.TempDir()}, {Name: "node-3", Dir: dir}, {Name: "node-2", Dir: dir}},
		Pods: []PodRecord{
			{Namespace: "shop", Name: "web", Node: "node-1", Address: "10.77.1.2", Mesh: true},
			{Namespace: "outside", Name: "visitor", Node: "node-1", Address: "10.77.1.9"},
			{Namespace: "shop", Name: "cart", Node: "node-3", Address: "10.77.1.2", Mesh: true},
			{Namespace: "books", Name: "api-2", Node: "node-2", Address: "10.77.2.3", Mesh: true},
		},
	}
	tests := []struct {
		name, from, to string
		want           []string
	}{
		{"let in", "shop/web", "books/api-2", []string{
			"no connection from shop/web to books/api-2 has ended here yet", "decided by bank/only-tellers, ended well",
		}},
		{"by address", "10.77.1.2", "10.77.2.3", []string{"ended well"}},
		{"refused for lack of a waypoint", "shop/cart", "10.96.0.7", []string{"where it starts", "unknown waypoint: waypoint bank/waypoint"}},
		{"refused, from outside", "outside/visitor", "books/api-2", []string{
			"outside/visitor is not in the mesh", "decided by bank/no-web, FAILED at stage policy",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Why(state, tt.from, tt.to)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("no %q in\n%s", want, got)
				}
			}
		})
	}
	if _, err := Why(state, "shop/web", "shop/nobody"); err == nil || !strings.Contains(err.Error(), "there are shop/web, outside/visitor, shop/cart, books/api-2") {
		t.Errorf("Why of an unknown pod = %v, want the pods that there are", err)
	}
}
