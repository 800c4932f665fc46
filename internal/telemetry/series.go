package telemetry

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/ambit-mesh/ambit/internal/identity"
)

// seriesKey is the set of labels of a connection, without the response flag. It
// holds no address, no port and no pod name: those a client can choose or a
// rollout can multiply.
type seriesKey struct {
	direction   Direction
	source      Workload
	destination Workload
	sourceID    identity.ID
	destID      identity.ID
	service     Service
	secured     bool
}

// keyOf returns the labels of c.
func keyOf(c *Conn) seriesKey {
	k := seriesKey{
		direction: c.Direction,
		source:    c.Source.Workload, destination: c.Destination.Workload,
		sourceID: c.Source.Identity, destID: c.Destination.Identity,
		service: c.Service,
		secured: c.secured(),
	}
	k.source.Name, k.destination.Name = "", ""
	k.source.clean()
	k.destination.clean()
	for _, text := range []*string{&k.service.Host, &k.service.Namespace, &k.service.Name} {
		*text = cleanLabel(*text)
	}
	return k
}

// clean makes the texts of w fit to be label values.
func (w *Workload) clean() {
	for _, text := range []*string{
		&w.Namespace, &w.WorkloadName, &w.CanonicalService, &w.CanonicalRevision, &w.Cluster, &w.Region, &w.Zone,
	} {
		*text = cleanLabel(*text)
	}
}

// maxLabel is the most bytes of a label value: the longest name Kubernetes
// allows. Source: RFC 1123, section 2.1.
const maxLabel = 253

// cleanLabel makes text fit to be a label value. Some texts come from the peer
// (baggage), and two keys with the same labels, or one that is not UTF-8, would
// fail a whole scrape. What is shown as "unknown" is kept as "".
func cleanLabel(text string) string {
	if len(text) > maxLabel {
		text = strings.Clone(text[:maxLabel]) // a series lives longer than the text
	}
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "_")
	}
	if text == unknown {
		return ""
	}
	return text
}

// unknown is the label value of what is not known.
const unknown = "unknown"

// series holds the counts of one set of labels. A connection resolves it once;
// counting is then one atomic operation.
type series struct {
	key seriesKey

	opened   atomic.Uint64
	sent     atomic.Uint64 // client to server
	received atomic.Uint64 // server to client
	closed   [flagCount]atomic.Uint64

	live    atomic.Int64 // connections that hold it
	touched atomic.Int64 // when the last of them let go, in Unix nanoseconds
}

// seriesTable is all series of a process, bounded in number.
type seriesTable struct {
	// Set by newSeriesTable, then only read.
	limit    int
	overflow [directionCount]*series // with all labels unknown

	// mu guards the map and the step from no holder to one.
	mu  sync.RWMutex
	all map[seriesKey]*series

	// Any goroutine.
	sockets [directionCount]atomic.Int64
	evicted atomic.Uint64 // series that made room for others
	spilled atomic.Uint64 // connections that found no place
}

// newSeriesTable makes a table of up to limit series.
func newSeriesTable(limit int) *seriesTable {
	t := &seriesTable{limit: limit, all: make(map[seriesKey]*series)}
	for d := range t.overflow {
		s := &series{key: seriesKey{direction: Direction(d)}}
		s.live.Add(1) // for ever: it is never evicted
		t.overflow[d] = s
		t.all[s.key] = s
	}
	return t
}

// acquire returns the series of key and holds it until release.
func (t *seriesTable) acquire(key seriesKey) *series {
	t.mu.RLock()
	s := t.all[key]
	if s != nil {
		s.live.Add(1)
	}
	t.mu.RUnlock()
	if s != nil {
		return s
	}
	return t.create(key)
}

// create makes the series of key, unless another goroutine was faster.
func (t *seriesTable) create(key seriesKey) *series {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.all[key]
	if s == nil {
		if len(t.all) >= t.limit && !t.evictLocked() {
			t.spilled.Add(1)
			s = t.overflow[key.direction]
			s.live.Add(1)
			return s
		}
		s = &series{key: key}
		t.all[key] = s
	}
	s.live.Add(1)
	return s
}

// release undoes one acquire of s at now.
func (t *seriesTable) release(s *series, now time.Time) {
	s.touched.Store(now.UnixNano())
	s.live.Add(-1)
}

// evictLocked drops the eighth of the series that has been without a living
// connection for longest, and reports whether there is room now. An eighth,
// so that the search is paid once for many new series. The caller holds t.mu
// for writing, so that no series gains its first holder meanwhile.
func (t *seriesTable) evictLocked() bool {
	var idle []*series
	for _, s := range t.all {
		if s.live.Load() == 0 {
			idle = append(idle, s)
		}
	}
	slices.SortFunc(idle, func(a, b *series) int { return cmp.Compare(a.touched.Load(), b.touched.Load()) })
	for _, s := range idle[:min(len(idle), t.limit/8+1)] {
		delete(t.all, s.key)
		t.evicted.Add(1)
	}
	return len(t.all) < t.limit
}

// list returns all series that have counted something.
func (t *seriesTable) list() []*series {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]*series, 0, len(t.all))
	for _, s := range t.all {
		if s.opened.Load() > 0 {
			out = append(out, s)
		}
	}
	return out
}
