package upstream

import (
	"cmp"
	"time"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// illness is how an endpoint did lately. cluster.mu guards it.
type illness struct {
	bad     int // answers of 5xx in a row, and none
	gateway int // answers of 502 to 504 in a row, and none
	local   int // no answers in a row, where they count apart
	times   int // it was put out
	until   time.Time
}

// Of outlier detection where the users say nothing. Source: what the ecosystem
// does.
const (
	defaultEjection   = 30 * time.Second
	maxEjection       = 300 * time.Second
	defaultMaxPercent = 10
)

// isOut reports whether an endpoint takes no requests now.
func (c *cluster) isOut(uid string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.hosts[uid]
	return h != nil && now.Before(h.ill.until)
}

// judge counts an answer and puts the endpoint out when it was bad too often.
func (c *cluster) judge(h *host, status int, o *waypointapi.Outlier, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ill := &h.ill
	if now.Before(ill.until) {
		return // what was under way when it was put out
	}
	if !ill.count(status, o) {
		return
	}
	if !c.mayPutOut(o, now) {
		return
	}
	ill.times++
	ill.bad, ill.gateway, ill.local = 0, 0, 0
	base := cmp.Or(o.GetBaseEjection().AsDuration(), defaultEjection)
	ill.until = now.Add(min(base*time.Duration(ill.times), max(base, maxEjection)))
}

// count counts an answer, or with status 0 that none came, and reports whether that was
// bad too often.
func (ill *illness) count(status int, o *waypointapi.Outlier) bool {
	most := func(n int, limit uint32) bool { return limit > 0 && n >= int(limit) }
	if apart := o.GetConsecutiveLocal(); apart != nil {
		if status == 0 { // which says nothing of what it answers
			ill.local++
			return most(ill.local, apart.GetValue())
		}
		ill.local = 0
	}
	if status > 0 && status < 500 {
		ill.bad, ill.gateway = 0, 0
		return false
	}
	ill.bad++
	if status == 0 || status >= 502 && status <= 504 {
		ill.gateway++
	} else {
		ill.gateway = 0
	}
	return most(ill.bad, o.GetConsecutive_5Xx()) || most(ill.gateway, o.GetConsecutiveGateway())
}

// mayPutOut reports whether another endpoint may be out: one always may, and no
// more than the share that the users set. The caller holds mu.
func (c *cluster) mayPutOut(o *waypointapi.Outlier, now time.Time) bool {
	snap := c.u.deps.State.Snapshot()
	svc := snap.Service(c.key.Service)
	if svc == nil {
		return false
	}
	total, out := len(snap.Endpoints(svc)), 0
	for _, h := range c.hosts {
		if now.Before(h.ill.until) {
			out++
		}
	}
	percent := int(cmp.Or(o.GetMaxEjectionPercent(), defaultMaxPercent))
	return out < max(1, total*percent/100)
}
