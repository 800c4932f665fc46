package lab

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
	"github.com/ambit-mesh/ambit/internal/lab/labtest"
)

// TestMain lets the test binary be the programs of a pod too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "lab-app" {
		os.Exit(runApp(os.Args[2:]))
	}
	goleak.VerifyTestMain(m)
}

// runApp understands the arguments that a lab gives: --pod NAME --control PATH.
func runApp(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := labapp.Run(ctx, labapp.Config{Pod: args[1], Control: args[3]}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// mustBuildCNI builds the reference plugins into a directory of the test.
func mustBuildCNI(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := labtest.Build(t.Context(), dir, labtest.Bridge, labtest.HostLocal); err != nil {
		t.Fatal(err)
	}
	return dir
}

// mustBeRoot fails without root where CI is set, and skips elsewhere.
func mustBeRoot(t *testing.T) {
	t.Helper()
	err := Preflight()
	if err != nil && os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip(err)
	}
}
