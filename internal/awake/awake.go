// Package awake keeps the runtime's monitor thread from deep sleep, which a proxy
// at a low rate would meet at every packet.
package awake

import (
	"os"
	"strings"
	"syscall"
)

// setting keeps the runtime's monitor thread (sysmon) from deep sleep.
//
// When all processors of the Go scheduler are idle, the monitor sleeps until
// the next wake-up, then polls every 20 us for a millisecond. A proxy at a low
// rate meets that at every packet: it costs it three context switches a request
// and about a fifth of its latency. The monitor does not sleep deeply while
// schedtrace is on (runtime/proc.go, sysmon); with this interval it would print
// one line in 23 days. The price is 0.35 % of a core when nothing happens.
const setting = "schedtrace=2000000000"

// Keep starts the process again with GODEBUG set, because the runtime reads that
// only once, before main. It returns when nothing is to do, or with why it could
// not be done. A process calls it before it does anything else.
func Keep(on bool, args, environ []string) error {
	env, change := environment(on, environ)
	if !change {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(self, args, env)
}

// environment returns environ with the setting, and whether that differs from
// environ. A schedtrace that somebody has set is left alone.
func environment(on bool, environ []string) (env []string, change bool) {
	const name = "GODEBUG="
	if !on {
		return environ, false
	}
	value := ""
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, name); ok {
			value = v
			continue
		}
		env = append(env, kv)
	}
	if strings.Contains(value, "schedtrace=") {
		return environ, false
	}
	if value != "" {
		value += ","
	}
	return append(env, name+value+setting), true
}
