package load

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// Operations of prctl. Source: prctl(2).
const (
	prSetTimerSlack = 29
	prGetTimerSlack = 30
)

// sharpTimers lets the sleeps of this thread end on time: the kernel otherwise
// adds up to 50 us to be able to wake several at once. The caller has locked
// its thread.
func sharpTimers() (restore func(), err error) {
	before, _, errno := syscall.Syscall(syscall.SYS_PRCTL, prGetTimerSlack, 0, 0)
	if errno != 0 {
		return nil, fmt.Errorf("prctl: %w", errno)
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_PRCTL, prSetTimerSlack, 1, 0); errno != 0 {
		return nil, fmt.Errorf("prctl: %w", errno)
	}
	return func() { _, _, _ = syscall.Syscall(syscall.SYS_PRCTL, prSetTimerSlack, before, 0) }, nil
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
