package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/program"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	tokens := filepath.Join(dir, "tokens")
	if err := os.WriteFile(tokens, []byte("0123456789abcdef node-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	good := []string{"--config-dir", dir, "--ca-dir", filepath.Join(dir, "ca"), "--node-tokens", tokens, "--status-addr", "127.0.0.1:0", "--log-level", "error"}
	tests := []struct {
		name string
		args []string
		want int
	}{
		{"asked to stop", append([]string{"--listen", "127.0.0.1:0"}, good...), program.ExitOK},
		{"help", []string{"--help"}, program.ExitOK},
		{"version", []string{"--version"}, program.ExitOK},
		{"no flags", nil, program.ExitUsage},
		{"a directory and a cluster", append([]string{"--kube"}, good...), program.ExitUsage},
		{"a cluster that is nowhere", []string{"--kubeconfig", dir + "/none", "--namespace", "x"}, program.ExitUsage},
		{"a selector that is none", []string{"--kube", "--namespace", "x", "--agent-selector", "a"}, program.ExitUsage},
		{"unknown flag", []string{"--nope"}, program.ExitUsage},
		{"an argument", append([]string{"more"}, good...), program.ExitUsage},
		{"a directory that is not there", append(good[2:len(good):len(good)], "--config-dir", dir+"/none"), program.ExitUsage},
		{"a log level that is none", append(good[:len(good):len(good)], "--log-level", "loud"), program.ExitUsage},
		{"a log format that is none", append(good[:len(good):len(good)], "--log-format", "xml"), program.ExitUsage},
		{"a port that is taken", append([]string{"--listen", busy.Addr().String()}, good...), program.ExitFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			if tt.name == "asked to stop" {
				cancel()
			}
			defer cancel()
			f := newFlags()
			if got := f.Execute(ctx, f.command(), tt.args); got != tt.want {
				t.Errorf("exit code %d, want %d", got, tt.want)
			}
		})
	}
}
