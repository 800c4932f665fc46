package kube_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/e2e/kubetest"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/istiod-lite/kube"
)

// electorate counts who leads.
type electorate struct {
	t    *testing.T
	mu   sync.Mutex
	lead map[string]bool
	won  int
}

// lead is what a leader does.
func (e *electorate) leads(name string) func(context.Context) {
	return func(ctx context.Context) {
		e.mu.Lock()
		e.won++
		e.lead[name] = true
		if len(e.lead) > 1 {
			e.t.Errorf("two lead at once: %v", e.lead)
		}
		e.mu.Unlock()
		<-ctx.Done()
		e.mu.Lock()
		delete(e.lead, name)
		e.mu.Unlock()
	}
}

// want waits for so many leaders after so many elections.
func (e *electorate) want(why string, leaders, won int) {
	e.t.Helper()
	kubetest.Eventually(e.t, why, func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		if len(e.lead) != leaders || e.won < won {
			return fmt.Errorf("%v lead, after %d elections", e.lead, e.won)
		}
		return nil
	})
}

func TestOneLeads(t *testing.T) {
	s := kubetest.Get(t)
	ns := namespace(t, s.Client(t), "elect")
	e := &electorate{t: t, lead: map[string]bool{}}
	stop := map[string]context.CancelFunc{}
	var candidates lifecycle.Group
	defer candidates.Wait()
	for _, name := range []string{"a", "b"} {
		client, err := kube.Connect(kube.Config{Kubeconfig: s.Kubeconfig(t, "")})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		stop[name] = cancel
		defer cancel()
		candidates.Go(ctx, name, func(ctx context.Context) {
			cfg := kube.LeaderConfig{Namespace: ns, Name: "lease", Identity: name, Lease: 2 * time.Second}
			if err := client.Lead(ctx, cfg, func(string) {}, e.leads(name)); err != nil {
				t.Error(err)
			}
		})
	}
	e.want("one is elected", 1, 1)
	resume := s.Pause(t)
	e.want("who cannot say that it leads stops", 0, 1)
	resume()
	e.want("one is elected again", 1, 2)
	e.mu.Lock()
	leader := "a"
	if e.lead["b"] {
		leader = "b"
	}
	e.mu.Unlock()
	stop[leader]()
	e.want("the other takes over when the leader is told to stop", 1, 3)
}
