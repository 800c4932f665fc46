package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/program"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	sockets := []string{"--socket", filepath.Join(dir, "r", "p.sock"), "--zds-socket", filepath.Join(dir, "z", "z.sock"), "--status-addr", ""}
	for _, tt := range []struct {
		name string
		args []string
		want int
	}{
		{"help", []string{"--help"}, program.ExitOK},
		{"version", []string{"--version"}, program.ExitOK},
		{"nothing said", nil, program.ExitUsage},
		{"unknown flag", []string{"--config-dir", dir, "--no-such-flag"}, program.ExitUsage},
		{"an argument too many", []string{"--config-dir", dir, "extra"}, program.ExitUsage},
		{"probe address of the wrong family", []string{"--config-dir", dir, "--probe-mode", "snat", "--probe-v4", "::1"}, program.ExitUsage},
		{"probe address that is none", []string{"--config-dir", dir, "--probe-mode", "snat", "--probe-v6", "x"}, program.ExitUsage},
		{"unknown probe mode", []string{"--config-dir", dir, "--probe-mode", "guess"}, program.ExitUsage},
		{"a directory and a cluster", []string{"--config-dir", dir, "--kube"}, program.ExitUsage},
		{"a cluster that is not there", []string{"--kube", "--node", "n"}, program.ExitUsage},
		{"a cluster and no node", []string{"--kubeconfig", filepath.Join(dir, "missing"), "--node", ""}, program.ExitUsage},
		{"unknown way to install", []string{"--config-dir", dir, "--install-conf-dir", dir, "--conf-mode", "loud"}, program.ExitUsage},
		{"unknown DNS capture", []string{"--config-dir", dir, "--dns-capture", "maybe"}, program.ExitUsage},
		{"unknown log level", []string{"--config-dir", dir, "--log-level", "loud"}, program.ExitUsage},
		{"unknown log format", []string{"--config-dir", dir, "--log-format", "xml"}, program.ExitUsage},
		{"negative time", []string{"--config-dir", dir, "--repair-every", "-1s"}, program.ExitUsage},
		{"manifests that are not there", append(sockets, "--config-dir", filepath.Join(dir, "missing")), program.ExitFailed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFlags()
			if got := f.Execute(t.Context(), f.command(), tt.args); got != tt.want {
				t.Errorf("exit code %d, want %d", got, tt.want)
			}
		})
	}
}

func TestRunsUntilItIsAskedToStop(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "r", "p.sock")
	manifests := filepath.Join(dir, "m")
	if err := os.Mkdir(manifests, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	code := make(chan int, 1)
	var g lifecycle.Group
	defer g.Wait()
	g.Go(ctx, "run", func(ctx context.Context) {
		f := newFlags()
		code <- f.Execute(ctx, f.command(), []string{"--config-dir", manifests, "--socket", socket, "--zds-socket", filepath.Join(dir, "z", "z.sock"), "--status-addr", "", "--log-level", "error"})
	})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); ; <-tick.C {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("its socket does not appear")
		}
	}
	cancel()
	if got := <-code; got != program.ExitOK {
		t.Errorf("exit code %d, want %d", got, program.ExitOK)
	}
}
