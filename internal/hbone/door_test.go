package hbone

import (
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// newDoorForTest is a door, and a way to knock at it from one address.
func newDoorForTest(t *testing.T, l Limits) (*door, func() (*guest, time.Duration)) {
	d := &door{}
	d.init(l.withDefaults(), nil)
	return d, func() (*guest, time.Duration) {
		here, there := net.Pipe()
		t.Cleanup(func() { here.Close(); there.Close() })
		return d.enter(here)
	}
}

// At a door where one after another is turned away, the next waits; after a
// while without any it does not.
func TestDoorPausesForACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, knock := newDoorForTest(t, Limits{HandshakesPerIP: 4})
		for i := range 4 + turnedAwayRate.burst {
			if _, pause := knock(); pause != 0 {
				t.Fatalf("connection %d: a pause of %v", i, pause)
			}
		}
		begun, n := time.Now(), 100
		for range n {
			_, pause := knock()
			<-time.After(pause)
		}
		if took, want := time.Since(begun), time.Duration(n)*time.Second/time.Duration(turnedAwayRate.perSecond); took < want*9/10 || took > want*11/10 {
			t.Errorf("%d were taken in %v, want about %v", n, took, want)
		}
		<-time.After(time.Second)
		if _, pause := knock(); pause != 0 {
			t.Errorf("a pause of %v after a calm second", pause)
		}
	})
}

// The handshakes of one address go at their pace, in which others do not share,
// and who is shown out meanwhile does not wait on. What was used is remembered
// when all have left.
func TestHandshakesGoAtTheirPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, knock := newDoorForTest(t, Limits{})
		const n = 58
		begun := time.Now()
		var wg sync.WaitGroup
		for range n {
			g, _ := knock()
			wg.Go(func() {
				if err := g.takeTurn(t.Context()); err != nil {
					t.Error(err)
				}
				g.leave()
			})
		}
		wg.Wait()
		want := time.Duration(n-handshakeRate.burst) * time.Second / time.Duration(handshakeRate.perSecond)
		if took := time.Since(begun); took != want {
			t.Errorf("%d handshakes began within %v, want %v", n, took, want)
		}
		g, _ := knock()
		var err error
		wg.Go(func() { err = g.takeTurn(t.Context()) })
		synctest.Wait()
		begun = time.Now()
		d.mu.Lock()
		d.evict(&d.pending)
		d.mu.Unlock()
		wg.Wait()
		if !errors.Is(err, errEvicted) || time.Since(begun) != 0 {
			t.Errorf("shown out: %v after %v", err, time.Since(begun))
		}
		g.leave()
		<-time.After(time.Second)
		g, _ = knock()
		g.leave()
		if len(d.byIP) != 0 {
			t.Errorf("%d addresses are remembered after a calm second", len(d.byIP))
		}
	})
}
