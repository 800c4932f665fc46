package entry

import (
	"sync"
	"time"
)

// Farewell ends connections politely, all at once: each finishes what is under
// way. Its zero value is ready.
type Farewell struct {
	// Patience is how long a connection of HTTP/1.1 that waits for a request may still
	// bring one: its client may be sending it in this moment, and HTTP/1.1 has no
	// other way to say "no more" than the answer to a request. Zero: such connections
	// end at once. It is set before the first connection is served.
	Patience time.Duration

	mu   sync.Mutex
	said bool
	ends map[*func()]struct{}
}

// add has fn called when the time has come, at once if it has. remove takes it
// back.
func (f *Farewell) add(fn func()) (remove func()) {
	f.mu.Lock()
	if f.said {
		f.mu.Unlock()
		fn()
		return func() {}
	}
	defer f.mu.Unlock()
	if f.ends == nil {
		f.ends = map[*func()]struct{}{}
	}
	key := &fn
	f.ends[key] = struct{}{}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.ends, key)
	}
}

// Say ends the connections. It does not wait.
func (f *Farewell) Say() {
	f.mu.Lock()
	f.said = true
	ends := f.ends
	f.ends = nil
	f.mu.Unlock()
	for fn := range ends {
		(*fn)()
	}
}

// Said reports whether the time has come.
func (f *Farewell) Said() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.said
}
