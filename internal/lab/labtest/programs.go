// Package labtest builds the real programs for tests that run them.
package labtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
)

// ours and theirs are where the programs of a lab come from.
const (
	ours   = "github.com/ambit-mesh/ambit/"
	theirs = "github.com/containernetworking/plugins/plugins/"
)

// Of the programs that tests ask for.
const (
	Ambit      = ours + "ambit"
	Ztunnel    = ours + "ztunnel/cmd/ztunnel"
	Waypoint   = ours + "waypoint/cmd/waypoint"
	IstiodLite = ours + "istiod-lite/cmd/istiod-lite"
	Plugin     = ours + "cni/cmd/ambit-cni"
	Agent      = ours + "cni/cmd/ambit-cni-agent"
	Bridge     = theirs + "main/bridge"
	HostLocal  = theirs + "ipam/host-local"
)

// Build builds programs into a directory. Under the race detector they have it too,
// and what `make test` has compiled is used again; without it they are
// built as `make build` does. The flags are those of the Makefile: with others, all is
// compiled once more.
func Build(ctx context.Context, dir string, programs ...string) error {
	args, env := []string{"build", "-trimpath", "-tags", "grpcnotrace", "-o", dir + "/"}, append(os.Environ(), "CGO_ENABLED=0")
	if Race {
		args, env = []string{"build", "-race", "-gcflags=all=-dwarf=false", "-ldflags=-w", "-o", dir + "/"}, os.Environ()
	}
	cmd := exec.CommandContext(ctx, "go", append(args, programs...)...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %v: %w\n%s", programs, err, out)
	}
	return nil
}
