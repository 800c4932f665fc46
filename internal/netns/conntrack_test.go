package netns

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// FuzzReadTrack: whatever comes instead of an answer, reading ends, and a
// destination that is found is whole.
func FuzzReadTrack(f *testing.F) {
	client, local := netip.MustParseAddrPort("10.0.0.9:4000"), netip.MustParseAddrPort("127.0.0.1:15053")
	f.Add(trackRequest(client, local, 1))
	answer := trackRequest(client, local, 1)
	binary.NativeEndian.PutUint16(answer[4:], trackSubsystem<<8|trackNew)
	answer[22] = attrTupleOrig // the kind of the tuple; its value stays
	f.Add(answer)
	f.Fuzz(func(t *testing.T, b []byte) {
		dst, done, err := readTrack(b, 1)
		if done && err == nil && !dst.Addr().IsValid() {
			t.Errorf("done without a destination: %x", b)
		}
	})
}

func TestReadTrackFindsOriginal(t *testing.T) {
	client, local := netip.MustParseAddrPort("10.0.0.9:4000"), netip.MustParseAddrPort("127.0.0.1:15053")
	answer := trackRequest(client, local, 7)
	binary.NativeEndian.PutUint16(answer[4:], trackSubsystem<<8|trackNew)
	binary.NativeEndian.PutUint16(answer[22:], attrTupleOrig)
	// The tuple was written from local to client: its destination is the client.
	dst, done, err := readTrack(answer, 7)
	if dst != client || !done || err != nil {
		t.Errorf("readTrack = %v, %v, %v; want %v", dst, done, err, client)
	}
	if _, done, err := readTrack(answer, 8); done || err != nil {
		t.Errorf("answer to another question: %v, %v; want it passed over", done, err)
	}
}
