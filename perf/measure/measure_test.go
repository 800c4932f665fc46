package measure

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What we know about ourselves from the kernel's other door is what /proc says.
func TestTakeAgreesWithRusage(t *testing.T) {
	self := []Process{{Name: "self", PID: os.Getpid()}}
	before, err := Take(self)
	if err != nil {
		t.Fatal(err)
	}
	started := rusage(t)
	for cpuOf(rusage(t))-cpuOf(started) < 300*time.Millisecond {
		runtime.Gosched()
	}
	usage, after := cpuOf(rusage(t))-cpuOf(started), Sample{}
	if after, err = Take(self); err != nil {
		t.Fatal(err)
	}
	u := Between(before, after)
	if got := u.Of("self").CPU; got < usage-50*time.Millisecond || got > usage+200*time.Millisecond {
		t.Errorf("CPU = %v, getrusage says %v", got, usage)
	}
	if got := u.Of("self").Running; got < usage-50*time.Millisecond || got > usage+200*time.Millisecond {
		t.Errorf("running = %v, getrusage says %v", got, usage)
	}
	if u.Busy < usage-50*time.Millisecond || u.Busy > u.Capacity {
		t.Errorf("machine busy for %v of %v while we took %v", u.Busy, u.Capacity, usage)
	}
	if got := u.Of("self").Resident; got < 1<<20 {
		t.Errorf("resident = %d bytes", got)
	}
	if after.Processes["self"].Switches == 0 {
		t.Error("a process of several threads without a context switch")
	}
}

func rusage(t *testing.T) syscall.Rusage {
	t.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func cpuOf(r syscall.Rusage) time.Duration { return time.Duration(r.Utime.Nano() + r.Stime.Nano()) }

func TestTakeOfAProcessThatHasEnded(t *testing.T) {
	if _, err := Take([]Process{{Name: "gone", PID: 1 << 30}}); err == nil {
		t.Error("a process that is not there was counted")
	}
}

func TestReadStatWithAnyName(t *testing.T) {
	raw := []byte("7 (a) b) R 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 17 18 19 20 2 22 23")
	var c Counts
	if err := c.readStat(raw); err != nil {
		t.Fatal(err)
	}
	if c.CPU != 2*time.Second || c.Resident != 2*int64(os.Getpagesize()) {
		t.Errorf("CPU = %v, resident = %d; want 2 s and two pages", c.CPU, c.Resident)
	}
}

func TestOthers(t *testing.T) {
	u := Usage{
		Processes: map[string]Counts{"a": {CPU: time.Second}, "b": {CPU: 500 * time.Millisecond}},
		Busy:      1700 * time.Millisecond, Capacity: 2 * time.Second,
	}
	if got := u.Others(); got < 0.099 || got > 0.101 {
		t.Errorf("others = %v, want 0.1", got)
	}
}

// Whatever stands in the file: an error or counts that are not negative.
func FuzzReadStat(f *testing.F) {
	f.Add([]byte("7 (a) b) R 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 17 18 19 20 2 22 23"))
	f.Add([]byte(")"))
	f.Add(bytes.Repeat([]byte("9 "), 40))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var c Counts
		if err := c.readStat(raw); err == nil && bytes.IndexByte(raw, ')') < 0 {
			t.Errorf("%q was read", raw)
		}
	})
}

func TestChildren(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); cmd.Wait() }()
	got, err := Children(os.Getpid())
	if err != nil || !slices.Contains(got, cmd.Process.Pid) {
		t.Errorf("children = %v, %v; want %d among them", got, err, cmd.Process.Pid)
	}
	if _, err := Children(-1); err == nil {
		t.Error("children of a process that is none")
	}
}
