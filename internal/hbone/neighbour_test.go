package hbone

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// neighbourEnv makes TestNeighbourProcess a neighbour: a neighbourOrder.
const neighbourEnv = "HBONE_NEIGHBOUR"

// neighbourOrder says what a process does beside a victim.
type neighbourOrder struct {
	Addr   string
	What   string // attack, elsewhere, polite, spin or honest
	Attack string
	Turn   int           // an attacker of an earlier turn may be locked out still
	Share  float64       // of a core, for spin and honest
	Burst  time.Duration // how long these two compute before they look at Share
	Core   int           // where it runs; negative: anywhere
}

// startNeighbour returns when the process is about to begin. The caller stops
// it.
func startNeighbour(b *testing.B, certs *testCerts, how neighbourOrder) *neighbour {
	b.Helper()
	order, err := json.Marshal(how)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNeighbourProcess$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), neighbourEnv+"="+string(order))
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		b.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	n := &neighbour{proxyProcess{cmd: cmd}}
	if how.Core >= 0 {
		pin(b, cmd.Process.Pid, how.Core)
	}
	stdin.Write(certs.pem(b))
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		n.stop()
		b.Fatalf("neighbour %s: %v", how.What, err)
	}
	return n
}

// neighbour is a process beside the victim's.
type neighbour struct{ proxyProcess }

// stop ends it.
func (n *neighbour) stop() {
	n.cmd.Process.Kill()
	n.cmd.Wait()
}

// TestNeighbourProcess is the neighbour of BenchmarkVictim; without its
// environment it only checks that every attack has a way to run.
func TestNeighbourProcess(t *testing.T) {
	text := os.Getenv(neighbourEnv)
	if text == "" {
		for _, a := range attacks {
			if a.run == nil {
				t.Errorf("attack %q does nothing", a.name)
			}
		}
		return
	}
	var order neighbourOrder
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		t.Fatal(err)
	}
	certs := readCerts(t)
	n := &node{t: t, certs: certs, addr: netip.MustParseAddrPort(order.Addr), pool: NewPool(PoolConfig{}, nil)}
	fmt.Println("ready")
	if order.What == "elsewhere" {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		awaitFirstByte(ln, time.Minute)
		n.addr = ln.Addr().(*net.TCPAddr).AddrPort()
	}
	switch order.What {
	case "attack", "elsewhere":
		from := net.IPv4(127, 0, byte(1+order.Turn/250), byte(2+order.Turn%250))
		for {
			t.Run("again", func(t *testing.T) { attackOnce(t, n, from, order.Attack) })
		}
	case "polite":
		readers(t, n, net.IPv4(127, 0, byte(11+order.Turn/250), byte(2+order.Turn%250)), true)
	case "spin":
		atMost(order, func() {
			for end := time.Now().Add(100 * time.Microsecond); time.Now().Before(end); {
			}
		})
	case "honest":
		s := n.openFrom(net.IPv4(127, 0, 0, 3))
		p := make([]byte, 4<<10)
		atMost(order, func() {
			s.Write(p)
			if _, err := io.ReadFull(s, p); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// openFrom opens a stream from an address of loopback.
func (n *node) openFrom(ip net.IP) *Stream {
	n.t.Helper()
	to := n.target()
	to.Dial = func(ctx context.Context) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: ip}}
		return d.DialContext(ctx, "tcp", n.addr.String())
	}
	s, err := n.pool.Open(n.t.Context(), to, request(n.t, "10.0.0.2:80"))
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

// atMost repeats work in bursts until killed, and rests after one when this
// process has used more than its share of a core.
func atMost(order neighbourOrder, work func()) {
	begun, used := time.Now(), processTime()
	for {
		for end := processTime() + order.Burst; ; {
			if work(); processTime() >= end {
				break
			}
		}
		ahead := time.Duration(float64(processTime()-used)/max(order.Share, 1e-3)) - time.Since(begun)
		if ahead > 0 {
			<-time.After(ahead)
		}
	}
}

// processTime is the CPU time of this process.
func processTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// attackOnce runs one connection, or one set of them, of an attack.
func attackOnce(t *testing.T, n *node, from net.IP, name string) {
	defer func() { <-time.After(time.Millisecond) }() // not to measure connect(2)
	switch name {
	case "silent TCP", "half handshakes":
		for range 500 {
			a := newSilentFrom(t, n, from)
			if name != "silent TCP" {
				a.raw.Write([]byte{22, 3, 1, 2, 0, 1})
			}
		}
		<-time.After(200 * time.Millisecond)
	case "100 slow readers":
		readers(t, n, from, false)
	default:
		i := slices.IndexFunc(attacks, func(a attack) bool { return a.name == name })
		a := newSilentFrom(t, n, from)
		a.begin(n)
		attacks[i].run(a)
		<-a.ended
	}
}

// readersSend is what each of readers sends, in bytes.
const readersSend = 256 << 10

// readers makes 100 connections, one after the other as fast as the server lets it
// in, and sends as much on a stream of each. It reads the echo, or never does.
func readers(t *testing.T, n *node, from net.IP, read bool) {
	for range 100 {
		a := newSilentFrom(t, n, from)
		if !read {
			a.raw.SetReadBuffer(4 << 10)
		}
		a.tlsClient(n)
		a.write([]byte(http2.ClientPreface))
		a.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		a.fr.WriteWindowUpdate(0, 1<<30)
		a.connect(1)
		a.flush()
		awaitAnswer(a.tc)
		a.fr.WriteData(1, false, make([]byte, readersSend))
		a.flush()
		if read {
			awaitEcho(t, a.tc)
		}
	}
	<-time.After(10 * time.Second)
}

// awaitEcho reads until all that readers has sent is back.
func awaitEcho(t *testing.T, r io.Reader) {
	fr := http2.NewFramer(nil, r)
	fr.SetMaxReadFrameSize(1 << 20)
	for got := 0; got < readersSend; {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if data, ok := f.(*http2.DataFrame); ok {
			got += len(data.Data())
		}
	}
}
