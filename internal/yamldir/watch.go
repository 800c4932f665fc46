package yamldir

import (
	"context"
	"fmt"
	"time"

	"github.com/fsnotify/fsnotify"
)

// The times of a watch. All are our choice.
const (
	// quiet is how long nothing must happen before the directory is read, so
	// that a file which is being written is read once, and whole.
	quiet = 10 * time.Millisecond
	// patience is how long a reader waits for quiet.
	patience = 200 * time.Millisecond
)

// Watch reads the directory, hands the result to fn, and does so again whenever
// it differs, until ctx ends. fn runs on Watch's goroutine. The error is that of
// the first read, or of the notification system; the end of ctx is none.
func (r *Reader) Watch(ctx context.Context, fn func(Set)) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", r.cfg.Dir, err)
	}
	defer watcher.Close()
	if err := watcher.Add(r.cfg.Dir); err != nil {
		return fmt.Errorf("watch %s: %w", r.cfg.Dir, err)
	}
	told, err := r.Read(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", r.cfg.Dir, err)
	}
	fn(told)
	ticker := time.NewTicker(r.cfg.Poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			watcher.Add(r.cfg.Dir) // again, should the directory be a new one
		case <-watcher.Events:
			waitForQuiet(ctx, watcher)
		case <-watcher.Errors: // events were lost
		}
		set, _ := r.Read(ctx) // what is wrong with the directory stands in the set
		if ctx.Err() == nil && !set.Equal(told) {
			told = set
			fn(set)
		}
	}
}

// waitForQuiet returns when no event has come for a while.
func waitForQuiet(ctx context.Context, watcher *fsnotify.Watcher) {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	calm := time.NewTimer(quiet)
	defer calm.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-limit.C:
			return
		case <-calm.C:
			return
		case <-watcher.Events:
			calm.Reset(quiet)
		}
	}
}
