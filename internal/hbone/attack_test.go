package hbone

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// An attacker is a peer with a valid certificate that writes whatever frames it
// likes, over a real connection.
type attacker struct {
	t    testing.TB
	raw  *net.TCPConn
	tc   *tls.Conn
	fr   *http2.Framer // for writing
	out  *bytes.Buffer // what fr wrote and flush has not sent
	henc *hpack.Encoder
	hbuf bytes.Buffer

	ended  chan struct{}      // closed when the server has closed
	goAway chan http2.ErrCode // the codes of its GOAWAYs
	resets atomic.Int32
	credit atomic.Int64 // of the connection, in bytes
	answer chan string  // :status of each answer
}

// newAttacker connects from 127.0.0.2 and does both handshakes.
func newAttacker(t testing.TB, n *node) *attacker {
	t.Helper()
	a := newSilent(t, n)
	a.begin(n)
	return a
}

// begin does both handshakes.
func (a *attacker) begin(n *node) {
	a.t.Helper()
	a.handshake(n)
	a.write([]byte(http2.ClientPreface))
	a.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	a.flush()
}

// newSilent connects TCP only.
func newSilent(t testing.TB, n *node) *attacker {
	t.Helper()
	return newSilentFrom(t, n, net.IPv4(127, 0, 0, 2))
}

// newKnocking connects TCP and says the first byte of a TLS record.
func newKnocking(t testing.TB, n *node) *attacker {
	t.Helper()
	a := newSilent(t, n)
	if _, err := a.raw.Write([]byte{22}); err != nil {
		t.Fatal(err)
	}
	return a
}

// newSilentFrom connects TCP only, from an address of loopback.
func newSilentFrom(t testing.TB, n *node, from net.IP) *attacker {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
	raw, err := d.Dial("tcp", n.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	a := &attacker{
		t: t, raw: raw.(*net.TCPConn), out: &bytes.Buffer{},
		ended: make(chan struct{}), goAway: make(chan http2.ErrCode, 8), answer: make(chan string, 1000),
	}
	a.fr = http2.NewFramer(a.out, nil)
	a.fr.AllowIllegalWrites = true
	a.henc = hpack.NewEncoder(&a.hbuf)
	t.Cleanup(func() { raw.Close() })
	return a
}

// handshake does TLS and begins to read.
func (a *attacker) handshake(n *node) {
	a.t.Helper()
	a.tlsClient(n)
	done := make(chan struct{})
	go func() { a.read(); close(done) }()
	a.t.Cleanup(func() { a.raw.Close(); <-done })
}

// tlsClient does TLS.
func (a *attacker) tlsClient(n *node) {
	a.t.Helper()
	conf, _ := n.certs.client(a.t.Context())
	a.tc = tls.Client(a.raw, conf)
	if err := a.tc.HandshakeContext(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
}

// read notes what the server says until it closes.
func (a *attacker) read() {
	defer close(a.ended)
	fr := http2.NewFramer(nil, a.tc)
	fr.SetMaxReadFrameSize(1 << 20)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			select {
			case a.goAway <- f.ErrCode:
			default:
			}
		case *http2.RSTStreamFrame:
			a.resets.Add(1)
		case *http2.WindowUpdateFrame:
			if f.StreamID == 0 {
				a.credit.Add(int64(f.Increment))
			}
		case *http2.MetaHeadersFrame:
			select {
			case a.answer <- f.PseudoValue("status"):
			default:
			}
		}
	}
}

// write sends bytes; flush sends the frames that fr has written.
func (a *attacker) write(p []byte) error {
	a.tc.SetWriteDeadline(time.Now().Add(10 * time.Second))
	_, err := a.tc.Write(p)
	return err
}

func (a *attacker) flush() error {
	defer a.out.Reset()
	return a.write(a.out.Bytes())
}

// connect queues a CONNECT.
func (a *attacker) connect(id uint32, extra ...hpack.HeaderField) {
	a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: a.block(extra...), EndHeaders: true})
}

// block encodes the header of a CONNECT.
func (a *attacker) block(extra ...hpack.HeaderField) []byte {
	a.hbuf.Reset()
	a.henc.WriteField(hpack.HeaderField{Name: ":method", Value: "CONNECT"})
	a.henc.WriteField(hpack.HeaderField{Name: ":authority", Value: "10.0.0.2:80"})
	for _, f := range extra {
		a.henc.WriteField(f)
	}
	return a.hbuf.Bytes()
}

// flood repeats frames, many at a time, until the server has had enough.
func (a *attacker) flood(frames func(i int)) {
	for i := 0; ; i++ {
		frames(i)
		if a.out.Len() < 16<<10 {
			continue
		}
		if a.flush() != nil {
			return
		}
		select {
		case <-a.ended:
			return
		default:
		}
	}
}

// wantSentAway waits until the server has closed, having said code before.
func (a *attacker) wantSentAway(code http2.ErrCode) {
	a.t.Helper()
	select {
	case <-a.ended:
	case <-time.After(20 * time.Second):
		a.t.Fatal("the attacker is still connected after 20 s")
	}
	select {
	case got := <-a.goAway:
		if got != code {
			a.t.Errorf("GOAWAY %v, want %v", got, code)
		}
	default:
		a.t.Errorf("closed without GOAWAY, want %v", code)
	}
}

// attack is one row of TestAttacks.
type attack struct {
	name  string
	limit Limit
	code  http2.ErrCode
	run   func(a *attacker)
}

// open opens stream 1 and waits for its 200.
func (a *attacker) open() {
	a.connect(1)
	a.flush()
	<-a.answer
}

var attacks = []attack{
	{"PING flood", LimitPing, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.flood(func(int) { a.fr.WritePing(false, [8]byte{}) })
	}},
	{"SETTINGS flood", LimitSettings, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.flood(func(int) { a.fr.WriteSettings() })
	}},
	{"PRIORITY flood", LimitControl, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.flood(func(int) { a.fr.WritePriority(1, http2.PriorityParam{StreamDep: 3}) })
	}},
	{"flood of unknown frames", LimitControl, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.flood(func(int) { a.fr.WriteRawFrame(0xee, 0, 1, nil) })
	}},
	{"WINDOW_UPDATE flood", LimitControl, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.open()
		a.flood(func(int) { a.fr.WriteWindowUpdate(1, 1) })
	}},
	{"streams beyond the limit", LimitStreams, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.flood(func(i int) { a.connect(uint32(2*i + 1)) })
	}},
	{"rapid reset", LimitRapidReset, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.flood(func(i int) {
			a.connect(uint32(2*i+1), hpack.HeaderField{Name: "hold", Value: "1"})
			a.fr.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
		})
	}},
	{"rapid reset of requests that have ended", LimitRapidReset, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.flood(func(i int) {
			a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: a.block(), EndHeaders: true, EndStream: true})
			a.fr.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
		})
	}},
	{"requests that are none", LimitBadRequests, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.flood(func(i int) {
			a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: []byte{0x82}, EndHeaders: true})
		})
	}},
	{"large header", LimitHeaderBytes, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.connect(1, hpack.HeaderField{Name: "x", Value: string(bytes.Repeat([]byte{0xff}, 70<<10))})
		a.flush()
	}},
	{"header that grows in decoding", LimitHeaderBytes, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		f := hpack.HeaderField{Name: "x", Value: string(make([]byte, 3<<10))}
		all := make([]hpack.HeaderField, 1000)
		for i := range all {
			all[i] = f
		}
		a.connect(1, all...)
		a.flush()
	}},
	{"CONTINUATION flood", LimitContinuation, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.block()})
		a.flood(func(int) { a.fr.WriteContinuation(1, false, nil) })
	}},
	{"more DATA than the stream's window", LimitWindow, http2.ErrCodeFlowControl, func(a *attacker) {
		a.connect(1, hpack.HeaderField{Name: "deaf", Value: "1"})
		a.flush()
		<-a.answer
		a.flood(func(int) { a.fr.WriteData(1, false, make([]byte, 16<<10)) })
	}},
	{"a window beyond 2^31-1", LimitWindow, http2.ErrCodeFlowControl, func(a *attacker) {
		a.open()
		a.fr.WriteWindowUpdate(1, 1<<31-1)
		a.fr.WriteWindowUpdate(1, 1<<31-1)
		a.flush()
	}},
	{"a connection window beyond 2^31-1", LimitWindow, http2.ErrCodeFlowControl, func(a *attacker) {
		a.fr.WriteWindowUpdate(0, 1<<31-1)
		a.flush()
	}},
	{"an initial window beyond 2^31-1", LimitWindow, http2.ErrCodeFlowControl, func(a *attacker) {
		a.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		a.flush()
	}},
	{"DATA before the 2xx", LimitEarlyData, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.flood(func(i int) {
			a.connect(uint32(2*i+1), hpack.HeaderField{Name: "hold", Value: "1"})
			a.fr.WriteData(uint32(2*i+1), false, make([]byte, 100))
		})
	}},
	{"empty DATA", LimitEmptyData, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.open()
		a.flood(func(int) { a.fr.WriteData(1, false, nil) })
	}},
	{"tiny DATA", LimitTinyData, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.open()
		a.flood(func(int) { a.fr.WriteData(1, false, []byte{1}) })
	}},
	{"padding around nothing", LimitEmptyData, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.open()
		a.flood(func(int) { a.fr.WriteDataPadded(1, false, nil, make([]byte, 255)) })
	}},
	{"DATA on a closed stream", LimitStray, http2.ErrCodeEnhanceYourCalm, func(a *attacker) {
		a.open()
		a.fr.WriteRSTStream(1, http2.ErrCodeCancel)
		a.flood(func(int) { a.fr.WriteData(1, false, make([]byte, 16<<10)) })
	}},
	{"a frame for a stream that never was", "", http2.ErrCodeProtocol, func(a *attacker) {
		a.fr.WriteData(9, false, []byte("x"))
		a.flush()
	}},
	{"a frame beyond our size", "", http2.ErrCodeFrameSize, func(a *attacker) {
		a.write([]byte{0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1})
	}},
	{"garbage in a header", "", http2.ErrCodeCompression, func(a *attacker) {
		a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true})
		a.flush()
	}},
	{"PUSH_PROMISE", "", http2.ErrCodeProtocol, func(a *attacker) {
		a.fr.WriteRawFrame(http2.FramePushPromise, 4, 1, make([]byte, 4))
		a.flush()
	}},
}

// attacked answers like echo, except that "hold" waits for the end and "deaf"
// accepts and does not read.
func attacked(ctx context.Context, in *Incoming) {
	switch {
	case in.Header.Get("hold") != "":
		<-ctx.Done()
	case in.Header.Get("deaf") != "":
		if _, err := in.Accept(nil); err == nil {
			<-ctx.Done()
		}
	default:
		echo(ctx, in)
	}
}

// Each attack ends the attacker's connection with a reason, is counted by the
// name of its limit, leaves another peer's stream alone, and leaves nothing
// behind.
func TestAttacks(t *testing.T) {
	for _, tt := range attacks {
		t.Run(tt.name, func(t *testing.T) {
			budget := NewBudget(64 << 20)
			n := newNode(t, nodeConfig{server: ServerConfig{Handle: attacked, Budget: budget, Tuning: Tuning{linger: 200 * time.Millisecond, tiny: rate{burst: 10000, perSecond: 1000}}}})
			victim := n.open("10.0.0.2:80")
			wantEcho(t, victim)
			settle := measure(t, budget)

			a := newAttacker(t, n)
			tt.run(a)
			a.wantSentAway(tt.code)
			if tt.limit != "" && n.limits.get(tt.limit) == 0 {
				t.Errorf("limit %q was not reported; reported: %v", tt.limit, n.limits.n)
			}
			wantEcho(t, victim)
			settle()
		})
	}
}

// measure notes goroutines and budget; the returned function waits until they
// are back.
func measure(t *testing.T, budget *Budget) (settle func()) {
	t.Helper()
	goroutines, used := runtime.NumGoroutine(), budget.Used()
	return func() {
		t.Helper()
		eventually(t, "goroutines and buffers come back", func() bool {
			return runtime.NumGoroutine() <= goroutines && budget.Used() <= used
		})
	}
}

// A peer that asks and never reads gets no more than maxAnswers held for it.
func TestAttackAnswersUnread(t *testing.T) {
	c := newConnForTest(t)
	c.send.busy = true // the socket takes nothing
	var err error
	for range 3 * maxAnswers / (frameHead + 4) {
		c.mu.Lock()
		c.enqueueReset(1, http2.ErrCodeCancel)
		err = c.enqueueAnswer(4)
		c.mu.Unlock()
		if err != nil {
			break
		}
	}
	var ce *ConnError
	if !errors.As(err, &ce) || ce.Limit != LimitAnswers {
		t.Fatalf("after %d bytes of answers: %v", c.send.queued, err)
	}
	if c.send.queued > maxAnswers+frameHead+4 {
		t.Errorf("%d bytes of answers are held", c.send.queued)
	}
	c.send.stop(io.EOF)
}

// newConnForTest is a connection that nobody serves.
func newConnForTest(t testing.TB) *conn {
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close(); there.Close() })
	rec := newRecordConn(here, NewBudget(0))
	return newConn(connConfig{Tuning: Tuning{}.withDefaults(), budget: rec.budget, group: &group{}}, rec, tls.Client(rec, &tls.Config{}), ConnInfo{})
}

func TestAttackBeforeTheHandshake(t *testing.T) {
	quick := Limits{SilentTime: 200 * time.Millisecond, HandshakeTime: 300 * time.Millisecond, PrefaceTime: 200 * time.Millisecond}
	wantClosed := func(t *testing.T, a *attacker) {
		t.Helper()
		a.raw.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, a.raw); errors.Is(err, errWouldBlock{}) || isTimeout(err) {
			t.Error("the connection is still open after 5 s")
		}
	}
	for _, tt := range []struct {
		name  string
		limit Limit
		run   func(t *testing.T, n *node)
	}{
		{"silent TCP", LimitSilent, func(t *testing.T, n *node) { wantClosed(t, newSilent(t, n)) }},
		{"half a handshake", LimitHandshakeTime, func(t *testing.T, n *node) {
			a := newSilent(t, n)
			a.raw.Write([]byte{22, 3, 1, 2, 0, 1})
			wantClosed(t, a)
		}},
		{"a handshake byte by byte", LimitHandshakeTime, func(t *testing.T, n *node) {
			a := newSilent(t, n)
			a.raw.Write([]byte{22, 3, 1, 64, 0})
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for range tick.C {
				if _, err := a.raw.Write([]byte{1}); err != nil {
					return
				}
			}
		}},
		{"no preface", LimitPreface, func(t *testing.T, n *node) {
			a := newSilent(t, n)
			a.handshake(n)
			a.wantSentAway(http2.ErrCodeProtocol)
		}},
		{"HTTP/1.1 instead of the preface", LimitPreface, func(t *testing.T, n *node) {
			a := newSilent(t, n)
			a.handshake(n)
			a.write([]byte("GET / HTTP/1.1\r\n\r\n"))
			a.wantSentAway(http2.ErrCodeProtocol)
		}},
		{"a preface without SETTINGS", LimitPreface, func(t *testing.T, n *node) {
			a := newSilent(t, n)
			a.handshake(n)
			a.write([]byte(http2.ClientPreface))
			a.wantSentAway(http2.ErrCodeProtocol)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			budget := NewBudget(0)
			n := newNode(t, nodeConfig{server: ServerConfig{Limits: quick, Budget: budget, Tuning: Tuning{linger: 200 * time.Millisecond, tiny: rate{burst: 10000, perSecond: 1000}}}})
			victim := n.open("10.0.0.2:80")
			wantEcho(t, victim)
			settle := measure(t, budget)
			tt.run(t, n)
			eventually(t, "the limit is reported", func() bool { return n.limits.get(tt.limit) > 0 })
			wantEcho(t, victim)
			settle()
		})
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// Handshakes in flight are bounded; the oldest make room, so that an honest
// peer still gets in.
func TestAttackHandshakesInFlight(t *testing.T) {
	n := newNode(t, nodeConfig{server: ServerConfig{Limits: Limits{Handshakes: 20, HandshakesPerIP: 8}}})
	for range 50 {
		newKnocking(t, n)
	}
	eventually(t, "handshakes beyond the limit are ended", func() bool { return n.limits.get(LimitHandshakes) >= 42 })
	wantEcho(t, n.open("10.0.0.2:80"))
	n.server.door.mu.Lock()
	defer n.server.door.mu.Unlock()
	if got := n.server.door.pending.Len(); got > 8 {
		t.Errorf("%d connections of one address in their handshake, want at most 8", got)
	}
}

// Who says nothing costs the process nothing: the kernel has not handed it over.
func TestAttackSilentCrowd(t *testing.T) {
	n := newNode(t, nodeConfig{})
	wantEcho(t, n.open("10.0.0.2:80")) // it serves
	for range 200 {
		newSilent(t, n)
	}
	wantEcho(t, n.open("10.0.0.2:80"))
	n.server.door.mu.Lock()
	defer n.server.door.mu.Unlock()
	if v := n.server.door.byIP[netip.MustParseAddr("127.0.0.2")]; v != nil {
		t.Errorf("%d connections that have said nothing are held", v.conns)
	}
}

// Who comes and goes without a word does not get past the door, and waits before it
// with others like him.
func TestAttackComeAndGo(t *testing.T) {
	n := newNode(t, nodeConfig{})
	wantEcho(t, n.open("10.0.0.2:80")) // it serves
	for range 3 * turnedAwayRate.burst {
		newSilent(t, n).raw.Close()
	}
	spent := func() float64 {
		n.server.door.mu.Lock()
		defer n.server.door.mu.Unlock()
		return n.server.door.turned.spent
	}
	eventually(t, "those who have left are counted", func() bool { return spent() > float64(turnedAwayRate.burst) })
	n.server.door.mu.Lock()
	v := n.server.door.byIP[netip.MustParseAddr("127.0.0.2")]
	n.server.door.mu.Unlock()
	if v != nil {
		t.Errorf("%d of them are held", v.conns)
	}
	wantEcho(t, n.open("10.0.0.2:80"))
}

func TestAttackConnectionsOfOneAddress(t *testing.T) {
	n := newNode(t, nodeConfig{server: ServerConfig{Limits: Limits{ConnsPerIP: 3}}})
	for range 3 {
		newAttacker(t, n).open()
	}
	fourth := newKnocking(t, n)
	fourth.raw.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := fourth.raw.Read(make([]byte, 1)); isTimeout(err) {
		t.Error("a fourth connection is open")
	}
	if n.limits.get(LimitConns) == 0 {
		t.Error("the limit was not reported")
	}
	wantEcho(t, n.open("10.0.0.2:80"))
}

// A single DATA frame before the 2xx costs its stream only.
func TestAttackEarlyDataResetsTheStream(t *testing.T) {
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: attacked}})
	a := newAttacker(t, n)
	a.connect(1, hpack.HeaderField{Name: "hold", Value: "1"})
	a.fr.WriteData(1, false, []byte("x"))
	a.connect(3)
	a.flush()
	if got := <-a.answer; got != "200" {
		t.Errorf("the other stream got %s", got)
	}
	eventually(t, "the stream is reset", func() bool { return a.resets.Load() == 1 })
}

// 100 streams whose peer opens no window hold no buffers; a peer whose socket
// takes nothing is sent away.
func TestAttackSlowReaders(t *testing.T) {
	source := appListener(t, func(c *net.TCPConn) {
		c.SetDeadline(time.Now().Add(30 * time.Second))
		for {
			if _, err := c.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	t.Run("closed windows", func(t *testing.T) {
		budget := NewBudget(0)
		n := newNode(t, nodeConfig{server: ServerConfig{Handle: proxyTo, Budget: budget}})
		a := newSilent(t, n)
		a.handshake(n)
		a.write([]byte(http2.ClientPreface))
		a.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
		for i := range 100 {
			a.hbuf.Reset()
			a.henc.WriteField(hpack.HeaderField{Name: ":method", Value: "CONNECT"})
			a.henc.WriteField(hpack.HeaderField{Name: ":authority", Value: source})
			a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: a.hbuf.Bytes(), EndHeaders: true})
		}
		a.flush()
		for range 100 {
			<-a.answer
		}
		eventually(t, "no buffers are held", func() bool { return budget.Used() < 64<<10 })
	})
	t.Run("a socket that takes nothing", func(t *testing.T) {
		budget := NewBudget(0)
		n := newNode(t, nodeConfig{server: ServerConfig{
			Handle: proxyTo, Budget: budget, Tuning: Tuning{PingInterval: 50 * time.Millisecond, StallTime: 200 * time.Millisecond},
		}})
		settle := measure(t, budget)
		a := newSilent(t, n)
		a.raw.SetReadBuffer(4 << 10)
		conf, _ := n.certs.client(t.Context())
		a.tc = tls.Client(a.raw, conf)
		a.write([]byte(http2.ClientPreface))
		a.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		a.fr.WriteWindowUpdate(0, 1<<30)
		a.hbuf.Reset()
		a.henc.WriteField(hpack.HeaderField{Name: ":method", Value: "CONNECT"})
		a.henc.WriteField(hpack.HeaderField{Name: ":authority", Value: source})
		a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.hbuf.Bytes(), EndHeaders: true})
		a.flush()
		eventually(t, "the peer is sent away", func() bool { return n.limits.get(LimitSlowReader) > 0 })
		settle()
	})
}

// When the budget is used up by one application that does not read, its stream
// is reset, and nothing grows beyond the budget.
func TestAttackBudget(t *testing.T) {
	budget := NewBudget(1 << 20)
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: attacked, Budget: budget}})
	a := newAttacker(t, n)
	a.connect(1, hpack.HeaderField{Name: "deaf", Value: "1"})
	a.flush()
	<-a.answer
	for range 200 { // 3.1 MiB: within the window
		a.fr.WriteData(1, false, make([]byte, 16<<10))
	}
	var wg sync.WaitGroup
	wg.Go(func() { a.flush() })
	most := int64(0)
	deadline := time.Now().Add(15 * time.Second)
	for a.resets.Load() == 0 && time.Now().Before(deadline) {
		most = max(most, budget.Used())
		runtime.Gosched()
	}
	wg.Wait()
	if a.resets.Load() == 0 || n.limits.get(LimitBudget) == 0 {
		t.Fatalf("the stream was not reset; limits reported: %v", n.limits.n)
	}
	if most > 1<<20+256<<10 {
		t.Errorf("%d bytes were held, the budget is 1 MiB", most)
	}
	a.connect(3)
	a.flush()
	if got := <-a.answer; got != "200" {
		t.Errorf("a new stream got %s", got)
	}
}

// Requests that are none get 400 with END_STREAM.
func TestServerBadRequests(t *testing.T) {
	for _, tt := range []struct{ method, authority, extra string }{
		{"GET", "10.0.0.2:80", ""},
		{"CONNECT", "10.0.0.2", ""},
		{"CONNECT", "10.0.0.2:0", ""},
		{"CONNECT", "", ""},
		{"CONNECT", "a b:80", ""},
		{"CONNECT", "10.0.0.2:80", ":scheme"},
		{"CONNECT", "10.0.0.2:80", ":protocol"},
		{"CONNECT", "10.0.0.2:80", "Upper"},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			n := newNode(t, nodeConfig{})
			a := newAttacker(t, n)
			a.henc.WriteField(hpack.HeaderField{Name: ":method", Value: tt.method})
			a.henc.WriteField(hpack.HeaderField{Name: ":authority", Value: tt.authority})
			if tt.extra != "" {
				a.henc.WriteField(hpack.HeaderField{Name: tt.extra, Value: "x"})
			}
			a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.hbuf.Bytes(), EndHeaders: true})
			a.flush()
			if got := <-a.answer; got != "400" {
				t.Errorf("status %s, want 400", got)
			}
		})
	}
}

// Who was sent away is not let in again at once; others are.
func TestAttackPenalty(t *testing.T) {
	n := newNode(t, nodeConfig{server: ServerConfig{Limits: Limits{Penalty: 300 * time.Millisecond}, Tuning: Tuning{linger: time.Millisecond}}})
	a := newAttacker(t, n)
	a.fr.WriteRawFrame(http2.FramePushPromise, 4, 1, make([]byte, 4))
	a.flush()
	a.wantSentAway(http2.ErrCodeProtocol)
	again := newKnocking(t, n)
	again.raw.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := again.raw.Read(make([]byte, 1)); isTimeout(err) {
		t.Error("a second connection is let in at once")
	}
	wantEcho(t, n.open("10.0.0.2:80"))
	if n.limits.get(LimitPenalty) == 0 {
		t.Error("the limit was not reported")
	}
	eventually(t, "the penalty ends", func() bool {
		c := newKnocking(t, n)
		c.raw.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, err := c.raw.Read(make([]byte, 1))
		return isTimeout(err) // open: the server waits for a handshake
	})
}
