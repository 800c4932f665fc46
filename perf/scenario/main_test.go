package scenario

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/perf/load"
	"github.com/ambit-mesh/ambit/perf/peer"
)

// TestMain lets the test binary be what runs in pods and on nodes too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "pod" || os.Args[1] == "wireguard") {
		os.Exit(play(os.Args[1], os.Args[2:]))
	}
	goleak.VerifyTestMain(m)
}

// play is the programs of a pod, or WireGuard on a node.
func play(what string, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	value := func(flag string) string { return args[slices.Index(args, flag)+1] }
	var err error
	if what == "pod" {
		err = load.Run(ctx, load.Config{Control: value("--control"), TunePorts: true})
	} else {
		err = peer.RunWireGuard(ctx, value("--interface"), os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
