package filter

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Retry says when a request is tried again. It never changes, but for what its
// budget counts.
type Retry struct {
	Attempts int // after the first
	Backoff  time.Duration
	statuses []int
	grpc     []string

	connect, reset, serverError, gatewayError bool
	budget                                    *Budget
}

// Of a retry that says nothing else: our choice, as the ecosystem's meshes do.
const (
	defaultBackoff    = 25 * time.Millisecond
	defaultPercent    = 20
	defaultPerSecond  = 10
	maxAttempts       = 20
	budgetTime        = 10 * time.Second
	maxBackoffFactors = 6
)

// CompileRetry prepares it; nil stays nil.
func CompileRetry(r *waypointapi.Retry) (*Retry, error) {
	if r == nil || r.GetAttempts() == 0 {
		return nil, nil
	}
	if r.GetAttempts() > maxAttempts {
		return nil, fmt.Errorf("%d tries, want at most %d", r.GetAttempts(), maxAttempts)
	}
	out := &Retry{
		Attempts: int(r.GetAttempts()), Backoff: r.GetBackoff().AsDuration(),
		connect: r.GetConnectFailure(), reset: r.GetReset_(), serverError: r.GetServerError(), gatewayError: r.GetGatewayError(),
		budget: NewBudget(BudgetConfig{
			Percent: int(cmp.Or(r.GetBudgetPercent(), defaultPercent)), Interval: budgetTime,
			MinCount: int(cmp.Or(r.GetBudgetPerSecond(), defaultPerSecond)), MinInterval: time.Second,
		}),
	}
	if out.Backoff <= 0 {
		out.Backoff = defaultBackoff
	}
	for _, s := range r.GetStatuses() {
		out.statuses = append(out.statuses, int(s))
	}
	for _, s := range r.GetGrpcStatuses() {
		out.grpc = append(out.grpc, strconv.FormatUint(uint64(s), 10))
	}
	return out, nil
}

// Failure is how a try failed without an answer.
type Failure uint8

const (
	// FailedToConnect: nothing of the request was sent.
	FailedToConnect Failure = iota
	// FailedToAnswer: the connection ended after something was sent.
	FailedToAnswer
)

// AfterFailure reports whether to try again after a try without an answer.
func (r *Retry) AfterFailure(f Failure) bool {
	if r == nil {
		return false
	}
	if f == FailedToConnect {
		return r.connect || r.reset || r.serverError || r.gatewayError
	}
	return r.reset || r.serverError || r.gatewayError
}

// AfterAnswer reports whether to try again after an answer.
func (r *Retry) AfterAnswer(resp *message.Response) bool {
	if r == nil {
		return false
	}
	if len(r.grpc) > 0 {
		if s := resp.Fields.Get("grpc-status"); s != "" && slices.Contains(r.grpc, s) {
			return true
		}
	}
	return r.serverError && resp.Status >= 500 || r.gatewayError && resp.Status >= 502 && resp.Status <= 504 || slices.Contains(r.statuses, resp.Status)
}

// Wait is how long to wait before a try; the first after the original is 1. It is what
// the users say at least, and up to half more by chance. Source: Gateway API,
// HTTPRouteRetry.
func (r *Retry) Wait(try int, random func(n uint32) uint32) time.Duration {
	if r == nil {
		return 0
	}
	d := r.Backoff << min(try-1, maxBackoffFactors)
	return d + time.Duration(random(uint32(min(int64(d/2)+1, 1<<31))))
}

// Begin counts a request against which retries are measured.
func (r *Retry) Begin(now time.Time) {
	if r != nil {
		r.budget.Request(now)
	}
}

// Allowed spends one retry of the budget.
func (r *Retry) Allowed(now time.Time) bool { return r.budget.Retry(now) }
