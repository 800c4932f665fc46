package load

import (
	"errors"
	"fmt"
	"syscall"
	"time"
	"unsafe"
)

// prSetTimerSlack is an operation of prctl. Source: prctl(2).
const prSetTimerSlack = 29

// schedFIFO is the scheduling class of threads that run as soon as they can.
// Source: sched(7).
const schedFIFO = 1

// punctual makes the calling thread wake on time. The kernel otherwise adds up
// to 50 us to a sleep to be able to wake several at once, and lets a thread
// that wakes on a busy machine wait for its turn; but the client that it plays
// would stand on another machine. What it may not do it leaves: the lateness
// that is measured tells.
//
// The caller has locked its thread and ends without unlocking it, so that
// nothing else runs on it later.
func punctual() {
	_, _, _ = syscall.Syscall(syscall.SYS_PRCTL, prSetTimerSlack, 1, 0)
	param := struct{ priority int32 }{1}
	_, _, _ = syscall.Syscall(syscall.SYS_SCHED_SETSCHEDULER, 0, schedFIFO, uintptr(unsafe.Pointer(&param)))
}

// sleepUntil waits in the kernel, not in the runtime. It is for waits below a
// second: it does not look at a context.
func sleepUntil(at time.Time) error {
	for {
		left := time.Until(at)
		if left <= 0 {
			return nil
		}
		spec := syscall.NsecToTimespec(int64(left))
		if err := syscall.Nanosleep(&spec, nil); err != nil && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("nanosleep: %w", err)
		}
	}
}
