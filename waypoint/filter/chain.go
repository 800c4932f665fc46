package filter

import (
	"fmt"
	"time"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Chain is the filters of a route or of one of its backends, compiled. It never
// changes, but for what its limits count.
type Chain struct {
	steps     []step
	responses []change
	mirrors   []*waypointapi.Mirror
	origins   *cors
}

// step is one filter on a request's way. A step may answer it.
type step interface{ apply(p *Pass) *Answer }

// Pass is one request on its way through chains.
type Pass struct {
	// Request may be changed.
	Request *message.Request
	// Prefix is how many bytes of the path the route matched as a prefix.
	Prefix int
	// Port is the one of the service that was called.
	Port uint16
	// Caller names the identity of the client, for limits.
	Caller string
	// Rand returns a number from 0 to n-1.
	Rand func(n uint32) uint32
	// Now is when the request came.
	Now time.Time

	// Delay is how long the request has to wait before it goes on.
	Delay time.Duration
	// Mirrors are where copies go.
	Mirrors []*waypointapi.Backend

	origin string // that the answer may be shown to
}

// million is what shares of requests are given in.
const million = 1_000_000

// hits reports whether a request is one of so many in a million.
func (p *Pass) hits(perMillion uint32) bool {
	return perMillion >= million || perMillion > 0 && p.Rand(million) < perMillion
}

// Compile prepares filters. One of an unknown kind is an error: left out, it
// would let pass what it was to change.
func Compile(filters []*waypointapi.Filter) (*Chain, error) {
	c := &Chain{}
	for i, f := range filters {
		if err := c.add(f); err != nil {
			return nil, fmt.Errorf("filter %d: %w", i, err)
		}
	}
	return c, nil
}

// add compiles one filter.
func (c *Chain) add(f *waypointapi.Filter) (err error) {
	var s step
	switch k := f.GetKind().(type) {
	case *waypointapi.Filter_RequestHeaders:
		s, err = compileChange(k.RequestHeaders)
	case *waypointapi.Filter_ResponseHeaders:
		var h change
		if h, err = compileChange(k.ResponseHeaders); err == nil {
			c.responses = append(c.responses, h)
		}
		return err
	case *waypointapi.Filter_Redirect:
		s, err = compileRedirect(k.Redirect)
	case *waypointapi.Filter_Rewrite:
		s, err = compileRewrite(k.Rewrite)
	case *waypointapi.Filter_Mirror:
		c.mirrors = append(c.mirrors, k.Mirror)
		return nil
	case *waypointapi.Filter_Cors:
		if c.origins != nil {
			return fmt.Errorf("more than one CORS filter")
		}
		c.origins, err = compileCors(k.Cors)
		s = c.origins
	case *waypointapi.Filter_Fault:
		s, err = compileFault(k.Fault)
	case *waypointapi.Filter_Answer:
		s, err = compileAnswer(k.Answer)
	case *waypointapi.Filter_RateLimit:
		s, err = compileLimit(k.RateLimit)
	default:
		err = fmt.Errorf("of no known kind")
	}
	if err == nil {
		c.steps = append(c.steps, s)
	}
	return err
}

// Empty reports whether nothing is done.
func (c *Chain) Empty() bool {
	return c == nil || len(c.steps)+len(c.responses)+len(c.mirrors) == 0
}

// Apply has each filter look at the request. A non-nil Answer is what the client
// gets in place of the application's.
func (c *Chain) Apply(p *Pass) *Answer {
	if c == nil {
		return nil
	}
	for _, s := range c.steps {
		if a := s.apply(p); a != nil {
			return a
		}
	}
	for _, m := range c.mirrors {
		if p.hits(m.GetPerMillion()) {
			p.Mirrors = append(p.Mirrors, m.GetBackend())
		}
	}
	return nil
}

// Respond changes the fields of an answer.
func (c *Chain) Respond(p *Pass, fields *message.Fields) {
	if c == nil {
		return
	}
	if c.origins != nil {
		c.origins.respond(p, fields)
	}
	for i := range c.responses {
		c.responses[i].change(fields)
	}
}

// compileAnswer is a filter that always answers.
func compileAnswer(a *waypointapi.DirectAnswer) (step, error) {
	if a.GetStatus() < 200 || a.GetStatus() > 599 {
		return nil, fmt.Errorf("answer of status %d", a.GetStatus())
	}
	return direct{Answer{Status: int(a.GetStatus()), Body: string(a.GetBody()), Details: "direct_response"}}, nil
}

// direct answers every request.
type direct struct{ a Answer }

func (d direct) apply(*Pass) *Answer { return &d.a }
