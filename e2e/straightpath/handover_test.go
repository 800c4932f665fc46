package straightpath

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/ztunnel"
)

// handOvers is how many times one ztunnel takes over from another.
const handOvers = 20

// load makes new connections until it is stopped.
type load struct {
	name string
	made atomic.Int64
	try  func() error
}

// run returns why a connection failed, or nil.
func (l *load) run(stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		start := time.Now()
		if err := l.try(); err != nil {
			return fmt.Errorf("%s: connection %d, begun %v ago: %w", l.name, l.made.Load(), time.Since(start), err)
		}
		l.made.Add(1)
	}
}

// crossing is two nodes and pods that call each other in every way.
type crossing struct {
	*mesh
	n1          *node
	client, far *pod
	loads       []*load
}

// newCrossing makes one. The ztunnel of n1 is tuned.
func newCrossing(t *testing.T, tune func(*ztunnel.Config)) *crossing {
	t.Helper()
	m := newMesh(t)
	n1, n2 := m.node("n1", tune), m.node("n2")
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	far, outside := m.enrolled(n2, "far"), m.pod(n2, "outside")
	for _, p := range []*pod{server, far, outside} {
		p.echo(80)
	}
	visit := func(from, to *pod) func() error {
		return func() error {
			c, err := from.tryConnect(to.addr(80))
			if err == nil {
				c.wantEcho("x")
				c.Close()
			}
			return err
		}
	}
	return &crossing{mesh: m, n1: n1, client: client, far: far, loads: []*load{
		{name: "on the node", try: visit(client, server)},
		{name: "from the node to another", try: visit(client, far)},
		{name: "from another node", try: visit(far, server)},
		{name: "plaintext into the mesh", try: visit(outside, server)},
		{name: "out of the mesh", try: visit(client, outside)},
	}}
}

// underLoad calls handOver again and again while connections of all kinds begin.
// None may fail. handOver replaces the ztunnel of n1, and calls begun when new
// connections are the new one's.
func (c *crossing) underLoad(handOver func(begun func())) {
	t := c.t
	stop := make(chan struct{})
	var all sync.WaitGroup
	for _, l := range c.loads {
		for range 4 {
			all.Go(func() {
				if err := l.run(stop); err != nil {
					t.Error(err)
				}
			})
		}
	}
	for range handOvers {
		lives := c.client.connect(c.far.addr(80))
		handOver(func() {
			before := counts(c.loads)
			eventually(t, "connections of all kinds begin", func() error { return moved(c.loads, before) })
			lives.wantEcho("still there")
			lives.Close()
		})
		if t.Failed() {
			break
		}
	}
	close(stop)
	all.Wait()
	for _, l := range c.loads {
		t.Logf("%s: %d connections over %d hand-overs", l.name, l.made.Load(), handOvers)
	}
}

// drainTime is the grace that what lives has during a hand-over.
const drainTime = 15 * time.Second

// The ztunnel of a node is replaced again and again while all kinds of
// connections begin. None fails, and what was begun before goes on.
func TestHandOversUnderLoad(t *testing.T) {
	tune := func(c *ztunnel.Config) { c.Drain = drainTime }
	c := newCrossing(t, tune)
	c.underLoad(func(begun func()) {
		old := c.n1.z
		c.n1.z = c.n1.start(tune)
		c.n1.z.ready(t)
		old.stop()
		begun()
		select {
		case <-old.done:
		case <-time.After(drainTime + patience):
			t.Fatal("the old ztunnel has not ended")
		}
	})
}

// The same with the real program, with the capabilities it has in a cluster: the
// end of a process must lose nothing either.
func TestProcessHandOversUnderLoad(t *testing.T) {
	c := newCrossing(t, func(*ztunnel.Config) {})
	binary := ztunnelBinary(t)
	env := "CONNECTION_TERMINATION_DEADLINE=" + drainTime.String()
	p := c.n1.startProcess(binary, env)
	c.n1.z.stop()
	<-c.n1.z.done
	c.underLoad(func(begun func()) {
		old := p
		p = c.n1.startProcess(binary, env)
		old.signal(syscall.SIGTERM)
		begun()
		old.wait()
	})
}

// counts is how many connections each load has made.
func counts(loads []*load) (out []int64) {
	for _, l := range loads {
		out = append(out, l.made.Load())
	}
	return out
}

// moved wants each load to have made twenty connections since.
func moved(loads []*load, since []int64) error {
	for i, l := range loads {
		if l.made.Load() < since[i]+20 {
			return errors.New(l.name + ": not yet")
		}
	}
	return nil
}
