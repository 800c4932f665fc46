// Command ambit-cni-agent is the CNI agent of an ambit node: it takes the node's
// pods into the mesh, and hands them to ztunnel.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/ambit-mesh/ambit/cni"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/telemetry"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // it ran, and something went wrong
	exitUsage  = 2 // flags: it never ran
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
		fmt.Fprintln(os.Stderr, "ambit-cni-agent: "+err.Error())
		var failed *runError
		if errors.As(err, &failed) {
			return exitFailed
		}
		return exitUsage
	}
	return exitOK
}

// runError is an error of an agent that was running.
type runError struct{ err error }

func (e *runError) Error() string { return e.err.Error() }

// Unwrap makes errors.Is and errors.As see the cause.
func (e *runError) Unwrap() error { return e.err }

// serve runs the agent until ctx ends.
func (f *flags) serve(ctx context.Context) error {
	cfg, err := f.config()
	if err != nil {
		return err
	}
	json, err := telemetry.ParseLogFormat(f.logFormat)
	if err != nil {
		return fmt.Errorf("--log-format: %w", err)
	}
	queue := telemetry.NewLogQueue(os.Stderr, 0)
	log, err := telemetry.NewLogger(telemetry.LogConfig{JSON: json, Spec: f.logLevel}, queue)
	if err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	metrics, err := telemetry.NewRegistry("ambit-cni-agent", version)
	if err != nil {
		return err
	}
	node, err := cni.New(cfg, cni.Deps{Log: log.Zap(), Metrics: metrics})
	if err != nil {
		return err
	}

	// Lines are written until everything else has ended.
	var lines lifecycle.Group
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	lines.Go(writing, "log", func(ctx context.Context) { err = queue.Run(ctx) })
	failed := node.Run(ctx)
	stop()
	lines.Wait()
	if failed != nil {
		return &runError{failed}
	}
	if err != nil {
		return &runError{fmt.Errorf("write the log: %w", err)}
	}
	return nil
}
