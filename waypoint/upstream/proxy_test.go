package upstream

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/config"
	"github.com/ambit-mesh/ambit/waypoint/http1"
)

// readProxy is the oracle of proxyHeader: it reads a header as a server does.
func readProxy(r *bufio.Reader) (from, to netip.AddrPort, err error) {
	if first, _ := r.Peek(len(proxySignature)); string(first) == proxySignature {
		head := make([]byte, 16)
		if _, err := io.ReadFull(r, head); err != nil {
			return from, to, err
		}
		rest := make([]byte, binary.BigEndian.Uint16(head[14:]))
		if _, err := io.ReadFull(r, rest); err != nil {
			return from, to, err
		}
		size := map[byte]int{0x11: 4, 0x21: 16}[head[13]]
		switch {
		case head[12] == 0x20 && len(rest) == 0:
			return from, to, nil
		case head[12] != 0x21 || size == 0 || len(rest) != 2*size+4:
			return from, to, fmt.Errorf("header %x %x", head, rest)
		}
		src, _ := netip.AddrFromSlice(rest[:size])
		dst, _ := netip.AddrFromSlice(rest[size : 2*size])
		return netip.AddrPortFrom(src, binary.BigEndian.Uint16(rest[2*size:])), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(rest[2*size+2:])), nil
	}
	line, err := r.ReadString('\n')
	if err != nil || len(line) > 107 {
		return from, to, fmt.Errorf("line %q: %w", line, err)
	}
	if line == "PROXY UNKNOWN\r\n" {
		return from, to, nil
	}
	var family, src, dst string
	var srcPort, dstPort uint16
	if _, err := fmt.Sscanf(line, "PROXY %s %s %s %d %d\r\n", &family, &src, &dst, &srcPort, &dstPort); err != nil {
		return from, to, err
	}
	a, errA := netip.ParseAddr(src)
	b, errB := netip.ParseAddr(dst)
	if a.Is4() != (family == "TCP4") || b.Is4() != (family == "TCP4") {
		return from, to, errors.New("family " + family)
	}
	return netip.AddrPortFrom(a, srcPort), netip.AddrPortFrom(b, dstPort), errors.Join(errA, errB)
}

// A server reads what was written, and then what follows.
func TestProxyHeader(t *testing.T) {
	for _, tt := range []struct{ name, from, to, wantFrom, wantTo string }{
		{"IPv4", "10.0.0.1:5000", "192.0.2.1:80", "10.0.0.1:5000", "192.0.2.1:80"},
		{"IPv6", "[2001:db8::1]:5000", "[2001:db8::2]:65535", "[2001:db8::1]:5000", "[2001:db8::2]:65535"},
		{"IPv4 to IPv6", "10.0.0.1:5000", "[2001:db8::2]:80", "[::ffff:10.0.0.1]:5000", "[2001:db8::2]:80"},
		{"IPv6 to IPv4", "[2001:db8::1]:5000", "192.0.2.1:80", "[2001:db8::1]:5000", "[::ffff:192.0.2.1]:80"},
		{"IPv4 in IPv6", "[::ffff:10.0.0.1]:5000", "192.0.2.1:80", "10.0.0.1:5000", "192.0.2.1:80"},
		{"nobody", "", "192.0.2.1:80", "", ""},
	} {
		for _, version := range []waypointapi.ProxyProtocol{waypointapi.ProxyProtocol_PROXY_V1, waypointapi.ProxyProtocol_PROXY_V2} {
			t.Run(fmt.Sprint(tt.name, " ", version), func(t *testing.T) {
				parse := func(s string) (a netip.AddrPort) {
					if s != "" {
						a = netip.MustParseAddrPort(s)
					}
					return a
				}
				r := bufio.NewReader(io.MultiReader(bytes.NewReader(proxyHeader(version, parse(tt.from), parse(tt.to))), strings.NewReader("GET")))
				from, to, err := readProxy(r)
				if err != nil {
					t.Fatal(err)
				}
				if from != parse(tt.wantFrom) || to != parse(tt.wantTo) {
					t.Errorf("from %v to %v, want %s and %s", from, to, tt.wantFrom, tt.wantTo)
				}
				if rest, _ := io.ReadAll(r); string(rest) != "GET" {
					t.Errorf("then %q", rest)
				}
			})
		}
	}
}

// A connection on which an endpoint was told of one client is not used for another, and
// none is used for longer than it may.
func TestConnectionsOfOneClient(t *testing.T) {
	c := newCluster(nil, Key{})
	h := c.host("a")
	of := func(client string) *Endpoint {
		return &Endpoint{h: h, from: netip.MustParseAddrPort(client), Traffic: &config.Traffic{Traffic: &waypointapi.Traffic{ProxyProtocol: waypointapi.ProxyProtocol_PROXY_V1}}}
	}
	one, other := of("10.0.0.1:1"), of("10.0.0.2:1")
	mine := &conn1{h: h, way: one.way()}
	old := &conn1{h: h, way: one.way(), until: time.Now().Add(-time.Second)}
	h.idle = append(h.idle, mine, old)
	if got, _ := c.acquire(t.Context(), other, false); got.one != nil {
		t.Error("another client's connection is used")
	}
	if got, _ := c.acquire(t.Context(), one, false); got.one != mine {
		t.Error("its own connection is not used, or one that is too old")
	}
	if got, _ := c.acquire(t.Context(), one, false); got.one != nil {
		t.Error("a connection is used that is too old")
	}
}

// Clients that call once each leave only so many connections.
func TestFewConnectionsOfOneClientAreKept(t *testing.T) {
	c := newCluster(nil, Key{})
	h := c.host("a")
	var first *conn1
	for i := range 3 * maxTold {
		here, there := net.Pipe()
		defer there.Close()
		k := &conn1{h: h, way: way{from: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(i+1))}, raw: piped{c: here}, r: http1.NewReader(here)}
		if c.conns++; first == nil {
			first = k
		}
		c.keep(k)
	}
	if len(h.idle) != maxTold || c.conns != maxTold || slices.Contains(h.idle, first) {
		t.Errorf("%d kept, %d counted; the first is kept: %v", len(h.idle), c.conns, slices.Contains(h.idle, first))
	}
	c.retire()
}

// piped is a connection in memory, of which nothing but Close is used.
type piped struct {
	link
	c net.Conn
}

// Close implements [net.Conn].
func (p piped) Close() error { return p.c.Close() }

// So many requests are tried again at once, and no more; each ends once.
func TestBeginRetry(t *testing.T) {
	c := newCluster(nil, Key{})
	e := &Endpoint{h: c.host("a"), Traffic: &config.Traffic{Traffic: &waypointapi.Traffic{Limits: &waypointapi.Limits{Retries: 2}}}}
	first, ok1 := e.BeginRetry()
	_, ok2 := e.BeginRetry()
	_, ok3 := e.BeginRetry()
	if !ok1 || !ok2 || ok3 {
		t.Errorf("%v %v %v, want the third refused", ok1, ok2, ok3)
	}
	first()
	if _, ok := e.BeginRetry(); !ok {
		t.Error("one has ended, and another is refused")
	}
	free := &Endpoint{h: c.host("a"), Traffic: &config.Traffic{Traffic: &waypointapi.Traffic{}}}
	if end, ok := free.BeginRetry(); !ok || end != nil {
		t.Error("refused without a limit")
	}
}

// What an endpoint answers and that none came count together, or apart where the users
// want that.
func TestCountApart(t *testing.T) {
	together := &waypointapi.Outlier{Consecutive_5Xx: 3}
	apart := &waypointapi.Outlier{Consecutive_5Xx: 3, ConsecutiveLocal: wrapperspb.UInt32(2)}
	never := &waypointapi.Outlier{Consecutive_5Xx: 3, ConsecutiveLocal: wrapperspb.UInt32(0)}
	for _, tt := range []struct {
		name     string
		o        *waypointapi.Outlier
		statuses []int
		want     int // the answer that is one too many, from 1; 0: none
	}{
		{"together", together, []int{500, 0, 500}, 3},
		{"together, good in between", together, []int{500, 0, 200, 500}, 0},
		{"apart: connections", apart, []int{0, 0}, 2},
		{"apart: answers", apart, []int{500, 500, 500}, 3},
		{"apart: an answer, even a bad one, ends a row of none", apart, []int{0, 500, 0, 500}, 0},
		{"apart: none says nothing of answers", apart, []int{500, 0, 500, 500}, 4},
		{"apart and never", never, []int{0, 0, 0, 0, 0, 0}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var ill illness
			got := 0
			for i, status := range tt.statuses {
				if ill.count(status, tt.o) && got == 0 {
					got = i + 1
				}
			}
			if got != tt.want {
				t.Errorf("answer %d is one too many, want %d", got, tt.want)
			}
		})
	}
}
