// Command ztunnel is the node proxy of the mesh: it carries the connections of
// this node's pods through HBONE, proves who they are and asks who may talk.
//
// It is set up by the environment variables of an ambient installation, or by
// flags of the same names; see --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/awake"
	"github.com/ambit-mesh/ambit/internal/buildinfo"
	"github.com/ambit-mesh/ambit/internal/footprint"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/ztunnel"
)

// version is set by the build.
var version = "dev"

func main() { os.Exit(run(os.Args[1:])) }

// Exit statuses. Source: sysexits.h for the second.
const (
	exitFailed = 1
	exitUsage  = 64
)

// run is the whole process; it returns the exit status.
func run(args []string) int {
	w := osWorld(os.Environ(), runtime.NumCPU(), runtime.GOMAXPROCS(0))
	switch err := parseFlags(args, w.env); {
	case errors.Is(err, errHelp):
		fmt.Println("ztunnel carries the connections of this node's pods through the mesh.")
		fmt.Println()
		printSettings(os.Stdout)
		return 0
	case errors.Is(err, errVersion):
		fmt.Println(buildinfo.Line("ztunnel", version))
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "ztunnel:", err)
		return exitUsage
	}
	cfg, opt, err := load(w)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ztunnel: settings:", err)
		return exitUsage
	}
	if err := awake.Keep(opt.awake, os.Args, os.Environ()); err != nil {
		fmt.Fprintln(os.Stderr, "ztunnel: start again with the monitor thread awake:", err)
	}
	cfg.Version = buildinfo.Version(version)
	// Lines are written behind the connections' backs: whoever reads them may be
	// slow.
	queue := telemetry.NewLogQueue(os.Stdout, 0)
	log, err := telemetry.NewLogger(telemetry.LogConfig{JSON: opt.logJSON, Spec: opt.logLevel}, queue)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ztunnel: RUST_LOG:", err)
		return exitUsage
	}
	var writer lifecycle.Group
	writing, stopWriting := context.WithCancel(context.Background())
	writer.Go(writing, "log", func(writing context.Context) {
		if err := queue.Run(writing); err != nil {
			fmt.Fprintln(os.Stderr, "ztunnel: log:", err)
		}
	})
	var tidying lifecycle.Group
	tidy, stopTidying := context.WithCancel(context.Background())
	tidying.Go(tidy, "give-back", footprint.GiveBack)
	runtime.GOMAXPROCS(opt.threads)
	if opt.pace {
		tidying.Go(tidy, "processors", func(tidy context.Context) { footprint.PaceProcessors(tidy, opt.threads) })
	}
	err = serve(cfg, opt, log)
	stopTidying()
	tidying.Wait()
	stopWriting()
	writer.Wait()
	if n := queue.Dropped(); n > 0 {
		log.Zap().Warn("log lines were dropped because their reader was too slow", zap.Uint64("lines", n))
	}
	if err != nil {
		log.Zap().Error("ztunnel has ended", zap.Error(err))
		return exitFailed
	}
	return 0
}

// serve runs the proxy until somebody asks it to end.
func serve(cfg ztunnel.Config, opt options, log *telemetry.Logger) error {
	if limit, err := footprint.LimitMemory(os.DirFS("/"), os.Environ()); err != nil {
		log.Zap().Warn("memory limit of the cgroup cannot be read", zap.Error(err))
	} else if limit > 0 {
		log.Zap().Info("memory limit", zap.Int64("bytes", limit))
	}
	footprint.PaceCollector(os.Environ())
	for _, text := range opt.warnings {
		log.Zap().Warn("setting without effect", zap.String("setting", text))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	z, err := ztunnel.New(cfg, ztunnel.Deps{Log: log, Environ: os.Environ()})
	if err != nil {
		return err
	}
	return z.Run(ctx)
}
