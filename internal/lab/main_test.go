package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
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
	const module = "github.com/containernetworking/plugins/plugins/"
	for _, pkg := range []string{"main/bridge", "ipam/host-local"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", filepath.Join(dir, filepath.Base(pkg)), module+pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // with the flags of make build: compiled once
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, out)
		}
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
