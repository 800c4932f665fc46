package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
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
		{"asked to stop", append([]string{"--listen", "127.0.0.1:0"}, good...), exitOK},
		{"help", []string{"--help"}, exitOK},
		{"version", []string{"--version"}, exitOK},
		{"no flags", nil, exitUsage},
		{"unknown flag", []string{"--nope"}, exitUsage},
		{"an argument", append([]string{"more"}, good...), exitUsage},
		{"a directory that is not there", append(good[2:len(good):len(good)], "--config-dir", dir+"/none"), exitUsage},
		{"a log level that is none", append(good[:len(good):len(good)], "--log-level", "loud"), exitUsage},
		{"a log format that is none", append(good[:len(good):len(good)], "--log-format", "xml"), exitUsage},
		{"a port that is taken", append([]string{"--listen", busy.Addr().String()}, good...), exitFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			if tt.name == "asked to stop" {
				cancel()
			}
			defer cancel()
			if got := run(ctx, tt.args); got != tt.want {
				t.Errorf("exit code %d, want %d", got, tt.want)
			}
		})
	}
}
