package filter

import (
	"fmt"
	"time"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// fault delays and refuses requests on purpose.
type fault struct {
	delay                   time.Duration
	delayShare, refuseShare uint32
	status, grpc            int
}

// compileFault prepares it.
func compileFault(f *waypointapi.Fault) (step, error) {
	out := &fault{delay: f.GetDelay().AsDuration(), delayShare: f.GetDelayPerMillion(), refuseShare: f.GetAbortPerMillion(), status: int(f.GetAbortStatus())}
	if g := f.GetAbortGrpcStatus(); g != nil {
		out.grpc = int(g.GetValue())
		if out.status == 0 {
			out.status = 200
		}
	}
	if out.refuseShare > 0 && (out.status < 200 || out.status > 599) {
		return nil, fmt.Errorf("fault of status %d", out.status)
	}
	if out.delay < 0 {
		return nil, fmt.Errorf("fault that delays by %v", out.delay)
	}
	return out, nil
}

func (f *fault) apply(p *Pass) *Answer {
	if p.hits(f.delayShare) {
		p.Delay += f.delay
	}
	if !p.hits(f.refuseShare) {
		return nil
	}
	return &Answer{Status: f.status, Grpc: f.grpc, Body: "fault filter abort", Flag: "FI", Details: "fault_filter_abort"}
}
