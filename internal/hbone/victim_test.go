package hbone

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// slowAttacks are those that BenchmarkVictim adds to attacks: they are not
// ended at once.
var slowAttacks = []attack{
	{name: "silent TCP"},
	{name: "half handshakes"},
	{name: "100 slow readers"},
}

// attackerEnv makes TestAttackerProcess attack: "address name".
const attackerEnv = "HBONE_ATTACK"

// BenchmarkVictim measures what an honest peer notices while another process
// attacks the same server as fast as it can, reconnecting whenever it is sent
// away: the victim's p99 of a round trip on an open stream and of opening one,
// before and during, and how much resident memory the server's process gains
// and keeps.
func BenchmarkVictim(b *testing.B) {
	for _, tt := range slices.Concat(attacks, slowAttacks) {
		b.Run(strings.ReplaceAll(tt.name, " ", "_"), func(b *testing.B) {
			n := newNode(b, nodeConfig{server: ServerConfig{Handle: attacked}})
			s := n.open("10.0.0.2:80")
			wantEcho(b, s)
			victimP99(b, s, 300*time.Millisecond)
			calmP99, calmOpen := victimP99(b, s, time.Second)
			rss := residentBytes(b)
			stop := startAttacker(b, n, tt.name)
			p99, open := victimP99(b, s, 2*time.Second)
			grown := residentBytes(b) - rss
			stop()
			b.ReportMetric(calmP99, "calm-p99-us")
			b.ReportMetric(p99, "p99-us")
			b.ReportMetric(calmOpen, "calm-open-us")
			b.ReportMetric(open, "open-us")
			b.ReportMetric(grown/(1<<20), "MiB-grown")
			runtime.GC()
			b.ReportMetric(float64(heapBytes())/(1<<20), "MiB-heap-after")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// victimP99 measures round trips and opens, paced, for d.
func victimP99(b *testing.B, s *Stream, d time.Duration) (roundTrip, open float64) {
	b.Helper()
	var trips, opens []time.Duration
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var node = s.c
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		start := time.Now()
		wantEcho(b, s)
		trips = append(trips, time.Since(start))
		start = time.Now()
		if !node.acquire(100) {
			b.Fatal("the victim's connection is gone")
		}
		o, err := node.open(b.Context(), request(b, "10.0.0.2:80"), openTimes{time.Minute, time.Minute})
		if err != nil {
			b.Fatal(err)
		}
		opens = append(opens, time.Since(start))
		o.CloseWrite()
		o.Read(make([]byte, 1))
		o.Close()
	}
	return percentile(trips, 0.99), percentile(opens, 0.99)
}

// percentile is the p-quantile in microseconds.
func percentile(d []time.Duration, p float64) float64 {
	slices.Sort(d)
	return float64(d[int(p*float64(len(d)-1))].Microseconds())
}

// residentBytes is the resident memory of this process.
func residentBytes(b *testing.B) float64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(text))[1], 64)
	if err != nil {
		b.Fatal(err)
	}
	return pages * float64(os.Getpagesize())
}

func heapBytes() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// startAttacker starts a process that attacks.
func startAttacker(b *testing.B, n *node, name string) (stop func()) {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestAttackerProcess$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s", attackerEnv, n.addr, name))
	cmd.Stdin = bytes.NewReader(n.certs.pem(b))
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
}

// TestAttackerProcess is the attacker of BenchmarkVictim; without its
// environment it only checks that every attack has a way to run.
func TestAttackerProcess(t *testing.T) {
	addr, name, ok := strings.Cut(os.Getenv(attackerEnv), " ")
	if !ok {
		for _, a := range attacks {
			if a.run == nil {
				t.Errorf("attack %q does nothing", a.name)
			}
		}
		return
	}
	n := &node{t: t, certs: readCerts(t), addr: netip.MustParseAddrPort(addr)}
	for {
		t.Run("again", func(t *testing.T) { attackOnce(t, n, name) })
	}
}

// attackOnce runs one connection, or one set of them, of an attack.
func attackOnce(t *testing.T, n *node, name string) {
	defer func() { <-time.After(time.Millisecond) }() // not to measure connect(2)
	switch name {
	case "silent TCP", "half handshakes":
		for range 500 {
			a := newSilent(t, n)
			if name != "silent TCP" {
				a.raw.Write([]byte{22, 3, 1, 2, 0, 1})
			}
		}
		<-time.After(200 * time.Millisecond)
	case "100 slow readers":
		for range 100 {
			a := newSilent(t, n)
			a.handshakeOnly(n)
			a.write([]byte(http2.ClientPreface))
			a.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
			a.fr.WriteWindowUpdate(0, 1<<30)
			a.connect(1)
			a.flush()
			awaitAnswer(a.tc)
			a.fr.WriteData(1, false, make([]byte, 256<<10))
			a.flush() // and never reads its echo
		}
		<-time.After(10 * time.Second)
	default:
		i := slices.IndexFunc(attacks, func(a attack) bool { return a.name == name })
		a := newAttacker(t, n)
		attacks[i].run(a)
		<-a.ended
	}
}

// handshakeOnly does TLS and does not read.
func (a *attacker) handshakeOnly(n *node) {
	a.t.Helper()
	a.raw.SetReadBuffer(4 << 10)
	a.tlsClient(n)
}
