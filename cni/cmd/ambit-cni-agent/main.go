// Command ambit-cni-agent is the CNI agent of an ambit node: it takes the node's
// pods into the mesh, and hands them to ztunnel.
package main

import (
	"context"

	"github.com/ambit-mesh/ambit/cni"
	"github.com/ambit-mesh/ambit/internal/program"
)

// version is set when the program is linked.
var version = "dev"

func main() {
	f := newFlags()
	f.Main(context.Background(), f.command())
}

// serve runs the agent until ctx ends.
func (f *flags) serve(ctx context.Context) error {
	cfg, err := f.config()
	if err != nil {
		return err
	}
	return f.Serve(ctx, func(d program.Deps) (program.Runner, error) {
		return cni.New(cfg, cni.Deps{Log: d.Log, Metrics: d.Metrics})
	})
}
