package hbone

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/ambit-mesh/ambit/internal/hbone/tls13"
)

// Our records and those of crypto/tls are the same to a peer, whoever has which.
func TestLayersAreTheSameToAPeer(t *testing.T) {
	for _, std := range []struct{ client, server bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
		t.Run(fmt.Sprintf("client std=%v, server std=%v", std.client, std.server), func(t *testing.T) {
			n := newNode(t, nodeConfig{
				pool:   PoolConfig{Tuning: Tuning{StdRecords: std.client}},
				server: ServerConfig{Tuning: Tuning{StdRecords: std.server}},
			})
			s := n.open("10.0.0.1:80")
			if _, own := s.c.tls.(*ownLayer); own == std.client {
				t.Errorf("client: own records %v", own)
			}
			for conn := range n.server.conns {
				if _, own := conn.tls.(*ownLayer); own == std.server {
					t.Errorf("server: own records %v", own)
				}
			}
			rnd := rand.New(rand.NewPCG(5, 6))
			want := make([]byte, 6<<20)
			for i := range want {
				want[i] = byte(rnd.Uint32())
			}
			sent := make(chan error, 1)
			go func() {
				for p := want; len(p) > 0; {
					k := min(len(p), 1+rnd.IntN(100<<10))
					if _, err := s.Write(p[:k]); err != nil {
						sent <- err
						return
					}
					p = p[k:]
				}
				sent <- s.CloseWrite()
			}()
			got, err := io.ReadAll(s)
			if err := errors.Join(err, <-sent); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, want %d, or others", len(got), len(want))
			}
		})
	}
}

// recordPeer is a client that has its records in hand.
type recordPeer struct {
	rec *recordConn
	r   *tls13.Reader
	w   *tls13.Writer
	std *tls.Conn // the same, as crypto/tls has it
	out []byte
}

// newRecordPeer connects to n and does TLS.
func newRecordPeer(t *testing.T, n *node) *recordPeer {
	t.Helper()
	raw := dialTCP(t, n.addr.String())
	conf, _ := n.certs.client(t.Context())
	keys, conf := tls13.Prepare(conf)
	p := &recordPeer{rec: newRecordConn(raw, NewBudget(0))}
	p.std = tls.Client(p.rec, conf)
	if err := p.std.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	state := p.std.ConnectionState()
	var ok bool
	if p.r, p.w, ok = keys.Take(&state, true); !ok {
		t.Fatal("no keys")
	}
	return p
}

// seal adds records with p, of random sizes up to most.
func (rp *recordPeer) seal(t *testing.T, p []byte, most int) {
	for len(p) > 0 {
		n := min(len(p), 1+rand.IntN(most))
		var err error
		if rp.out, err = rp.w.Seal(slices.Grow(rp.out, n+tls13.Overhead), p[:n]); err != nil {
			t.Fatal(err)
		}
		p = p[n:]
	}
}

// send writes what was sealed.
func (rp *recordPeer) send() error {
	_, err := rp.rec.Conn.Write(rp.out)
	rp.out = rp.out[:0]
	return err
}

// frames writes HTTP/2 frames with f.
func frames(f func(fr *http2.Framer)) []byte {
	var b bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	f(fr)
	return b.Bytes()
}

// Frames arrive whole, however they are cut into records: also records that do
// not fit behind the part of a frame that came before.
func TestFramesAcrossRecords(t *testing.T) {
	for _, most := range []int{1, 100, 5000, tls13.MaxPlain} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			n := newNode(t, nodeConfig{})
			p := newRecordPeer(t, n)
			a := &attacker{t: t}
			a.henc = hpack.NewEncoder(&a.hbuf)
			block := bytes.Clone(a.block(hpack.HeaderField{Name: "x", Value: strings.Repeat("~", 15<<10)}))
			body := bytes.Repeat([]byte("0123456789abcdef"), 2<<10)
			p.seal(t, append([]byte(http2.ClientPreface), frames(func(fr *http2.Framer) {
				fr.WriteSettings()
				fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
			})...), most)
			if err := p.send(); err != nil {
				t.Fatal(err)
			}
			fr := http2.NewFramer(nil, p.std)
			fr.SetMaxReadFrameSize(1 << 20)
			var got []byte
			for len(got) < len(body) {
				f, err := fr.ReadFrame()
				if err != nil {
					t.Fatalf("after %d bytes: %v", len(got), err)
				}
				switch f := f.(type) {
				case *http2.HeadersFrame: // accepted
					p.seal(t, frames(func(fr *http2.Framer) {
						fr.WriteData(1, false, body[:len(body)/2])
						fr.WriteData(1, true, body[len(body)/2:])
					}), most)
					if err := p.send(); err != nil {
						t.Fatal(err)
					}
				case *http2.DataFrame:
					got = append(got, f.Data()...)
				}
			}
			if !bytes.Equal(got, body) {
				t.Error("the echo differs")
			}
		})
	}
}

// A peer that asks for new keys all the time is sent away; one that does it now
// and then is answered.
func TestAttackKeyUpdates(t *testing.T) {
	n := newNode(t, nodeConfig{})
	p := newRecordPeer(t, n)
	p.seal(t, append([]byte(http2.ClientPreface), frames(func(fr *http2.Framer) { fr.WriteSettings() })...), 1<<14)
	ping := frames(func(fr *http2.Framer) { fr.WritePing(false, [8]byte{1}) })
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for range 100 {
			p.out, _ = p.w.Update(slices.Grow(p.out, tls13.UpdateLen))
			p.seal(t, ping, 1<<14)
		}
		p.send()
	})
	fr := http2.NewFramer(nil, p.std)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatalf("no GOAWAY: %v", err)
		}
		if f, ok := f.(*http2.GoAwayFrame); ok {
			if f.ErrCode != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("sent away for %v", f.ErrCode)
			}
			break
		}
	}
	if n.limits.get(LimitKeyUpdate) == 0 {
		t.Error("the limit was not reported")
	}
}

// A peer whose records are not good is told so.
func TestBadRecordIsAnsweredWithAnAlert(t *testing.T) {
	for _, std := range []bool{false, true} {
		n := newNode(t, nodeConfig{server: ServerConfig{Tuning: Tuning{StdRecords: std}}})
		p := newRecordPeer(t, n)
		p.seal(t, []byte(http2.ClientPreface), 1<<14)
		p.out[len(p.out)-1] ^= 1
		if err := p.send(); err != nil {
			t.Fatal(err)
		}
		_, err := io.Copy(io.Discard, p.std)
		op, ok := errors.AsType[*net.OpError](err)
		if !ok || op.Op != "remote error" || op.Err.Error() != "tls: bad record MAC" {
			t.Errorf("std=%v: got %v", std, err)
		}
	}
}

// What came with the end of a connection is heard before the end.
func TestLastWordsAreHeard(t *testing.T) {
	for _, std := range []bool{false, true} {
		n := newNode(t, nodeConfig{server: ServerConfig{Tuning: Tuning{StdRecords: std}}})
		var seen error
		gone := make(chan struct{})
		n.server.trace.ConnClosed = func(_ ConnInfo, err error) { seen = err; close(gone) }
		p := newRecordPeer(t, n)
		p.seal(t, append([]byte(http2.ClientPreface), frames(func(fr *http2.Framer) {
			fr.WriteSettings()
			fr.WriteGoAway(0, http2.ErrCodeInternal, []byte("broken"))
		})...), 1<<14)
		p.out = p.w.CloseNotify(slices.Grow(p.out, tls13.AlertLen))
		if err := p.send(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-gone:
		case <-time.After(10 * time.Second):
			t.Fatal("the connection goes on")
		}
		if ga, ok := errors.AsType[*GoAwayError](seen); !ok || ga.Code != http2.ErrCodeInternal {
			t.Errorf("std=%v: ended with %v", std, seen)
		}
	}
}

// When a connection has ended its keys are gone.
func TestKeysAreGoneWithTheConnection(t *testing.T) {
	n := newNode(t, nodeConfig{})
	s := n.open("10.0.0.1:80")
	own := s.c.tls.(*ownLayer)
	n.pool.Close()
	if _, err := own.w.Seal(make([]byte, 0, 100), []byte("x")); err == nil {
		t.Error("the writer still has keys")
	}
	if _, err := own.r.Open(nil, make([]byte, 100)); err == nil {
		t.Error("the reader still has keys")
	}
	if s.c.cfg.keys != nil {
		t.Error("the log of the handshake is kept")
	}
}
