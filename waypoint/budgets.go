package waypoint

import (
	"sync"

	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/waypoint/config"
	"github.com/ambit-mesh/ambit/waypoint/filter"
)

// budgets are those of the services that have one: what each has counted outlives
// changes of everything else. The zero budgets is ready for use.
type budgets struct {
	mu  sync.Mutex
	all map[workload.Key]*filter.Budget
}

// of is the budget of a service; nil when it has none.
func (b *budgets) of(svc *config.Service) *filter.Budget {
	if svc == nil || svc.Budget == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	have := b.all[svc.Key]
	if have == nil || have.Config() != *svc.Budget {
		have = filter.NewBudget(*svc.Budget)
		if b.all == nil {
			b.all = map[workload.Key]*filter.Budget{}
		}
		b.all[svc.Key] = have
	}
	return have
}

// keep forgets those of services that have none any more.
func (b *budgets) keep(p *config.Picture) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key := range b.all {
		if svc := p.Service(key); svc == nil || svc.Budget == nil {
			delete(b.all, key)
		}
	}
}
