package waypoint

import (
	"encoding/binary"
	"testing"
)

// Messages are counted the same however their bytes are cut, as a reader counts them
// that has all at once.
func FuzzGRPCMessages(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 2, 0, 0}, uint8(3))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0}, uint8(1))
	f.Fuzz(func(t *testing.T, body []byte, step uint8) {
		want := uint64(0)
		for rest := body; len(rest) >= 5; want++ {
			n := uint64(binary.BigEndian.Uint32(rest[1:]))
			rest = rest[5:]
			rest = rest[min(n, uint64(len(rest))):]
		}
		var g grpcMessages
		for rest := body; len(rest) > 0; {
			n := min(int(step)%7+1, len(rest))
			g.pass(rest[:n])
			rest = rest[n:]
		}
		if g.count != want {
			t.Errorf("%d messages, want %d in %v", g.count, want, body)
		}
	})
}
