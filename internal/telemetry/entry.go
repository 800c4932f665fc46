package telemetry

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"
	"unicode/utf8"
)

// Entry is what is known of one connection at one moment: of a living one, or
// of one that has ended. It is a value.
//
// An Entry that is remembered keeps alive what its strings lie in. Its own size
// is below 1 KiB and its texts are cut to maxText bytes; names of workloads
// come from the picture, where the limits of Kubernetes hold (253 bytes and
// less).
type Entry struct {
	ID     uint64
	Conn   Conn
	Opened time.Time
	// Closed is zero while the connection lives.
	Closed time.Time
	// BytesSent is from the client to the server, BytesReceived from the server
	// to the client.
	BytesSent, BytesReceived uint64

	// Refused means that the connection ended before anybody knew who talks to
	// whom.
	Refused bool
	// Stage, Fault, Flag and Error say how it ended. Error is empty for a good
	// end. Hint says what to try; it may be empty.
	Stage Stage
	Fault Fault
	Flag  Flag
	Error string
	Hint  string
}

// maxText is the most bytes of an error or a hint that an Entry keeps. It is
// our choice: the longest hint of this project has half of it.
const maxText = 512

// entryJSON is how an Entry looks to tools.
type entryJSON struct {
	ID            uint64     `json:"id"`
	State         string     `json:"state"`
	Direction     string     `json:"direction"`
	Hop           string     `json:"hop,omitempty"`
	Pod           string     `json:"pod,omitempty"`
	Source        peerJSON   `json:"source"`
	Destination   peerJSON   `json:"destination"`
	Service       string     `json:"service,omitempty"`
	Authority     string     `json:"authority,omitempty"`
	OriginalDst   string     `json:"originalDst,omitempty"`
	ActualDst     string     `json:"actualDst,omitempty"`
	Policy        string     `json:"policy,omitempty"`
	Opened        time.Time  `json:"opened"`
	Closed        *time.Time `json:"closed,omitempty"`
	BytesSent     uint64     `json:"bytesSent"`
	BytesReceived uint64     `json:"bytesReceived"`
	Flags         string     `json:"responseFlags,omitempty"`
	Stage         string     `json:"stage,omitempty"`
	Fault         string     `json:"fault,omitempty"`
	Error         string     `json:"error,omitempty"`
	Hint          string     `json:"hint,omitempty"`
}

// peerJSON is one end of an entryJSON.
type peerJSON struct {
	Addr      string `json:"addr,omitempty"`
	Workload  string `json:"workload,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Identity  string `json:"identity,omitempty"`
	Cluster   string `json:"cluster,omitempty"`
}

// MarshalJSON writes the entry for tools. What is unknown is left out.
func (e Entry) MarshalJSON() ([]byte, error) {
	c := &e.Conn
	out := entryJSON{
		ID: e.ID, State: e.State(), Direction: c.Direction.String(), Pod: c.Pod,
		Source: peerForTools(&c.Source), Destination: peerForTools(&c.Destination),
		Service: c.Service.Host, Authority: c.Authority,
		OriginalDst: addrText(c.OriginalDst), ActualDst: addrText(c.ActualDst),
		Policy: c.Policy, Opened: e.Opened, BytesSent: e.BytesSent, BytesReceived: e.BytesReceived,
		Error: e.Error, Hint: e.Hint,
	}
	if !e.Refused {
		out.Hop = c.Hop.String()
	}
	if !e.Closed.IsZero() {
		out.Closed, out.Flags = &e.Closed, e.Flag.String()
	}
	if e.Error != "" {
		out.Stage, out.Fault = e.Stage.String(), e.Fault.String()
	}
	return json.Marshal(out)
}

// State returns "open", "closed" for a good end, "failed", or "refused".
func (e *Entry) State() string {
	switch {
	case e.Refused:
		return "refused"
	case e.Closed.IsZero():
		return "open"
	case e.Error != "":
		return "failed"
	default:
		return "closed"
	}
}

// peerForTools is p with its zero values as empty texts.
func peerForTools(p *Peer) peerJSON {
	return peerJSON{
		Addr: addrText(p.Addr), Workload: p.Workload.Name, Namespace: p.Workload.Namespace,
		Identity: p.Identity.String(), Cluster: p.Workload.Cluster,
	}
}

// addrText is the text of addr, empty for none.
func addrText(addr netip.AddrPort) string {
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
}

// entry is the record as it stands.
func (r *Record) entry() (e Entry) {
	r.fill(&e)
	return e
}

// fill makes e the record as it stands. It writes in place: an Entry is large, and
// a goroutine of a connection has little stack.
func (r *Record) fill(e *Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*e = Entry{}
	e.ID, e.Opened = r.id, r.opened
	e.Conn = r.conn
	e.BytesSent, e.BytesReceived = r.bytes.Sent.Load(), r.bytes.Received.Load()
}

// fillClosed makes e the record after its end.
func (r *Record) fillClosed(e *Entry, end time.Time, flag Flag, err error) {
	r.fill(e)
	e.Closed, e.Flag = end, flag
	e.setError(err)
}

// refusedEntry is what is known of an early refusal.
func refusedEntry(id uint64, now time.Time, d Direction, src, dst netip.AddrPort, err error) Entry {
	e := Entry{ID: id, Opened: now, Closed: now, Refused: true, Flag: FlagOf(err)}
	e.Conn.Direction = d
	e.Conn.Source.Addr, e.Conn.Destination.Addr = src, dst
	e.setError(err)
	return e
}

// setError notes why it ended.
func (e *Entry) setError(err error) {
	if err == nil {
		return
	}
	if te, ok := errors.AsType[*Error](err); ok {
		e.Stage, e.Fault, e.Hint = te.Stage, te.Fault, cut(te.Hint)
		// The hint has a field of its own.
		if err == error(te) {
			err = te.Err
		}
	}
	e.Error = cut(err.Error())
}

// cut shortens text to maxText bytes, between characters. The result shares no
// memory with a longer text.
func cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	end := maxText
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return string([]byte(text[:end]))
}

// sortByID puts the oldest first.
func sortByID(all []Entry) {
	slices.SortFunc(all, func(a, b Entry) int { return cmp.Compare(a.ID, b.ID) })
}

// ring remembers the last entries. Its memory is bounded by its size; it grows
// to it as entries come.
type ring struct {
	mu   sync.Mutex
	size int
	all  []Entry
	next int // where the next entry goes once all is full
	// texts are those of entries that were made for one connection, each once. A text
	// of its own for each entry would keep a page of the heap from being given back,
	// for as long as the ring remembers.
	texts map[string]string
}

// newRing makes a ring of up to size entries.
func newRing(size int) *ring { return &ring{size: size, texts: map[string]string{}} }

// add remembers what fill writes, and forgets the oldest when the ring is full.
func (r *ring) add(fill func(*Entry)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) < r.size {
		r.all = append(r.all, Entry{})
		r.keep(fill, &r.all[len(r.all)-1])
		return
	}
	r.keep(fill, &r.all[r.next])
	r.next = (r.next + 1) % r.size
}

// keep lets fill write e, and shares its own texts: names and policies are the
// picture's. The caller holds r.mu.
func (r *ring) keep(fill func(*Entry), e *Entry) {
	fill(e)
	for _, text := range []*string{&e.Conn.Authority, &e.Error, &e.Hint} {
		*text = r.share(*text)
	}
}

// share returns text, or one like it that another entry has. The caller holds r.mu.
func (r *ring) share(text string) string {
	if text == "" {
		return ""
	}
	if known, ok := r.texts[text]; ok {
		return known
	}
	if len(r.texts) >= r.size {
		clear(r.texts) // those of entries that are gone go with it
	}
	r.texts[text] = text
	return text
}

// entries returns what the ring holds, newest first.
func (r *ring) entries() []Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Entry, 0, len(r.all))
	for i := range r.all {
		out = append(out, r.all[(r.next+len(r.all)-1-i)%len(r.all)])
	}
	return out
}
