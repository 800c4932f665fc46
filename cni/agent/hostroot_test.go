package agent

import (
	"os"
	"path/filepath"
	"testing"
)

func TestHostRootResolve(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "run/netns"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "var"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/run", filepath.Join(root, "var/run")); err != nil {
		t.Fatal(err)
	}
	// As /proc/1/root is one.
	link := filepath.Join(t.TempDir(), "root")
	if err := os.Symlink(root, link); err != nil {
		t.Fatal(err)
	}
	for name, host := range map[string]string{"a directory": root, "a link to it": link} {
		t.Run(name, func(t *testing.T) {
			got, err := HostRoot(host).Resolve("/var/run/netns/cni-1")
			if want := filepath.Join(host, "run/netns/cni-1"); got != want || err != nil {
				t.Errorf("Resolve = %q, %v, want %q", got, err, want)
			}
		})
	}
}
