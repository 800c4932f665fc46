// Command istiod-lite is the control plane of an ambit mesh: it reads manifests
// and tells the proxies who is where, who may talk to whom, and signs their
// certificates.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	istiodlite "github.com/ambit-mesh/ambit/istiod-lite"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // it ran, and something went wrong
	exitUsage  = 2 // flags or configuration: it never ran
)

// version is set when the program is linked.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

// run is the program; its result is the exit code.
func run(ctx context.Context, args []string) int {
	var f flags
	cmd := f.command()
	cmd.SetArgs(args)
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "istiod-lite: "+err.Error())
		var failed *runError
		if errors.As(err, &failed) {
			return exitFailed
		}
		return exitUsage
	}
	return exitOK
}

// runError is an error of a control plane that was running.
type runError struct{ err error }

func (e *runError) Error() string { return e.err.Error() }

// Unwrap makes errors.Is and errors.As see the cause.
func (e *runError) Unwrap() error { return e.err }

// serve runs the control plane until ctx ends.
func (f *flags) serve(ctx context.Context) error {
	log, err := f.logger()
	if err != nil {
		return err
	}
	defer log.Sync()
	istiod, err := istiodlite.New(f.cfg, istiodlite.Deps{Log: log, Metrics: prometheus.NewRegistry()})
	if err != nil {
		return err
	}
	if err := istiod.Run(ctx); err != nil {
		return &runError{err}
	}
	return nil
}
