package straightpath

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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

// The ztunnel of a node is replaced again and again while all kinds of
// connections begin. None fails, and what was begun before goes on to the end of
// the grace period.
func TestHandOversUnderLoad(t *testing.T) {
	m := newMesh(t)
	m.resolver()
	const drain = 15 * time.Second
	tune := func(c *ztunnel.Config) { c.Drain = drain }
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
	loads := []*load{
		{name: "on the node", try: visit(client, server)},
		{name: "from the node to another", try: visit(client, far)},
		{name: "from another node", try: visit(far, server)},
		{name: "plaintext into the mesh", try: visit(outside, server)},
		{name: "out of the mesh", try: visit(client, outside)},
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	for _, l := range loads {
		for range 4 {
			all.Go(func() {
				if err := l.run(stop); err != nil {
					t.Error(err)
				}
			})
		}
	}
	for i := range handOvers {
		lives := client.connect(far.addr(80))
		old := n1.z
		n1.z = n1.start(tune)
		n1.z.ready(t)
		before := counts(loads)
		begun := time.Now()
		old.stop()
		eventually(t, "connections of all kinds begin", func() error { return moved(loads, before) })
		lives.wantEcho("still there")
		lives.Close()
		select {
		case <-old.done:
		case <-time.After(patience):
			t.Fatalf("hand-over %d: the old ztunnel has not ended", i)
		}
		if took := time.Since(begun); took > drain+2*time.Second {
			t.Errorf("hand-over %d: the old ztunnel took %v to end, want at most %v", i, took, drain)
		}
		if t.Failed() {
			break
		}
	}
	close(stop)
	all.Wait()
	for _, l := range loads {
		t.Logf("%s: %d connections over %d hand-overs", l.name, l.made.Load(), handOvers)
	}
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
