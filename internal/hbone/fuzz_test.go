package hbone

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/ambit-mesh/ambit/internal/memnet"
)

func FuzzParseAuthority(f *testing.F) {
	for _, s := range []string{
		"10.0.0.7:8080", "[2001:db8::1]:443", "web.shop.svc.cluster.local:80", "[::ffff:10.0.0.1]:1", "a:0", "[fe80::1%eth0]:80",
		"1.2.3:80", "A.b.:65535", "x:+80", "::1:80", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAuthority(s)
		if err != nil {
			return
		}
		again, err := ParseAuthority(a.String())
		if err != nil || again != a {
			t.Errorf("ParseAuthority(%q) = %v, but its text parses to %v, %v", s, a, again, err)
		}
		ap, isAddr := a.AddrPort()
		host, isHost := a.Host()
		if isAddr == isHost || a.Port() == 0 {
			t.Errorf("%q is an address: %v, a host: %v, port %d", s, isAddr, isHost, a.Port())
		}
		if isAddr && AuthorityFrom(ap) != a {
			t.Errorf("AuthorityFrom(%v) = %v", ap, AuthorityFrom(ap))
		}
		if isHost {
			if b, err := AuthorityFromHost(host, a.Port()); err != nil || a != b {
				t.Errorf("AuthorityFromHost(%q) = %v, %v", host, b, err)
			}
		}
	})
}

// fuzzBytes is the most that a connection of a fuzz test may make us hold: what
// one input can bring, and the buffers it is in.
const fuzzBytes = 8 << 20

// frameSeeds are inputs to begin with.
func frameSeeds() [][]byte {
	var seeds [][]byte
	add := func(write func(fr *http2.Framer)) {
		var b bytes.Buffer
		fr := http2.NewFramer(&b, nil)
		fr.AllowIllegalWrites = true
		write(fr)
		seeds = append(seeds, b.Bytes())
	}
	add(func(fr *http2.Framer) { fr.WriteData(1, false, []byte("data")); fr.WriteData(1, true, nil) })
	add(func(fr *http2.Framer) { fr.WriteDataPadded(1, false, []byte("data"), make([]byte, 9)) })
	add(func(fr *http2.Framer) { fr.WriteRSTStream(1, http2.ErrCodeCancel) })
	add(func(fr *http2.Framer) { fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}) })
	add(func(fr *http2.Framer) { fr.WriteWindowUpdate(0, 1000); fr.WriteWindowUpdate(1, 1<<31-1) })
	add(func(fr *http2.Framer) { fr.WritePing(false, [8]byte{1}); fr.WritePing(true, [8]byte{1}) })
	add(func(fr *http2.Framer) { fr.WriteGoAway(1, http2.ErrCodeNo, []byte("bye")) })
	add(func(fr *http2.Framer) {
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte{2, 7}})
		fr.WriteContinuation(3, true, []byte("CONNECT\x01\x0410:1"))
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, BlockFragment: []byte{0x88}, EndHeaders: true, EndStream: true, PadLength: 3})
	})
	add(func(fr *http2.Framer) {
		fr.WritePriority(1, http2.PriorityParam{})
		fr.WriteRawFrame(99, 1, 1, []byte("x"))
	})
	return seeds
}

// within fails when f has not returned after 20 s.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { f(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s hangs", what)
	}
}

// FuzzServer sends arbitrary bytes, after a CONNECT that was accepted, to a
// server that holds a stream of another peer.
func FuzzServer(f *testing.F) {
	for _, seed := range frameSeeds() {
		f.Add(seed)
	}
	n := &memNode{certs: newCerts(f), pool: NewPool(PoolConfig{}, nil)}
	budget := NewBudget(0)
	ln, _ := n.net.Listen(memAddr)
	srv := NewServer(ServerConfig{TLS: n.certs.server, Handle: echo, Budget: budget, Tuning: Tuning{linger: time.Millisecond}, Limits: Limits{Penalty: -1}}, nil)
	ctx, cancel := context.WithCancel(f.Context())
	served := make(chan struct{})
	go func() { srv.Serve(ctx, ln); close(served) }()
	f.Cleanup(func() { n.pool.Close(); srv.Cut(io.EOF); cancel(); <-served })
	victim, err := n.pool.Open(f.Context(), n.target(Key{}), request(f, "10.0.0.2:80"))
	if err != nil {
		f.Fatal(err)
	}
	conf, _ := n.certs.client(f.Context())
	f.Fuzz(func(t *testing.T, p []byte) {
		raw, err := n.net.Dial(t.Context(), netip.MustParseAddr("10.9.9.9"), memAddr)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		tc := tls.Client(raw, conf)
		var hello bytes.Buffer
		hello.WriteString(http2.ClientPreface)
		fr := http2.NewFramer(&hello, nil)
		fr.WriteSettings()
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: appendRequest(nil, request(t, "10.0.0.2:80")), EndHeaders: true})
		within(t, "the server", func() {
			tc.Write(hello.Bytes())
			awaitAnswer(tc)
			tc.Write(p)
			tc.CloseWrite()
			raw.CloseWrite()
			io.Copy(io.Discard, raw)
		})
		if used := budget.Used(); used > fuzzBytes {
			t.Errorf("the server holds %d bytes", used)
		}
		wantEcho(t, victim)
	})
}

// awaitAnswer reads frames until HEADERS come.
func awaitAnswer(r io.Reader) {
	fr := http2.NewFramer(nil, r)
	fr.SetMaxReadFrameSize(1 << 20)
	for {
		h, err := fr.ReadFrame()
		if err != nil || h.Header().Type == http2.FrameHeaders {
			return
		}
	}
}

// FuzzClient sends arbitrary bytes, after an answer of 200, to a client whose
// pool holds a stream to another peer.
func FuzzClient(f *testing.F) {
	for _, seed := range frameSeeds() {
		f.Add(seed)
	}
	budget := NewBudget(0)
	n := &memNode{certs: newCerts(f), pool: NewPool(PoolConfig{Budget: budget, Tuning: Tuning{linger: time.Millisecond}}, nil)}
	ln, _ := n.net.Listen(memAddr)
	srv := NewServer(ServerConfig{TLS: n.certs.server, Handle: echo}, nil)
	ctx, cancel := context.WithCancel(f.Context())
	served := make(chan struct{})
	go func() { srv.Serve(ctx, ln); close(served) }()
	f.Cleanup(func() { n.pool.Close(); srv.Cut(io.EOF); cancel(); <-served })
	victim, err := n.pool.Open(f.Context(), n.target(Key{Source: "victim"}), request(f, "10.0.0.2:80"))
	if err != nil {
		f.Fatal(err)
	}
	conf, _ := n.certs.server(f.Context())
	f.Fuzz(func(t *testing.T, p []byte) {
		here, there := memnet.Pipe(netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.9.9.9:15008"))
		target := n.target(Key{Source: "fuzz"})
		target.Dial = func(context.Context) (net.Conn, error) { return here, nil }
		evil := make(chan struct{})
		go func() {
			defer close(evil)
			tc := tls.Server(there, conf)
			fr := http2.NewFramer(tc, nil)
			fr.WriteSettings()
			io.ReadFull(tc, make([]byte, len(http2.ClientPreface)))
			awaitAnswer(tc) // the CONNECT
			fr.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, []byte{0x88})
			tc.Write(p)
			tc.CloseWrite()
			there.CloseWrite()
			io.Copy(io.Discard, there)
			there.Close()
		}()
		within(t, "the client", func() {
			s, err := n.pool.Open(t.Context(), target, request(t, "10.0.0.2:80"))
			if err == nil {
				s.Write([]byte("hello"))
				io.Copy(io.Discard, s)
				s.Close()
				<-s.c.done
			}
			<-evil
		})
		if used := budget.Used(); used > fuzzBytes {
			t.Errorf("the client holds %d bytes", used)
		}
		wantEcho(t, victim)
	})
}

// Whatever frames and records the payload comes in, padded or not, between
// frames of another stream: the bytes are the same.
func TestDataArrivesWhateverTheFraming(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		n := newNode(t, nodeConfig{})
		a := newSilent(t, n)
		conf, _ := n.certs.client(t.Context())
		a.tc = tls.Client(a.raw, conf)
		a.write([]byte(http2.ClientPreface))
		a.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 24})
		a.fr.WriteWindowUpdate(0, 1<<24)
		a.connect(1)
		a.connect(3)
		a.flush()
		awaitAnswer(a.tc)
		awaitAnswer(a.tc)
		want := map[uint32][]byte{}
		for range 300 {
			id := uint32(1 + 2*r.IntN(2))
			p := randomBytes(1 + r.IntN(1<<r.IntN(15)))
			want[id] = append(want[id], p...)
			if r.IntN(3) == 0 {
				a.fr.WriteDataPadded(id, false, p, make([]byte, r.IntN(200)))
			} else {
				a.fr.WriteData(id, false, p)
			}
		}
		a.fr.WriteData(1, true, nil)
		a.fr.WriteDataPadded(3, true, nil, make([]byte, 7))
		done := make(chan struct{})
		go func() {
			defer close(done)
			for p := a.out.Bytes(); len(p) > 0; {
				k := min(len(p), 1+r.IntN(1<<r.IntN(18)))
				a.write(p[:k])
				p = p[k:]
			}
		}()
		got := map[uint32][]byte{}
		a.raw.SetReadDeadline(time.Now().Add(20 * time.Second))
		for ended := 0; ended < 2; {
			var h [9]byte
			if _, err := io.ReadFull(a.tc, h[:]); err != nil {
				t.Fatalf("seed %d: %v; got %d and %d of %d and %d bytes", seed, err, len(got[1]), len(got[3]), len(want[1]), len(want[3]))
			}
			p := make([]byte, int(h[0])<<16|int(h[1])<<8|int(h[2]))
			io.ReadFull(a.tc, p)
			if http2.FrameType(h[3]) == http2.FrameData {
				id := binary.BigEndian.Uint32(h[5:])
				got[id] = append(got[id], p...)
				ended += int(h[4] & 1)
			}
		}
		<-done
		for id := range want {
			if !bytes.Equal(got[id], want[id]) {
				t.Errorf("seed %d: stream %d echoed %d bytes that differ from the %d sent", seed, id, len(got[id]), len(want[id]))
			}
		}
	}
}
