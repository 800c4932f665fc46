package telemetry

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/streamio"
	"github.com/ambit-mesh/ambit/internal/tracing"
)

// Config tunes [Records]. The zero Config is ready for use.
type Config struct {
	// Recent is how many closed connections are remembered: so many that ended well,
	// and as many that did not, which those who ended well do not push out. Zero means
	// 256, which is a quarter of a megabyte that stays when load has gone; a remembered
	// connection costs less than 2 KiB (see [Entry]). A negative value is an error.
	Recent int

	// Series is how many sets of labels the connection metrics may have at a
	// time. Zero means 10000. What comes on top replaces sets without a living
	// connection, and where there is none it is counted with all labels
	// "unknown". A negative value is an error.
	Series int
}

// withDefaults returns the configuration that is in force.
func (c Config) withDefaults() (Config, error) {
	if c.Recent < 0 {
		return Config{}, fmt.Errorf("field Recent is %d, want 0 (for 256) or more", c.Recent)
	}
	if c.Series < 0 {
		return Config{}, fmt.Errorf("field Series is %d, want 0 (for 10000) or more", c.Series)
	}
	c.Recent = cmp.Or(c.Recent, 256)
	c.Series = cmp.Or(c.Series, 10000)
	return c, nil
}

// Deps are the collaborators of [Records]. All fields but Spans are required.
type Deps struct {
	Log      *zap.Logger           // the access log is written to its scope "access"
	Registry prometheus.Registerer // the connection metrics are registered here
	// Spans gets the connections that are in a sampled trace; it may be nil.
	Spans *tracing.Exporter
}

// Records knows the connections of one process: those that live, those that
// have ended lately, and the counts of all. Any goroutine may use it.
type Records struct {
	// Set by NewRecords, then only read.
	log    *zap.Logger
	series *seriesTable
	recent *ring             // ended well
	failed *ring             // did not
	spans  *tracing.Exporter // may be nil
	now    func() time.Time

	// Any goroutine.
	lastID  atomic.Uint64
	live    [liveShards]liveList
	endings endings
}

// liveShards spreads the lock of the list of living connections. It is our
// choice: more than a node has cores at work on new connections.
const liveShards = 16

// NewRecords makes an empty Records and registers its metrics.
func NewRecords(cfg Config, deps Deps) (*Records, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("telemetry config: %w", err)
	}
	if deps.Log == nil || deps.Registry == nil {
		return nil, errors.New("telemetry: a logger and a registry are required")
	}
	r := &Records{
		log:    deps.Log.Named("access"),
		series: newSeriesTable(cfg.Series),
		recent: newRing(cfg.Recent),
		failed: newRing(cfg.Recent),
		spans:  deps.Spans,
		now:    time.Now,
	}
	r.endings.wake = make(chan struct{}, 1)
	if err := deps.Registry.Register(&collector{records: r}); err != nil {
		return nil, fmt.Errorf("register connection metrics: %w", err)
	}
	return r, nil
}

// Spans is who gets connections that are in a sampled trace. It may be nil, which
// is ready for use.
func (r *Records) Spans() *tracing.Exporter { return r.spans }

// Open starts the record of a connection: it is counted as opened and listed
// until [Record.Close], which the caller must call once on every path.
func (r *Records) Open(c Conn) *Record { return r.OpenSince(r.now(), c) }

// OpenSince does the same for a connection that began at start: one whose
// destination was not clear until it was reached.
func (r *Records) OpenSince(start time.Time, c Conn) *Record {
	id := r.lastID.Add(1)
	rec := &Record{
		records: r,
		id:      id,
		opened:  start,
		bytes:   new(streamio.Counters),
		conn:    c,
		series:  r.series.acquire(keyOf(&c)),
	}
	rec.series.opened.Add(1)
	r.live[id%liveShards].add(rec)
	rec.logOpened()
	return rec
}

// Refuse notes a connection that ended before anybody knew who talks to whom.
// It changes no metric. src and dst may be zero.
func (r *Records) Refuse(d Direction, src, dst netip.AddrPort, err error) {
	now := r.now()
	r.logRefused(d, src, dst, err)
	r.failed.add(func(e *Entry) { *e = refusedEntry(r.lastID.Add(1), now, d, src, dst, err) })
}

// SocketOpened counts a socket of the data plane. Each call is followed by one
// of [Records.SocketClosed].
func (r *Records) SocketOpened(d Direction) { r.series.sockets[d].Add(1) }

// SocketClosed undoes one [Records.SocketOpened].
func (r *Records) SocketClosed(d Direction) { r.series.sockets[d].Add(-1) }

// Live returns the connections that are open now, oldest first.
func (r *Records) Live() []Entry {
	var all []Entry
	for i := range r.live {
		all = r.live[i].entries(all)
	}
	sortByID(all)
	return all
}

// Recent returns the connections that have ended lately, newest first.
func (r *Records) Recent() []Entry {
	all := append(r.recent.entries(), r.failed.entries()...)
	slices.SortFunc(all, func(a, b Entry) int { return cmp.Or(b.Closed.Compare(a.Closed), cmp.Compare(b.ID, a.ID)) })
	return all
}

// liveList holds the living records of one shard, in a ring without memory of
// its own.
type liveList struct {
	mu   sync.Mutex
	head *Record // nil when empty
}

// add lists rec.
func (l *liveList) add(rec *Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rec.next = l.head
	if l.head != nil {
		l.head.prev = rec
	}
	l.head = rec
}

// remove forgets rec, which must be listed.
func (l *liveList) remove(rec *Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rec.prev != nil {
		rec.prev.next = rec.next
	} else {
		l.head = rec.next
	}
	if rec.next != nil {
		rec.next.prev = rec.prev
	}
	rec.prev, rec.next = nil, nil
}

// collect moves what the byte counters have gained into the series.
func (l *liveList) collect() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rec := l.head; rec != nil; rec = rec.next {
		rec.collect()
	}
}

// entries appends what the list holds to all.
func (l *liveList) entries(all []Entry) []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rec := l.head; rec != nil; rec = rec.next {
		all = append(all, rec.entry())
	}
	return all
}
