package upstream

import (
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/waypoint/config"
)

// levels are how many endpoints there are at each level, and how many of them are not
// out.
type levels struct{ all, healthy [config.MaxLevels]int }

// enough is the share of healthy endpoints, in percent of a level's, that counts as all
// of them: 5 of 7. Source: what the ecosystem does (overprovisioning factor 1.4).
const enough = 140

// shares are those of the levels, whose sum is 0 when nobody is healthy. With weights,
// each level has its own, less what its ill endpoints cannot take; without, each takes
// what those before it leave.
func (l *levels) shares(weights []uint32) (out [config.MaxLevels]uint64, sum uint64) {
	for i := range out {
		if l.all[i] == 0 {
			continue
		}
		able := uint64(min(100, enough*l.healthy[i]/l.all[i]))
		switch {
		case weights == nil:
			out[i] = min(able, 100-sum)
		case i < len(weights):
			out[i] = able * uint64(weights[i])
		}
		sum += out[i]
	}
	return out, sum
}

// chooseNear chooses as choose does, among the endpoints of one level: by the shares of
// the levels, and if nobody is left there, of the first level at which somebody is.
func (p *picker) chooseNear(v *config.View, exclude func(uid string) bool) (*workload.Workload, uint16) {
	var l levels
	o := workload.PickOptions{Source: p.source, Port: p.want.Key.Port, Unranked: true, Exclude: func(uid string) bool { return !p.inSubset(uid) }}
	p.snap.Candidates(p.svc, o, func(w *workload.Workload, _ uint16) {
		if i, ok := v.Level(w, p.picture.Endpoint(w.UID)); ok {
			l.all[i]++
			if !p.out(w.UID) {
				l.healthy[i]++
			}
		}
	})
	shares, sum := l.shares(v.Weights)
	if sum == 0 {
		return nil, 0
	}
	first, n := 0, p.c.u.deps.Rand(sum)
	for ; n >= shares[first]; first++ {
		n -= shares[first]
	}
	at := func(level int) (*workload.Workload, uint16) {
		return p.chooseAny(workload.PickOptions{Source: p.source, Port: p.want.Key.Port, Rand: p.c.u.deps.Rand, Unranked: true, Exclude: func(uid string) bool {
			if exclude(uid) {
				return true
			}
			i, ok := v.Level(p.snap.Workload(uid), p.picture.Endpoint(uid))
			return !ok || i != level
		}})
	}
	if w, port := at(first); w != nil {
		return w, port
	}
	for i := range shares {
		if i != first && shares[i]+uint64(l.healthy[i]) > 0 && (v.Weights == nil || shares[i] > 0) {
			if w, port := at(i); w != nil {
				return w, port
			}
		}
	}
	return nil, 0
}
