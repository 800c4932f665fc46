package hbone

import (
	"runtime"
	"testing"
	"time"
	"weak"

	"golang.org/x/net/http2/hpack"
)

// What a connection has read out of a buffer keeps the buffer alive no longer: after
// a rest the collector has all of it.
func TestNothingKeepsABuffer(t *testing.T) {
	for _, tt := range []struct {
		name string
		use  func(p []byte) (user any)
	}{
		{"an opened record that the parser had no room for", func(p []byte) any {
			l := &ownLayer{rec: &recordConn{}, rest: p[:8]}
			if n, _, err := l.read(make([]byte, 100)); n != 8 || err != nil {
				t.Fatalf("read %d bytes, %v", n, err)
			}
			return l
		}},
		{"a header block", func(p []byte) any {
			d := newDecoder(serverHeaderList)
			if _, err := d.decode(headerIn(p, hpack.HeaderField{Name: ":method", Value: "CONNECT"}, hpack.HeaderField{Name: "x", Value: "y"})); err != nil {
				t.Fatal(err)
			}
			return d
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := make([]byte, classPayload[huge])
			kept := weak.Make(&p[0])
			user := tt.use(p)
			p = nil
			runtime.GC()
			if kept.Value() != nil {
				t.Errorf("%T keeps the buffer alive", user)
			}
			runtime.KeepAlive(user)
		})
	}
}

// headerIn encodes fields at the front of p.
func headerIn(p []byte, fields ...hpack.HeaderField) []byte {
	w := frontOf{p: p[:0]}
	enc := hpack.NewEncoder(&w)
	for _, f := range fields {
		enc.WriteField(f)
	}
	return w.p
}

// frontOf is a writer into what it has room for.
type frontOf struct{ p []byte }

func (w *frontOf) Write(p []byte) (int, error) {
	w.p = append(w.p, p...)
	return len(p), nil
}

// What the decoder is made to look at afterwards changes nothing: names that were
// put into the table are found by the next block, and a block may again begin with a
// new size of the table.
func TestDecoderForgetsNothingElse(t *testing.T) {
	var w frontOf
	enc, d := hpack.NewEncoder(&w), newDecoder(serverHeaderList)
	for _, size := range []uint32{4096, 0, 4096} {
		enc.SetMaxDynamicTableSize(size)
		for range 2 { // the second by its index
			w.p = nil
			enc.WriteField(hpack.HeaderField{Name: "name", Value: "value"})
			f, err := d.decode(w.p)
			if err != nil || len(f.header) != 1 || f.header.Get("name") != "value" || f.method != "" {
				t.Fatalf("table of %d bytes: %+v, %v", size, f, err)
			}
		}
	}
}

// Who rests after bulk begins again with a buffer for what is small: a PING does not
// take 1 MiB.
func TestReadingAfterARestBeginsSmall(t *testing.T) {
	r := newRecordConn(nil, NewBudget(0))
	for _, tt := range []struct {
		name  string
		since time.Duration
		want  int
	}{
		{"at once", 0, huge},
		{"a moment ago", bulkMemory / 2, huge},
		{"a rest ago", 2 * bulkMemory, record},
	} {
		r.inClass, r.inSince = huge, time.Time{}
		if tt.since > 0 {
			r.inSince = time.Now().Add(-tt.since)
		}
		if got := r.classNow(); got != tt.want {
			t.Errorf("%s: class %d, want %d", tt.name, got, tt.want)
		}
	}
}
