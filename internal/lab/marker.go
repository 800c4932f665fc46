package lab

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// maxFlows bounds what a search remembers: flows seen after so many are searched
// packet by packet only.
const maxFlows = 4096

// markerSearch looks for a marker in Ethernet frames. A marker that TCP has cut
// into two segments is found too, as long as they come in order. It is not safe
// for concurrent use.
type markerSearch struct {
	marker []byte
	flows  map[flowKey]flowTail

	frames int // frames looked at
	bytes  int // bytes looked at
	hits   int // how often the marker was there
	first  *Sighting
}

// flowKey is one direction of a TCP connection.
type flowKey struct {
	src, dst netip.AddrPort
}

// flowTail is the end of what a flow has carried so far.
type flowTail struct {
	next uint32 // the sequence number that continues it
	tail []byte // at most len(marker)-1 bytes
}

// Sighting says where a marker was seen.
type Sighting struct {
	Src, Dst netip.AddrPort // zero when the frame was not TCP
}

func newMarkerSearch(marker []byte) *markerSearch {
	return &markerSearch{marker: bytes.Clone(marker), flows: map[flowKey]flowTail{}}
}

// add looks at one frame.
func (m *markerSearch) add(frame []byte) {
	m.frames++
	m.bytes += len(frame)
	seg, ok := parseSegment(frame)
	if !ok { // not TCP, or cut short: look at all of it
		m.count(bytes.Count(frame, m.marker), flowKey{})
		return
	}
	key := flowKey{seg.src, seg.dst}
	tail := m.flows[key]
	data := seg.payload
	if len(tail.tail) > 0 && tail.next == seg.seq {
		data = append(bytes.Clone(tail.tail), seg.payload...)
	}
	m.count(bytes.Count(data, m.marker), key)
	if len(seg.payload) == 0 {
		return
	}
	if _, known := m.flows[key]; known || len(m.flows) < maxFlows {
		keep := min(len(data), len(m.marker)-1)
		m.flows[key] = flowTail{next: seg.seq + uint32(len(seg.payload)), tail: bytes.Clone(data[len(data)-keep:])}
	}
}

func (m *markerSearch) count(n int, at flowKey) {
	m.hits += n
	if n > 0 && m.first == nil {
		m.first = &Sighting{Src: at.src, Dst: at.dst}
	}
}

// segment is what a search needs of a TCP segment.
type segment struct {
	src, dst netip.AddrPort
	seq      uint32
	payload  []byte
}

// Offsets and sizes of headers, in bytes. Source: IEEE 802.3; RFC 791, section
// 3.1; RFC 8200, section 3; RFC 9293, section 3.1.
const (
	etherHeader = 14
	etherIPv4   = 0x0800
	etherIPv6   = 0x86dd
	ipv4Header  = 20
	ipv6Header  = 40
	tcpHeader   = 20
	protoTCP    = 6
)

// parseSegment takes a TCP segment out of an Ethernet frame; ok is false for
// anything else. IPv6 extension headers make it something else.
func parseSegment(frame []byte) (segment, bool) {
	if len(frame) < etherHeader {
		return segment{}, false
	}
	packet := frame[etherHeader:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherIPv4:
		return parseIPv4(packet)
	case etherIPv6:
		if len(packet) < ipv6Header || packet[6] != protoTCP {
			return segment{}, false
		}
		end := ipv6Header + int(binary.BigEndian.Uint16(packet[4:]))
		if end > len(packet) {
			return segment{}, false
		}
		return parseTCP(packet[ipv6Header:end], packet[8:24], packet[24:40])
	}
	return segment{}, false
}

func parseIPv4(packet []byte) (segment, bool) {
	if len(packet) < ipv4Header || packet[9] != protoTCP {
		return segment{}, false
	}
	header, end := int(packet[0]&0x0f)*4, int(binary.BigEndian.Uint16(packet[2:]))
	fragment := binary.BigEndian.Uint16(packet[6:]) & 0x3fff // more fragments, or an offset
	if header < ipv4Header || end < header || end > len(packet) || fragment != 0 {
		return segment{}, false
	}
	return parseTCP(packet[header:end], packet[12:16], packet[16:20])
}

func parseTCP(tcp, src, dst []byte) (segment, bool) {
	if len(tcp) < tcpHeader {
		return segment{}, false
	}
	header := int(tcp[12]>>4) * 4
	if header < tcpHeader || header > len(tcp) {
		return segment{}, false
	}
	from, _ := netip.AddrFromSlice(src)
	to, _ := netip.AddrFromSlice(dst)
	return segment{
		src:     netip.AddrPortFrom(from, binary.BigEndian.Uint16(tcp[0:])),
		dst:     netip.AddrPortFrom(to, binary.BigEndian.Uint16(tcp[2:])),
		seq:     binary.BigEndian.Uint32(tcp[4:]),
		payload: tcp[header:],
	}, true
}
