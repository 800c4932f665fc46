package upstream

import (
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Requests that are refused take nobody's place, not even for a moment.
func TestEnterBesideRefusals(t *testing.T) {
	const held = 9
	c := newCluster(nil, Key{})
	limits := &waypointapi.Limits{Requests: held + 1}
	for range held {
		if !c.enter(limits) {
			t.Fatal("refused below the limit")
		}
	}
	var others sync.WaitGroup
	defer others.Wait()
	stop := make(chan struct{})
	defer close(stop)
	for range 4 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if c.enter(&waypointapi.Limits{Requests: 1}) {
					t.Error("let in beyond the limit")
					return
				}
			}
		})
	}
	for i := range 20_000 {
		if !c.enter(limits) {
			t.Fatalf("round %d: refused below the limit, beside others that are refused", i)
		}
		if c.enter(limits) {
			t.Fatalf("round %d: let in beyond the limit", i)
		}
		c.requests.Add(-1)
	}
}
