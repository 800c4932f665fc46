package hbone

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// slowAttacks are those that BenchmarkVictim adds to attacks: they are not
// ended at once.
var slowAttacks = []attack{
	{name: "silent TCP"},
	{name: "half handshakes"},
	{name: "100 slow readers"},
}

const (
	// phaseTime is how long the victim is looked at beside each neighbour.
	phaseTime = 500 * time.Millisecond
	// victimPace is the time between two round trips of the victim.
	victimPace = 500 * time.Microsecond
	// slowBurst is how long slowAttacks compute at a time.
	slowBurst = 15 * time.Millisecond
	// openEvery is how many round trips there are for each stream opened.
	openEvery = 4
)

// BenchmarkVictim measures what an honest peer notices while another process
// attacks the same server as fast as it can, reconnecting whenever it is sent
// away. Two cores are shared by three processes, so a neighbour that is merely
// busy slows the victim too; therefore the neighbours take turns:
//
//	calm    none
//	attack  the attacker
//	spin    a process that computes as much as the attacker did, in bursts as long
//	honest  a peer of the server that echoes, computing as much
//
// and for an attack that never gets beyond the kernel, too,
//
//	elsewhere  the attacker, connecting as much to a socket of its own
//
// and for readers that do not read, whose handshakes cost more than all they do later,
//
//	polite  as many connections, made as fast, that send as much and read what comes back
//
// What attack is over the slowest of these is due to what it does to
// the server. In "apart" the neighbour has a core for itself, and server and
// victim share the other.
//
// One operation is one turn of each; a p99 wants -benchtime 25x or more: the victim
// makes 400 to 500 round trips in a turn, and 100 of them should be beyond it.
func BenchmarkVictim(b *testing.B) {
	for _, apart := range []bool{false, true} {
		where := "together"
		if apart {
			where = "apart"
		}
		for _, tt := range slices.Concat(attacks, slowAttacks) {
			b.Run(where+"/"+strings.ReplaceAll(tt.name, " ", "_"), func(b *testing.B) { benchVictim(b, tt.name, apart) })
		}
	}
}

func benchVictim(b *testing.B, name string, apart bool) {
	certs := newCerts(b)
	server := startProxy(b, certs, "attacked", "-", "-")
	v := &victim{b: b, node: &node{t: b, certs: certs, addr: netip.MustParseAddrPort(server.addr), pool: NewPool(PoolConfig{}, nil)}}
	b.Cleanup(v.node.pool.Close)
	neighbourCore := -1
	if apart {
		neighbourCore = 1
		pin(b, server.cmd.Process.Pid, 0)
		pin(b, os.Getpid(), 0)
		b.Cleanup(func() { pin(b, os.Getpid(), -1) })
	}
	v.stream = v.node.open("10.0.0.2:80")
	v.look(phaseTime) // warm

	controls := []string{"spin", "honest"}
	switch name {
	case "silent TCP":
		controls = append(controls, "elsewhere")
	case "100 slow readers":
		controls = append(controls, "polite")
	}
	seen := map[string]*latencies{"calm": {}, "attack": {}}
	for _, what := range controls {
		seen[what] = &latencies{}
	}
	rss, grown, share := server.resident(b), 0.0, 0.0
	for turn := range b.N {
		seen["calm"].add(v.look(phaseTime))
		how := neighbourOrder{Addr: server.addr, What: "attack", Attack: name, Turn: turn, Core: neighbourCore}
		got, busy := v.beside(how)
		seen["attack"].add(got)
		share += busy / float64(b.N)
		grown = max(grown, server.resident(b)-rss)
		for _, what := range controls {
			how.What, how.Share = what, busy
			if slices.ContainsFunc(slowAttacks, func(a attack) bool { return a.name == name }) {
				how.Burst = slowBurst
			}
			got, _ := v.beside(how)
			seen[what].add(got)
		}
	}
	for _, what := range slices.Sorted(maps.Keys(seen)) {
		b.ReportMetric(percentile(seen[what].trips, 0.99), what+"-p99-us")
		b.ReportMetric(percentile(seen[what].opens, 0.99), what+"-open-p99-us")
	}
	control := 0.0
	for _, what := range controls {
		control = max(control, percentile(seen[what].trips, 0.99))
	}
	b.ReportMetric(percentile(seen["attack"].trips, 0.99)/control, "over-control")
	b.ReportMetric(share, "neighbour-cores")
	b.ReportMetric(grown/(1<<20), "MiB-grown")
	b.ReportMetric(float64(len(seen["attack"].trips)), "trips")
	b.ReportMetric(0, "ns/op")
}

// victim is an honest peer with one open stream.
type victim struct {
	b      *testing.B
	node   *node
	stream *Stream
}

// latencies are what a victim has seen.
type latencies struct{ trips, opens []time.Duration }

func (l *latencies) add(o latencies) {
	l.trips, l.opens = append(l.trips, o.trips...), append(l.opens, o.opens...)
}

// beside looks while a neighbour is at work, and says of how many cores it made
// use.
func (v *victim) beside(how neighbourOrder) (seen latencies, share float64) {
	n := startNeighbour(v.b, v.node.certs, how)
	defer n.stop()
	cpu, begun := n.cpu(), time.Now()
	seen = v.look(phaseTime)
	return seen, (n.cpu() - cpu).Seconds() / time.Since(begun).Seconds()
}

// look measures round trips and opens, paced, for d.
func (v *victim) look(d time.Duration) (seen latencies) {
	v.b.Helper()
	tick := time.NewTicker(victimPace)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		start := time.Now()
		wantEcho(v.b, v.stream)
		seen.trips = append(seen.trips, time.Since(start))
		if len(seen.trips)%openEvery == 0 {
			seen.opens = append(seen.opens, v.open())
		}
	}
	return seen
}

// open opens a stream on the victim's connection, closes it, and says how long
// the opening took.
func (v *victim) open() time.Duration {
	v.b.Helper()
	if !v.stream.c.acquire(100) {
		v.b.Fatal("the victim's connection is gone")
	}
	start := time.Now()
	s, err := v.stream.c.open(v.b.Context(), request(v.b, "10.0.0.2:80"), openTimes{time.Minute, time.Minute, new(sync.Pool)})
	took := time.Since(start)
	if err != nil {
		v.b.Fatal(err)
	}
	s.CloseWrite()
	s.Read(make([]byte, 1))
	s.Close()
	return took
}

// percentile is the p-quantile in microseconds.
func percentile(d []time.Duration, p float64) float64 {
	slices.Sort(d)
	return float64(d[int(p*float64(len(d)-1))].Microseconds())
}

// resident is the resident memory of the process, in bytes.
func (p *proxyProcess) resident(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(text))[1], 64)
	if err != nil {
		b.Fatal(err)
	}
	return pages * float64(os.Getpagesize())
}

// pin binds all threads of a process to a core; a negative one lets them go
// everywhere. Threads that are made later inherit it.
func pin(b *testing.B, pid, core int) {
	b.Helper()
	mask := ^uint64(0)
	if core >= 0 {
		if runtime.NumCPU() <= core {
			b.Fatalf("core %d of %d: want one more", core, runtime.NumCPU())
		}
		mask = 1 << core
	}
	for range 2 { // one that was made meanwhile by one not yet bound
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			b.Fatal(err)
		}
		for _, thread := range threads {
			id, _ := strconv.Atoi(thread.Name())
			_, _, errno := syscall.Syscall(syscall.SYS_SCHED_SETAFFINITY, uintptr(id), unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask)))
			if errno != 0 && errno != syscall.ESRCH {
				b.Fatal(errno)
			}
		}
	}
}
