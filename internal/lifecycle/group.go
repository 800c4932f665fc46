package lifecycle

import (
	"context"
	"runtime/pprof"
	"sync"
)

// A Group owns goroutines. Its zero value is ready. Whoever declares the Group
// calls Wait before returning. Go and Wait may be called from many goroutines,
// but Go must not be called after Wait has returned.
type Group struct {
	wg sync.WaitGroup
}

// Go runs fn in a goroutine that Wait waits for. Profiles show it as task=name.
func (g *Group) Go(ctx context.Context, name string, fn func(context.Context)) {
	g.wg.Go(func() {
		pprof.Do(ctx, pprof.Labels("task", name), fn)
	})
}

// Continue runs fn in a goroutine that Wait waits for, for a goroutine of the
// group that is about to return: fn waits long, and would wait on a stack that
// has grown before. It has the labels of its caller.
func (g *Group) Continue(fn func()) { g.wg.Go(fn) }

// Wait blocks until every goroutine started by Go has returned.
func (g *Group) Wait() { g.wg.Wait() }
