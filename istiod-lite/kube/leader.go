package kube

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// LeaderConfig says who is elected, for what, and how soon another one is.
type LeaderConfig struct {
	// Namespace and Name are of the Lease.
	Namespace, Name string
	// Identity tells this process from the other candidates.
	Identity string
	// Lease is how long others wait for a leader that says nothing. Zero means
	// 15 s.
	Lease time.Duration
}

// Lead takes part in elections until ctx ends. While this process leads, fn runs;
// its context ends when the lead is lost, and only when it has returned is
// another election entered. changed is told who leads.
func (c *Client) Lead(ctx context.Context, cfg LeaderConfig, changed func(leader string), fn func(context.Context)) error {
	lease := cmp.Or(cfg.Lease, 15*time.Second)
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: cfg.Namespace, Name: cfg.Name},
		Client:     c.typed.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: cfg.Identity},
	}
	for ctx.Err() == nil {
		led := make(chan context.Context, 1)
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: lease, RenewDeadline: lease * 2 / 3, RetryPeriod: lease / 8,
			ReleaseOnCancel: true, Name: cfg.Name,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) { led <- ctx },
				OnStoppedLeading: func() {},
				OnNewLeader:      changed,
			},
		})
		if err != nil {
			return fmt.Errorf("elections: %w", err)
		}
		c.leadOnce(ctx, elector, led, fn)
	}
	return nil
}

// leadOnce takes part in one election and waits for the end of what it started.
// The Lease is kept until fn has returned, unless it is lost.
func (c *Client) leadOnce(ctx context.Context, elector *leaderelection.LeaderElector, led <-chan context.Context, fn func(context.Context)) {
	var parts lifecycle.Group
	defer parts.Wait()
	electing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan struct{})
	parts.Go(electing, "elect", func(electing context.Context) {
		defer close(ended)
		elector.Run(klog.NewContext(electing, logr.Discard()))
	})
	select {
	case <-ctx.Done():
		return
	case <-ended:
		return
	case leading := <-led:
		// fn ends with the lead and with ctx, whichever is first.
		leading, cancel := context.WithCancel(leading)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		fn(leading)
		select {
		case <-ctx.Done():
		case <-ended:
		}
	}
}
