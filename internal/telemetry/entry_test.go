package telemetry

import (
	"strconv"
	"strings"
	"testing"
	"unsafe"
)

// Entries share texts that were made for each of them, and texts that no entry has
// any more are not kept for ever.
func TestRingSharesTexts(t *testing.T) {
	const size = 4
	r := newRing(size)
	add := func(authority string) {
		r.add(func(e *Entry) { *e = Entry{Conn: Conn{Authority: strings.Clone(authority)}} })
	}
	add("10.0.0.1:80")
	add("10.0.0.1:80")
	got := r.entries()
	if a, b := got[0].Conn.Authority, got[1].Conn.Authority; a != b || unsafe.StringData(a) != unsafe.StringData(b) {
		t.Errorf("%q and %q are two texts", a, b)
	}
	for i := range 10 * size {
		add(strconv.Itoa(i))
		if len(r.texts) > size {
			t.Fatalf("%d texts for %d entries", len(r.texts), size)
		}
	}
	if got := r.entries()[0].Conn.Authority; got != strconv.Itoa(10*size-1) {
		t.Errorf("the newest entry says %q", got)
	}
}
