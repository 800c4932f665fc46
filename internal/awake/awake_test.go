package awake

import (
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
		idleChild(mode == "on", os.Getenv("AWAKE_TEST_FOR"))
		return
	}
	goleak.VerifyTestMain(m)
}

// idleChild is the process that the test looks at: it does what main does first,
// is idle for so long, and says how often its threads woke up meanwhile.
func idleChild(on bool, idle string) {
	if err := Keep(on, os.Args, os.Environ()); err != nil {
		fmt.Println("error:", err)
		return
	}
	d, err := time.ParseDuration(idle)
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	before := wakeUps()
	<-time.After(d)
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

// idle runs a child that is idle for d, and returns how often it woke up and the
// rest of what it says.
func idle(t *testing.T, mode, godebug string, d time.Duration) (wakeUps int, said string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "one", "two words")
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "GODEBUG=") }),
		"AWAKE_TEST_CHILD="+mode, "AWAKE_TEST_FOR="+d.String())
	if godebug != "" {
		cmd.Env = append(cmd.Env, "GODEBUG="+godebug)
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	number, said, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if wakeUps, err = strconv.Atoi(number); err != nil {
		t.Fatalf("the child says %q: %v", out, err)
	}
	return wakeUps, said
}

// The process starts itself again with its arguments and the setting, beside what
// GODEBUG says already.
func TestKeep(t *testing.T) {
	tests := []struct {
		name    string
		mode    string
		godebug string // what is set before
		want    string // GODEBUG of the process that goes on
	}{
		{"switched on", "on", "", "schedtrace=2000000000"},
		{"what GODEBUG says stays", "on", "madvdontneed=1", "madvdontneed=1,schedtrace=2000000000"},
		{"switched off", "off", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, said := idle(t, tt.mode, tt.godebug, time.Millisecond); said != tt.want+" [one two words]" {
				t.Errorf("the child says %q, want GODEBUG %q and its arguments", said, tt.want)
			}
		})
	}
}

// The setting is in force, not only in the environment: a monitor that does not
// sleep wakes up again and again, a sleeping one a few times and never again. So
// however loaded the machine is, the one overtakes the other if only both are
// idle for long enough; without the setting they never differ.
func TestMonitorStaysAwake(t *testing.T) {
	const longest = 16 * time.Second
	for d := 500 * time.Millisecond; ; d *= 2 {
		asleep, _ := idle(t, "off", "", d)
		awake, _ := idle(t, "on", "", d)
		if awake > 3*asleep+50 {
			return
		}
		t.Logf("idle for %v: %d wake-ups with the setting, %d without", d, awake, asleep)
		if d >= longest {
			t.Fatal("the setting makes no difference")
		}
	}
}

func TestEnvironment(t *testing.T) {
	tests := []struct {
		name    string
		on      bool
		environ []string
		want    string // of GODEBUG; empty: nothing is changed
	}{
		{name: "off"},
		{name: "nothing set", on: true, want: setting},
		{name: "other settings stay", on: true, environ: []string{"GODEBUG=fips140=on", "A=b"}, want: "fips140=on," + setting},
		{name: "it is in force", on: true, environ: []string{"GODEBUG=" + setting}},
		{name: "a schedtrace of somebody's own stays", on: true, environ: []string{"GODEBUG=schedtrace=1000"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env, change := environment(tt.on, tt.environ)
			got := ""
			for _, kv := range env {
				if v, ok := strings.CutPrefix(kv, "GODEBUG="); ok && change {
					got = v
				}
			}
			if got != tt.want || change != (tt.want != "") {
				t.Errorf("GODEBUG = %q (change %v), want %q", got, change, tt.want)
			}
		})
	}
}
