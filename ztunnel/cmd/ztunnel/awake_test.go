package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv("AWAKE_TEST_CHILD"); mode != "" {
		idleChild(mode == "on")
		return
	}
	goleak.VerifyTestMain(m)
}

// idleChild is the process that the test looks at: it does what main does first,
// is idle for half a second, and says how often its threads woke up meanwhile.
func idleChild(on bool) {
	if err := keepMonitorAwake(on, os.Args, os.Environ()); err != nil {
		fmt.Println("error:", err)
		return
	}
	before := wakeUps()
	<-time.After(500 * time.Millisecond)
	fmt.Println(wakeUps()-before, os.Getenv("GODEBUG"), os.Args[1:])
}

// wakeUps counts how often the threads of this process have gone to sleep.
func wakeUps() (total int) {
	files, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return 0
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		_, rest, _ := strings.Cut(string(text), "\nvoluntary_ctxt_switches:")
		line, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.Atoi(strings.TrimSpace(line))
		if err == nil {
			total += n
		}
	}
	return total
}

// The setting is in force in the process that goes on, not only in its
// environment: a monitor that does not sleep wakes up every 10 ms, a sleeping
// one hardly ever.
func TestMonitorStaysAwake(t *testing.T) {
	tests := []struct {
		name    string
		mode    string
		godebug string // what is set before
		want    string // GODEBUG of the process that goes on
		awake   bool
	}{
		{"switched on", "on", "", "schedtrace=2000000000", true},
		{"what GODEBUG says stays", "on", "madvdontneed=1", "madvdontneed=1,schedtrace=2000000000", true},
		{"switched off", "off", "", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "one", "two words")
			cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "GODEBUG=") }),
				"AWAKE_TEST_CHILD="+tt.mode)
			if tt.godebug != "" {
				cmd.Env = append(cmd.Env, "GODEBUG="+tt.godebug)
			}
			var out bytes.Buffer
			cmd.Stdout = &out
			if err := cmd.Run(); err != nil {
				t.Fatal(err)
			}
			var n int
			if _, err := fmt.Sscan(out.String(), &n); err != nil {
				t.Fatalf("the child says %q: %v", out.String(), err)
			}
			if rest := strings.TrimSpace(out.String()); rest != fmt.Sprintf("%d %s [one two words]", n, tt.want) {
				t.Errorf("the child says %q, want GODEBUG %q and its arguments", rest, tt.want)
			}
			if tt.awake && n < 25 || !tt.awake && n > 20 {
				t.Errorf("%d wake-ups in half a second of idling, awake should be %v (awake: about 50, asleep: a few)", n, tt.awake)
			}
		})
	}
}

func TestAwakeEnvLeavesATraceAlone(t *testing.T) {
	env := []string{"A=1", "GODEBUG=schedtrace=1000"}
	if got, change := awakeEnv(true, env); change || !slices.Equal(got, env) {
		t.Errorf("awakeEnv = %q, %v, want what somebody has set", got, change)
	}
}
