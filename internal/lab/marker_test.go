package lab

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// frameOf builds an Ethernet frame with a TCP segment.
func frameOf(src, dst netip.AddrPort, seq uint32, payload []byte) []byte {
	tcp := make([]byte, tcpHeader, tcpHeader+len(payload))
	binary.BigEndian.PutUint16(tcp[0:], src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	tcp[12] = tcpHeader / 4 << 4
	tcp = append(tcp, payload...)

	frame := make([]byte, etherHeader)
	if src.Addr().Is4() {
		binary.BigEndian.PutUint16(frame[12:], etherIPv4)
		ip := make([]byte, ipv4Header)
		ip[0], ip[9] = 0x45, protoTCP
		binary.BigEndian.PutUint16(ip[2:], uint16(ipv4Header+len(tcp)))
		copy(ip[12:], src.Addr().AsSlice())
		copy(ip[16:], dst.Addr().AsSlice())
		return append(append(frame, ip...), tcp...)
	}
	binary.BigEndian.PutUint16(frame[12:], etherIPv6)
	ip := make([]byte, ipv6Header)
	ip[0], ip[6] = 0x60, protoTCP
	binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
	copy(ip[8:], src.Addr().AsSlice())
	copy(ip[24:], dst.Addr().AsSlice())
	return append(append(frame, ip...), tcp...)
}

var (
	alice4 = netip.MustParseAddrPort("10.77.1.2:40000")
	bob4   = netip.MustParseAddrPort("10.77.2.3:7000")
	alice6 = netip.MustParseAddrPort("[fd00::1]:40000")
	bob6   = netip.MustParseAddrPort("[fd00::2]:7000")
)

func TestMarkerSearch(t *testing.T) {
	const marker = "SECRET"
	tests := []struct {
		name   string
		frames [][]byte
		want   int
	}{
		{"in one segment", [][]byte{frameOf(alice4, bob4, 1, []byte("xxSECRETxx"))}, 1},
		{"in one segment of IPv6", [][]byte{frameOf(alice6, bob6, 1, []byte("xxSECRETxx"))}, 1},
		{"twice in one segment", [][]byte{frameOf(alice4, bob4, 1, []byte("SECRETSECRET"))}, 2},
		{"cut by TCP", [][]byte{frameOf(alice4, bob4, 1, []byte("xxSEC")), frameOf(alice4, bob4, 6, []byte("RETxx"))}, 1},
		{"cut into single bytes", [][]byte{
			frameOf(alice4, bob4, 1, []byte("S")), frameOf(alice4, bob4, 2, []byte("E")), frameOf(alice4, bob4, 3, []byte("C")),
			frameOf(alice4, bob4, 4, []byte("R")), frameOf(alice4, bob4, 5, []byte("E")), frameOf(alice4, bob4, 6, []byte("T")),
		}, 1},
		{"cut, with an empty segment between", [][]byte{
			frameOf(alice4, bob4, 1, []byte("SEC")), frameOf(alice4, bob4, 4, nil), frameOf(alice4, bob4, 4, []byte("RET")),
		}, 1},
		{"the sequence number wraps", [][]byte{
			frameOf(alice4, bob4, 0xffffffff, []byte("SEC")), frameOf(alice4, bob4, 2, []byte("RET")),
		}, 1},
		{"halves of two directions are no marker", [][]byte{
			frameOf(alice4, bob4, 1, []byte("SEC")), frameOf(bob4, alice4, 4, []byte("RET")),
		}, 0},
		{"halves with a gap are no marker", [][]byte{
			frameOf(alice4, bob4, 1, []byte("SEC")), frameOf(alice4, bob4, 9, []byte("RET")),
		}, 0},
		{"in what is not TCP", [][]byte{[]byte("a frame of another kind with SECRET in it")}, 1},
		{"nowhere", [][]byte{frameOf(alice4, bob4, 1, []byte("nothing to see"))}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMarkerSearch([]byte(marker))
			for _, f := range tt.frames {
				m.add(f)
			}
			if m.hits != tt.want {
				t.Errorf("hits = %d, want %d", m.hits, tt.want)
			}
		})
	}
}

// A stream that is cut at random must give as many hits as the whole of it.
func TestMarkerSearchAgainstWholeStream(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 2000 {
		// A marker of different letters cannot overlap itself, so that counting
		// per segment and counting in the whole agree.
		marker := []byte("abc")[:1+random.IntN(3)]
		stream := make([]byte, random.IntN(40))
		for i := range stream {
			stream[i] = "abcd"[random.IntN(4)]
		}
		m := newMarkerSearch(marker)
		seq := random.Uint32()
		for rest := stream; len(rest) > 0; {
			n := 1 + random.IntN(len(rest))
			m.add(frameOf(alice4, bob4, seq, rest[:n]))
			seq, rest = seq+uint32(n), rest[n:]
		}
		if want := bytes.Count(stream, marker); m.hits != want {
			t.Fatalf("round %d: %q in %q: hits = %d, want %d", round, marker, stream, m.hits, want)
		}
	}
}

// Whatever passes a wire must not end the search, and a marker that lies in a
// frame as it is must be found.
func FuzzMarkerSearch(f *testing.F) {
	f.Add(frameOf(alice4, bob4, 1, []byte("SECRET")), []byte("SECRET"))
	f.Add(frameOf(alice6, bob6, 1, []byte("x")), []byte("x"))
	f.Add([]byte{}, []byte("m"))
	f.Fuzz(func(t *testing.T, frame, marker []byte) {
		if len(marker) == 0 {
			return
		}
		m := newMarkerSearch(marker)
		m.add(frame)
		seg, ok := parseSegment(frame)
		searched := frame
		if ok {
			searched = seg.payload
		}
		if bytes.Contains(searched, marker) != (m.hits > 0) {
			t.Errorf("hits = %d for marker %q in %q", m.hits, marker, searched)
		}
		m.add(frame) // a frame may come twice
	})
}
