// Command waypoint is the HTTP proxy of a namespace or a service: it decides about
// each request with the identity that the caller's tunnel has proven, and sends it
// to an endpoint through a tunnel of its own.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"github.com/ambit-mesh/ambit/internal/awake"
	"github.com/ambit-mesh/ambit/internal/footprint"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/program"
	"github.com/ambit-mesh/ambit/waypoint"

	// An image has no certificates of public authorities: those that Mozilla trusts vouch
	// for servers outside of the mesh where neither the system nor a rule names others.
	_ "golang.org/x/crypto/x509roots/fallback"
)

// version is set when the program is linked.
var version = "dev"

func main() {
	if err := awake.Keep(os.Getenv("AMBIT_MONITOR_AWAKE") != "off", os.Args, os.Environ()); err != nil {
		fmt.Fprintln(os.Stderr, "waypoint: start again with the monitor thread awake:", err)
	}
	f := newFlags()
	f.Main(context.Background(), f.command())
}

// serve runs the waypoint until ctx ends.
func (f *flags) serve(ctx context.Context) error {
	var pacing lifecycle.Group
	defer pacing.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if os.Getenv("AMBIT_PACE_PROCESSORS") != "off" {
		most := runtime.GOMAXPROCS(0)
		pacing.Go(ctx, "processors", func(ctx context.Context) { footprint.PaceProcessors(ctx, most) })
	}
	footprint.PaceCollector(os.Environ())
	return f.Serve(ctx, func(d program.Deps) (program.Runner, error) {
		return waypoint.New(f.cfg, waypoint.Deps{Log: d.Log, Metrics: d.Metrics, Environ: f.environ})
	})
}
