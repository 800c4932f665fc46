package routes

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	experimental "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// Backend policies that say nothing else. Source: Gateway API, BudgetDetails and
// RetryConstraint.
const (
	budgetPercent  = 20
	budgetInterval = 10 * time.Second
	minRetries     = 10
	minInterval    = time.Second
)

// Bounds of a budget. Source: the same.
const (
	shortestBudget, longestBudget = time.Second, time.Hour
	mostRetries                   = 1_000_000
)

// BackendTreatment is what comes of a backend policy.
type BackendTreatment struct {
	RetryBudget *waypointapi.RetryBudget
	Session     *waypointapi.Session
	// Problems are fields that are not what they may be; what they are about is left
	// out then.
	Problems []Problem
}

// BackendPolicy translates an XBackendTrafficPolicy.
func BackendPolicy(p *experimental.XBackendTrafficPolicy) BackendTreatment {
	c := &converter{}
	out := BackendTreatment{RetryBudget: c.retryConstraint("spec.retryConstraint", p.Spec.RetryConstraint)}
	if len(c.Problems) > 0 {
		out.RetryBudget = nil
	}
	c.begin()
	out.Session = c.session("spec.sessionPersistence", p.Spec.SessionPersistence)
	if len(c.Problems) > c.before {
		out.Session = nil
	}
	out.Problems = c.Problems
	return out
}

// retryConstraint translates a retry budget; nil when there is none.
func (c *converter) retryConstraint(path string, r *experimental.RetryConstraint) *waypointapi.RetryBudget {
	if r == nil {
		return nil
	}
	out := &waypointapi.RetryBudget{
		Percent: budgetPercent, Interval: durationpb.New(budgetInterval), MinCount: minRetries, MinInterval: durationpb.New(minInterval),
	}
	if b := r.Budget; b != nil {
		if b.Percent != nil {
			out.Percent = c.within(path+".budget.percent", *b.Percent, 0, 100)
		}
		if b.Interval != nil {
			out.Interval = c.between(path+".budget.interval", *b.Interval, shortestBudget)
		}
	}
	if m := r.MinRetryRate; m != nil {
		if m.Count != nil {
			out.MinCount = c.within(path+".minRetryRate.count", *m.Count, 1, mostRetries)
		}
		if m.Interval != nil {
			out.MinInterval = c.between(path+".minRetryRate.interval", *m.Interval, 1)
		}
	}
	return out
}

// within reads a number of a range.
func (c *converter) within(path string, n, low, high int) uint32 {
	if n < low || n > high {
		c.problem(path, "want a number from %d to %d, not %d", low, high, n)
		return 0
	}
	return uint32(n)
}

// between reads a duration of at least low and at most an hour.
func (c *converter) between(path string, text gateway.Duration, low time.Duration) *durationpb.Duration {
	d, err := time.ParseDuration(string(text))
	if err != nil || d < low || d > longestBudget {
		want := "more than 0s"
		if low > 1 {
			want = fmt.Sprintf("at least %v", low)
		}
		c.problem(path, "want %s and at most %v, not %q", want, longestBudget, text)
		return nil
	}
	return durationpb.New(d)
}
