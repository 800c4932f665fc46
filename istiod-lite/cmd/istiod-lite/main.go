// Command istiod-lite is the control plane of an ambit mesh: it reads manifests
// and tells the proxies who is where, who may talk to whom, and signs their
// certificates.
package main

import (
	"context"

	"github.com/ambit-mesh/ambit/internal/program"
	istiodlite "github.com/ambit-mesh/ambit/istiod-lite"
)

// version is set when the program is linked.
var version = "dev"

func main() {
	f := newFlags()
	f.Main(context.Background(), f.command())
}

// serve runs the control plane until ctx ends.
func (f *flags) serve(ctx context.Context) error {
	return f.Serve(ctx, func(d program.Deps) (program.Runner, error) {
		return istiodlite.New(f.cfg, istiodlite.Deps{Log: d.Log, Metrics: d.Metrics})
	})
}
