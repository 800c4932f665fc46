package h2

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What we encode, others decode.
func TestFieldsAreReadBack(t *testing.T) {
	for _, n := range []int{0, 1, 126, 127, 128, 254, 255, 300, 20000} {
		value := strings.Repeat("v", n)
		p := AppendStatus(nil, 200)
		p = AppendStatus(p, 404)
		p = AppendIndexed(p, StaticPath, value)
		p = AppendField(p, "x-name", value)
		got, err := hpack.NewDecoder(4096, nil).DecodeFull(p)
		if err != nil {
			t.Fatal(err)
		}
		want := []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: ":status", Value: "404"}, {Name: ":path", Value: value}, {Name: "x-name", Value: value}}
		for i := range want {
			if got[i].Name != want[i].Name || got[i].Value != want[i].Value {
				t.Errorf("length %d: field %d is %v", n, i, got[i].Name)
			}
		}
	}
}

func FuzzParseHead(f *testing.F) {
	f.Add([]byte{0, 0, 4, 8, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) < HeadSize {
			return
		}
		h := ParseHead(p)
		got := ParseHead(AppendHead(nil, h))
		if got != h || h.Stream > 1<<31-1 || h.Length > 1<<24-1 {
			t.Errorf("%x is %+v, then %+v", p, h, got)
		}
		other, err := http2.ReadFrameHeader(strings.NewReader(string(p)))
		if err != nil || other.Length != uint32(h.Length) || other.StreamID != h.Stream || other.Type != h.Kind || other.Flags != h.Flags {
			t.Errorf("%x is %+v, and for others %v, %v", p, h, other, err)
		}
	})
}

func TestBucket(t *testing.T) {
	var b Bucket
	r, now := Rate{Burst: 2, PerSecond: 1}, time.Unix(1, 0)
	for i, want := range []bool{true, true, false} {
		if got := b.Take(r, 1, now); got != want {
			t.Errorf("take %d: %v", i, got)
		}
	}
	if !b.Take(r, 1, now.Add(2*time.Second)) {
		t.Error("nothing was earned in two seconds")
	}
}
