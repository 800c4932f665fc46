// Package program runs a program: log and metrics, a memory limit, the signals that
// end it, and what it says when it cannot go on.
package program

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/footprint"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/telemetry"
)

// Exit codes.
const (
	ExitOK     = 0
	ExitFailed = 1 // it ran, and something went wrong
	ExitUsage  = 2 // flags or configuration: it never ran
)

// Program is a process of the mesh.
type Program struct {
	// Name begins what it says about itself; Version is shown with its metrics.
	Name, Version string

	logLevel, logFormat string
}

// Deps are what every program has.
type Deps struct {
	Log     *zap.Logger
	Metrics *prometheus.Registry
}

// Flags declares the flags of the log. scopes names parts that have a level of
// their own.
func (p *Program) Flags(flags *pflag.FlagSet, scopes string) {
	flags.StringVar(&p.logLevel, "log-level", "info", "`SPEC`: debug, info, warn or error, for all or by scope, as info,SCOPE=debug (scopes: "+scopes+")")
	flags.StringVar(&p.logFormat, "log-format", "json", "`FORMAT`: json or plain")
}

// Main runs a command until it is asked to end, and ends the process.
func (p *Program) Main(ctx context.Context, cmd *cobra.Command) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(p.Execute(ctx, cmd, os.Args[1:]))
}

// Execute runs a command; its result is the exit code.
func (p *Program) Execute(ctx context.Context, cmd *cobra.Command, args []string) int {
	cmd.SetArgs(args)
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, p.Name+": "+err.Error())
		if _, ran := errors.AsType[*runError](err); ran {
			return ExitFailed
		}
		return ExitUsage
	}
	return ExitOK
}

// runError is an error of a program that was running.
type runError struct{ err error }

func (e *runError) Error() string { return e.err.Error() }

// Unwrap makes errors.Is and errors.As see the cause.
func (e *runError) Unwrap() error { return e.err }

// Runner works until its context ends.
type Runner interface {
	Run(ctx context.Context) error
}

// Serve makes what the program is about and runs it until ctx ends. The log is
// written until everything else has ended.
func (p *Program) Serve(ctx context.Context, start func(Deps) (Runner, error)) error {
	json, err := telemetry.ParseLogFormat(p.logFormat)
	if err != nil {
		return fmt.Errorf("--log-format: %w", err)
	}
	queue := telemetry.NewLogQueue(os.Stderr, 0)
	log, err := telemetry.NewLogger(telemetry.LogConfig{JSON: json, Spec: p.logLevel}, queue)
	if err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	metrics, err := telemetry.NewRegistry(p.Name, p.Version)
	if err != nil {
		return err
	}
	limitMemory(os.DirFS("/"), os.Environ(), log.Zap())
	runner, err := start(Deps{Log: log.Zap(), Metrics: metrics})
	if err != nil {
		return err
	}

	var lines lifecycle.Group
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	lines.Go(writing, "log", func(ctx context.Context) { err = queue.Run(ctx) })
	failed := runner.Run(ctx)
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

// limitMemory tells the garbage collector what the cgroup allows.
func limitMemory(root fs.FS, environ []string, log *zap.Logger) {
	limit, err := footprint.LimitMemory(root, environ)
	switch {
	case err != nil:
		log.Warn("memory limit of the cgroup cannot be read", zap.Error(err))
	case limit > 0:
		log.Info("memory limit", zap.Int64("bytes", limit))
	}
}
