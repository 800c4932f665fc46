package footprint

import (
	"bufio"
	"context"
	"io"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

const (
	// givebackLook is the time between two looks at whether the process is idle:
	// what load has left behind goes soon after it.
	givebackLook = 500 * time.Millisecond
	// givebackMost is how many looks an idle process goes without giving back again,
	// since what little it does brings pages back: half a minute.
	givebackMost = 60
	// idleShare: who has used less than this part of a core since the last look
	// is idle, and will not miss the microseconds that fetching pages costs.
	idleShare = 0.02
	// heapSpare is how much of the heap must be worth having before it is
	// collected for it, in bytes, and spareShare the part of what is in use.
	heapSpare  = 2 << 20
	spareShare = 0.25
	// settled is after how many looks at an idle process it is collected in any case,
	// once, ten seconds: what lived at the last collection may have died with the load.
	settled = 20
)

// GiveBack returns memory to the kernel when the process has become idle, until
// ctx ends: free pages of the heap, and the pages of the program's own file that
// were needed to start, or for load that has gone. The latter stay in the page
// cache, so that what is needed again costs a minor fault; but they no longer
// count as this process' memory, and the kernel may take them when it is short.
// Measured: perf/README.md, memory.
func GiveBack(ctx context.Context) {
	program := programPages()
	var h heap
	var c calm
	for used := cpuTime(); lifecycle.Sleep(ctx, givebackLook) == nil; {
		before := used
		used = cpuTime()
		give, anyway := c.look(float64(used-before) > idleShare*float64(givebackLook))
		if !give {
			continue
		}
		if h.read(); anyway || h.worthFreeing() {
			debug.FreeOSMemory()
		}
		if anyway {
			debug.FreeOSMemory() // what pools hold goes at the second time
		}
		for _, r := range program {
			r.giveBack()
		}
		used = cpuTime() // what this took is not load
	}
}

// calm is how long the process has been idle, in looks. Its zero value has seen load
// just now.
type calm struct {
	quiet int  // since the last load
	next  int  // at which to give back
	clean bool // collected since it settled
}

// look decides after one more look whether to give back, and whether to collect in any
// case.
func (c *calm) look(busy bool) (give, anyway bool) {
	if busy {
		*c = calm{}
		return false, false
	}
	if c.quiet++; c.quiet < c.next {
		return false, false
	}
	c.next = min(2*c.quiet, c.quiet+givebackMost) // load seldom ends at once
	anyway = c.quiet >= settled && !c.clean
	c.clean = c.clean || anyway
	return true, anyway
}

// heap is what the runtime says about the heap, in bytes.
type heap struct {
	live    uint64 // at the last collection
	objects uint64 // live now, or garbage
	free    uint64 // neither, and not given back
	samples []metrics.Sample
}

// read asks the runtime.
func (h *heap) read() {
	if h.samples == nil {
		h.samples = []metrics.Sample{
			{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
		}
	}
	metrics.Read(h.samples)
	for i, v := range []*uint64{&h.live, &h.objects, &h.free} {
		if h.samples[i].Value.Kind() == metrics.KindUint64 {
			*v = h.samples[i].Value.Uint64()
		}
	}
}

// worthFreeing reports whether a collection is likely to give enough back.
func (h *heap) worthFreeing() bool {
	spare := h.free + h.objects - min(h.live, h.objects)
	return spare > heapSpare && float64(spare) > spareShare*float64(h.live)
}

// cpuTime is what the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// pages is a range of addresses.
type pages struct{ start, end uintptr }

// giveBack drops the pages from the process. They must be those of a file, and
// unchanged: they come back from there.
func (p pages) giveBack() {
	// An error means only that they stay.
	_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, p.start, p.end-p.start, syscall.MADV_DONTNEED)
}

// programPages are the mappings of the program's file that nobody can have
// changed; none where that cannot be known.
func programPages() []pages {
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return nil
	}
	defer f.Close()
	return parsePages(f, self)
}

// parsePages finds the mappings of file in the text of smaps that are read-only
// and hold no page that differs from the file: a loader may have written to what
// is read-only now. Source: proc_pid_smaps(5).
func parsePages(smaps io.Reader, file string) []pages {
	var all []pages
	var p pages
	ours := false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) < 2:
		case strings.HasSuffix(f[0], ":"):
			if ours && f[0] == "Anonymous:" && f[1] == "0" {
				all = append(all, p)
			}
		default:
			p, ours = parseMapping(f)
			ours = ours && len(f) == 6 && f[5] == file && f[1][1] == '-'
		}
	}
	return all
}

// parseMapping reads the range and checks the permissions of a line of maps.
func parseMapping(f []string) (pages, bool) {
	from, to, ok := strings.Cut(f[0], "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if !ok || err1 != nil || err2 != nil || end < start || len(f[1]) != 4 {
		return pages{}, false
	}
	return pages{uintptr(start), uintptr(end)}, true
}
