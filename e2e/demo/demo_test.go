package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lab/demo"
	"github.com/ambit-mesh/ambit/internal/lab/labtest"
)

// labName is the name of the labs of this run, apart from that of a person who
// looks at a demo meanwhile and from those of other runs of the test.
var labName = "e2e" + strconv.Itoa(os.Getpid())

var (
	binDir  string // where the programs are, once they are built
	built   sync.Once
	raceLog string // where the race detector of the programs writes
)

func TestMain(m *testing.M) {
	os.Exit(withPrograms(m))
}

// withPrograms runs the tests with a directory for the programs.
func withPrograms(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ambit-e2e-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binDir, raceLog = filepath.Join(dir, "bin"), filepath.Join(dir, "race")
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		println(err.Error())
		code = 1
	}
	return code
}

// patience is how long a demo may take to show signs of life on a machine that
// builds and tests other things meanwhile.
const patience = 2 * time.Minute

// programs builds the programs, once for all tests, and says where they are.
func programs(t *testing.T) (dir string) {
	t.Helper()
	built.Do(func() {
		if err := labtest.Build(t.Context(), binDir, labtest.Ambit, labtest.Ztunnel, labtest.Waypoint, labtest.IstiodLite,
			labtest.Plugin, labtest.Agent, labtest.Bridge, labtest.HostLocal); err != nil {
			t.Fatal(err)
		}
	})
	return binDir
}

// ambit makes a command that ends with the test.
func ambit(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if err := lab.Preflight(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, filepath.Join(programs(t), "ambit"), append(args, "--name", labName)...)
	// The plugins are called several times per pod: without the race detector's second
	// of waiting at each end.
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0 log_path="+raceLog)
	return cmd
}

// run runs a command to its end.
func run(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, &errs)
	} else if ok {
		code = exit.ExitCode()
	}
	return out.String(), errs.String(), code
}

// wantNothingLeft looks for what a demo makes, without its state file, and for
// reports of the race detector.
func wantNothingLeft(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir("/run/netns")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), labName+"-") {
			t.Errorf("namespace %s is left", e.Name())
		}
	}
	if _, err := os.Stat(lab.DefaultDir(labName)); err == nil {
		t.Errorf("%s is left", lab.DefaultDir(labName))
	}
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range environs {
		if env, err := os.ReadFile(path); err == nil && bytes.Contains(env, []byte("="+lab.DefaultDir(labName)+"\x00")) {
			t.Errorf("process %s is left", path)
		}
	}
	reports, err := filepath.Glob(raceLog + ".*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range reports {
		text, err := os.ReadFile(path)
		t.Errorf("race detector: %v\n%s", err, text)
	}
}

// results reads what --json writes.
func results(t *testing.T, stdout string) (all []demo.Result) {
	t.Helper()
	var got struct{ Results []demo.Result }
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatalf("%v in\n%s", err, stdout)
	}
	return got.Results
}

func TestEveryLineIsGreen(t *testing.T) {
	start := time.Now()
	stdout, stderr, code := run(t, ambit(t, "demo", "--json"))
	if stdout == "" {
		t.Fatalf("the demo did not run, exit code %d\n%s", code, stderr)
	}
	for _, r := range results(t, stdout) {
		if !r.Passed {
			t.Errorf("%s: %s", r.Line, r.Error)
		}
	}
	if n := len(results(t, stdout)); n != len(demo.Lines()) || code != 0 {
		t.Errorf("%d of %d lines ran, exit code %d\n%s", n, len(demo.Lines()), code, stderr)
	}
	// With the race detector and other tests beside it nothing takes its usual time.
	if took := time.Since(start); took > time.Minute && !labtest.Race {
		t.Errorf("the demo took %v, want less than a minute", took)
	}
	wantNothingLeft(t)
}

// shell is how hints look in the output of --keep: a comment, then a command.
var shell = regexp.MustCompile(`(?m)^  # (.*)\n  (.*)$`)

// One demo is killed while its mesh stands; the next one removes what that left,
// shows a red line, and stays; what it says about looking around works; clean
// removes it.
func TestCrashThenKeepThenClean(t *testing.T) {
	crashed := ambit(t, "demo")
	progress := &standing{mark: "the mesh stands", seen: make(chan struct{})}
	crashed.Stderr = progress
	if err := crashed.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-progress.seen:
	case <-time.After(patience):
		t.Error("no mesh after two minutes")
	}
	if err := crashed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := crashed.Wait(); err == nil {
		t.Error("the killed demo ended well")
	}

	stdout, stderr, code := run(t, ambit(t, "demo", "--keep", "--break=fin-lost"))
	if code != 1 || !strings.Contains(stdout, "FAIL") || !strings.HasSuffix(stdout, "0 passed, 1 failed\n") {
		t.Fatalf("exit code %d, want 1 and one red line\n%s\n%s", code, stdout, stderr)
	}
	if !strings.Contains(stderr, "removing what an earlier run has left") {
		t.Errorf("nothing said about the crashed demo:\n%s", stderr)
	}
	hints := shell.FindAllStringSubmatch(stdout, -1)
	if len(hints) < 5 {
		t.Fatalf("%d hints in\n%s", len(hints), stdout)
	}
	for _, h := range hints[:len(hints)-1] { // the last one is clean
		out, errs, code := run(t, exec.CommandContext(t.Context(), "sh", "-c", h[2]))
		if code != 0 || out == "" {
			t.Errorf("%s: `%s`: exit code %d\n%s", h[1], h[2], code, errs)
		}
	}
	if out, errs, code := run(t, ambit(t, "why", "shop/web", "books/api-2")); code != 0 || !strings.Contains(out, "where it arrives (node-2, inbound)") {
		t.Errorf("why: exit code %d\n%s\n%s", code, out, errs)
	}
	if out, errs, code := run(t, ambit(t, "demo", "clean")); code != 0 || !strings.HasPrefix(out, "removed ") {
		t.Errorf("clean: exit code %d, %q\n%s", code, out, errs)
	}
	wantNothingLeft(t)
}

func TestInterrupt(t *testing.T) {
	cmd := ambit(t, "demo")
	progress := &standing{mark: "pod ", seen: make(chan struct{})}
	cmd.Stderr = progress
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-progress.seen:
	case <-time.After(patience):
		t.Error("no pod after two minutes")
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("interrupted demo: %v, want exit code 130", err)
	}
	wantNothingLeft(t)
}

// standing watches the progress of a demo for a mark.
type standing struct {
	mark string
	seen chan struct{} // closed when the mark has come

	text []byte
	done bool
}

func (s *standing) Write(p []byte) (int, error) {
	s.text = append(s.text, p...)
	if !s.done && bytes.Contains(s.text, []byte(s.mark)) {
		s.done = true
		close(s.seen)
	}
	return len(p), nil
}
