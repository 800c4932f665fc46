package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("ZTUNNEL_TEST_MAIN") != "" {
		os.Exit(run(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// process is ztunnel as a process of its own, that nobody tells of anything.
func process(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), append([]string{
		"ZTUNNEL_TEST_MAIN=1", "NODE_NAME=n1", "XDS_ADDRESS=https://127.0.0.1:1", "CA_ADDRESS=https://127.0.0.1:1",
		"XDS_ROOT_CA=SYSTEM", "CA_ROOT_CA=SYSTEM", "INPOD_UDS=" + filepath.Join(t.TempDir(), "none.sock"),
		"ADMIN_ADDR=127.0.0.1:0", "STATS_ADDR=127.0.0.1:0", "READINESS_ADDR=127.0.0.1:0",
		"POD_NAME=", "POD_NAMESPACE=", "SERVICE_ACCOUNT=", "PROXY_MODE=",
	}, env...)...)
	cmd.Stderr = os.Stderr
	return cmd
}

// A port is taken: the process ends, and its last words, which name the address
// and what to do, are in the log.
func TestLastWords(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := process(t, "STATS_ADDR="+l.Addr().String()).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitFailed {
		t.Errorf("ended with %v, want status %d", err, exitFailed)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	last := lines[len(lines)-1]
	for _, word := range []string{"ztunnel has ended", l.Addr().String(), "address already in use", "STATS_ADDR"} {
		if !strings.Contains(last, word) {
			t.Errorf("the last line is %q, want it to say %q", last, word)
		}
	}
}

// SIGTERM ends the process politely, and every line of its log was written.
func TestTermination(t *testing.T) {
	cmd := process(t, "PROXY_CONFIG=concurrency: 1", "CRL_PATH=/crl")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	all := ""
	for !strings.Contains(all, "ztunnel runs") {
		line, err := lines.ReadString('\n')
		all += line
		if err != nil {
			t.Fatalf("%v after:\n%s", err, all)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v, want success", err)
	}
	all += string(rest)
	for _, word := range []string{"CRL_PATH=/crl has no effect", "ztunnel has ended its pods"} {
		if !strings.Contains(all, word) {
			t.Errorf("nothing about %q in the log:\n%s", word, all)
		}
	}
}
