package lifecycle

import (
	"fmt"
	"sync"
)

// FirstError keeps the first error that is not nil: the reason why everything
// stops, of which later errors are consequences. The zero value holds none. It is
// safe for concurrent use.
type FirstError struct {
	mu    sync.Mutex
	first error
}

// Keep remembers err with the part it is of, unless there is one already, and
// returns the first.
func (f *FirstError) Keep(part string, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil && f.first == nil {
		f.first = fmt.Errorf("%s: %w", part, err)
	}
	return f.first
}

// Err is the first error, or nil.
func (f *FirstError) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.first
}
