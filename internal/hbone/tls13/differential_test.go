package tls13

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// eachWay runs f for both suites and both directions; from has the writer.
func eachWay(t *testing.T, f func(t *testing.T, from, to *end)) {
	for _, id := range bothSuites {
		for _, up := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/up=%v", tls.CipherSuiteName(id), up), func(t *testing.T) {
				useSuite(t, id)
				client, server := connect(t)
				if up {
					f(t, client, server)
				} else {
					f(t, server, client)
				}
			})
		}
	}
}

// data appends records of random sizes with n bytes in all, as we seal them.
func (e *end) data(t testing.TB, stream []byte, rnd *rand.Rand, n int) []byte {
	for n > 0 {
		k := 1 + rnd.IntN(min(n, MaxPlain))
		p := make([]byte, k, k+rnd.IntN(2)) // with and without room for the type
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
		whole := slices.Clone(p[:cap(p)])
		sealed, err := e.w.Seal(make([]byte, 0, k+Overhead), p)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(whole, p[:cap(p)]) {
			t.Fatal("Seal changed what it sealed")
		}
		stream = append(stream, sealed...)
		n -= k
	}
	return stream
}

// raw appends a record of any kind, with padding.
func (e *end) raw(stream []byte, kind byte, padding int, p ...byte) []byte {
	inner := append(append(slices.Clone(p), kind), make([]byte, padding)...)
	rec := appendHead(nil, len(inner)-1)
	rec = append(rec, inner...)
	rec = append(rec, make([]byte, tagLen)...)
	return append(stream, e.w.seal(rec, 0, rec[HeadLen:HeadLen+len(inner)])...)
}

// Each way of crypto/tls to write is read by us, and what we write by it.
func TestBytesPass(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	eachWay(t, func(t *testing.T, from, to *end) {
		want := make([]byte, 300<<10)
		for i := range want {
			want[i] = byte(rnd.Uint32())
		}
		for p := want; len(p) > 0; {
			n := min(len(p), 1+rnd.IntN(40<<10))
			if _, err := from.std.Write(p[:n]); err != nil {
				t.Fatal(err)
			}
			p = p[n:]
		}
		from.std.CloseWrite()
		got := wantSame(t, to, from.wire.output.Bytes())
		if !bytes.Equal(got.data, want) || got.end != "the end" {
			t.Fatalf("got %v", got)
		}
		if _, err := to.r.Open(nil, make([]byte, Overhead)); err == nil {
			t.Error("a record behind the end was opened")
		}
	})
	eachWay(t, func(t *testing.T, from, to *end) {
		stream := from.data(t, nil, rnd, 300<<10)
		stream = append(stream, from.w.CloseNotify(make([]byte, 0, AlertLen))...)
		if got := wantSame(t, to, stream); len(got.data) != 300<<10 || got.end != "the end" {
			t.Fatalf("got %v", got)
		}
	})
}

// What a peer may send beside data, and what it may not.
func TestSameOutcome(t *testing.T) {
	ticket := append([]byte{msgTicket, 0, 0, 18}, make([]byte, 18)...)
	ticket[12], ticket[13], ticket[14] = 0, 4, 1 // lifetime, age, no nonce; a label of 4 bytes
	ticket[13], ticket[14] = 0, 5
	update, wanted := []byte{msgKeyUpdate, 0, 0, 1, 0}, []byte{msgKeyUpdate, 0, 0, 1, 1}
	tests := []struct {
		name  string
		write func(e *end) []byte
		want  string // how it ends; "" is "the end"
	}{
		{"nothing", func(*end) []byte { return nil }, ""},
		{"padding", func(e *end) []byte { return e.raw(nil, typeData, 100, 'a', 'b') }, ""},
		{"only padding", func(e *end) []byte { return e.raw(nil, 0, 100) }, "local error: tls: unexpected message"},
		{"full record with padding", func(e *end) []byte { return e.raw(nil, typeData, 1, make([]byte, MaxPlain)...) }, "local error: tls: record overflow"},
		{"one byte too much", func(e *end) []byte { return e.raw(nil, typeData, 0, make([]byte, MaxPlain+1)...) }, "local error: tls: record overflow"},
		{"much too much", func(e *end) []byte { return e.raw(nil, typeData, 0, make([]byte, MaxPlain+300)...) }, "local error: tls: oversized record received"},
		{"16 empty records", func(e *end) []byte { return repeat(16, func(s []byte) []byte { return e.raw(s, typeData, 0) }) }, ""},
		{"17 empty records", func(e *end) []byte { return repeat(17, func(s []byte) []byte { return e.raw(s, typeData, 0) }) }, "local error: tls: unexpected message"},
		{"empty and full records in turn", func(e *end) []byte {
			return repeat(40, func(s []byte) []byte { return e.raw(e.raw(s, typeData, 0), typeData, 0, 'a') })
		}, ""},
		{"a kind nobody knows", func(e *end) []byte { return e.raw(nil, 99, 0, 'a') }, "local error: tls: unexpected message"},
		{"change of cipher", func(*end) []byte { return []byte{typeChangeCipherSpec, 3, 3, 0, 1, 1} }, ""},
		{"change of cipher, odd", func(*end) []byte { return []byte{typeChangeCipherSpec, 3, 3, 0, 1, 2} }, "local error: tls: error decoding message"},
		{"change of cipher, 17 times", func(*end) []byte {
			return bytes.Repeat([]byte{typeChangeCipherSpec, 3, 3, 0, 1, 1}, 17)
		}, "local error: tls: unexpected message"},
		{"plaintext", func(*end) []byte { return append([]byte{typeData, 3, 3, 0, 40}, make([]byte, 40)...) }, "local error: tls: bad record MAC"},
		{"plaintext alert", func(*end) []byte { return []byte{typeAlert, 3, 3, 0, 2, 1, 0} }, "local error: tls: bad record MAC"},
		{"shorter than a tag", func(*end) []byte { return []byte{typeData, 3, 3, 0, 3, 1, 2, 3} }, "local error: tls: bad record MAC"},
		{"another version", func(e *end) []byte { s := e.raw(nil, typeData, 0, 'a'); s[2] = 4; return s }, "local error: tls: protocol version not supported"},
		{"close_notify, then data", func(e *end) []byte {
			return e.raw(e.raw(e.raw(nil, typeData, 0, 'a'), typeAlert, 0, 1, 0), typeData, 0, 'b')
		}, ""},
		{"user_canceled", func(e *end) []byte { return e.raw(e.raw(nil, typeAlert, 0, 1, 90), typeData, 0, 'a') }, ""},
		{"fatal alert", func(e *end) []byte { return e.raw(nil, typeAlert, 0, 2, 42) }, "remote error: tls: bad certificate"},
		{"warning, which is fatal", func(e *end) []byte { return e.raw(nil, typeAlert, 0, 1, 42) }, "remote error: tls: bad certificate"},
		{"alert of three bytes", func(e *end) []byte { return e.raw(nil, typeAlert, 0, 2, 42, 0) }, "local error: tls: unexpected message"},
		{"key update", func(e *end) []byte { return e.updates(update, 1) }, ""},
		{"key update, answered", func(e *end) []byte { return e.updates(wanted, 1) }, ""},
		{"many key updates with data between", func(e *end) []byte { return e.updates(update, 40) }, ""},
		{"key updates in a row", func(e *end) []byte {
			return repeat(17, func(s []byte) []byte { s = e.raw(s, typeHandshake, 0, update...); e.w.update(); return s })
		}, "local error: tls: unexpected message"},
		{"key update in pieces", func(e *end) []byte {
			s := e.raw(e.raw(e.raw(nil, typeHandshake, 0, update[:2]...), typeHandshake, 0, update[2:4]...), typeHandshake, 0, update[4])
			e.w.update()
			return e.raw(s, typeData, 0, 'a')
		}, ""},
		{"key update with the old keys after it", func(e *end) []byte {
			return e.raw(e.raw(nil, typeHandshake, 0, update...), typeData, 0, 'a')
		}, "local error: tls: bad record MAC"},
		{"key update and more in its record", func(e *end) []byte { return e.raw(nil, typeHandshake, 0, append(update, 24)...) }, "local error: tls: unexpected message"},
		{"key update of 2", func(e *end) []byte { return e.raw(nil, typeHandshake, 0, msgKeyUpdate, 0, 0, 1, 2) }, "local error: tls: error decoding message"},
		{"key update of two bytes", func(e *end) []byte { return e.raw(nil, typeHandshake, 0, msgKeyUpdate, 0, 0, 2, 0, 0) }, "local error: tls: error decoding message"},
		{"data inside a message", func(e *end) []byte {
			return e.raw(e.raw(nil, typeHandshake, 0, update[:3]...), typeData, 0, 'a')
		}, "local error: tls: unexpected message"},
		{"change of cipher inside a message", func(e *end) []byte {
			return append(e.raw(nil, typeHandshake, 0, update[:3]...), typeChangeCipherSpec, 3, 3, 0, 1, 1)
		}, "local error: tls: unexpected message"},
		{"empty message", func(e *end) []byte { return e.raw(nil, typeHandshake, 0) }, "local error: tls: unexpected message"},
		{"finished once more", func(e *end) []byte { return e.raw(nil, typeHandshake, 0, 20, 0, 0, 1, 0) }, "local error: tls: unexpected message"},
		{"message of no known type", func(e *end) []byte { return e.raw(nil, typeHandshake, 0, 77, 0, 0, 0) }, "local error: tls: unexpected message"},
		{"ticket", func(e *end) []byte { return e.raw(e.raw(nil, typeHandshake, 0, ticket...), typeData, 0, 'a') }, "ticket"},
		{"tickets in pieces", func(e *end) []byte {
			two := append(slices.Clone(ticket), ticket...)
			return e.raw(e.raw(e.raw(nil, typeHandshake, 0, two[:7]...), typeHandshake, 0, two[7:]...), typeData, 0, 'a')
		}, "ticket"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			eachWay(t, func(t *testing.T, from, to *end) {
				stream := tt.write(from)
				want := tt.want
				switch {
				case want == "":
					want = "the end"
				case want == "ticket" && to.r.client:
					want = "the end"
				case want == "ticket":
					want = "local error: tls: unexpected message"
				}
				if tt.name == "much too much" {
					want = describe(local(alertRecordOverflow))
				}
				if got := wantSame(t, to, stream); got.end != want {
					t.Errorf("ends with %q, want %q", got.end, want)
				}
			})
		})
	}
}

// repeat appends n times.
func repeat(n int, f func(s []byte) []byte) (stream []byte) {
	for range n {
		stream = f(stream)
	}
	return stream
}

// updates changes the keys n times, with data between.
func (e *end) updates(msg []byte, n int) []byte {
	return repeat(n, func(s []byte) []byte {
		s = e.raw(s, typeHandshake, 0, msg...)
		e.w.update()
		return e.raw(s, typeData, 0, 'a')
	})
}

// A peer that wants new keys of us gets the same bytes from us as from
// crypto/tls, but not before we have something to send.
func TestAnswerToKeyUpdate(t *testing.T) {
	eachWay(t, func(t *testing.T, from, to *end) {
		from.wire.open, to.wire.open = true, true
		for round := range 3 {
			if to.w.Due() {
				t.Fatal("an update is due before it was asked for")
			}
			wantSame(t, to, from.updates([]byte{msgKeyUpdate, 0, 0, 1, 1}, 1))
			if !to.w.Due() {
				t.Fatal("no update is due")
			}
			ours, err := to.w.Update(make([]byte, 0, UpdateLen))
			if err == nil {
				ours, err = to.w.Seal(append(make([]byte, 0, 100), ours...), []byte("hello"))
			}
			if err != nil {
				t.Fatal(err)
			}
			to.std.Write([]byte("hello"))
			if std := to.wire.output.Bytes(); !bytes.Equal(ours, std) {
				t.Fatalf("round %d: %x\ncrypto/tls: %x", round, ours, std)
			}
			if got := wantSame(t, from, ours); string(got.data) != "hello" {
				t.Fatalf("round %d: read %v", round, got)
			}
			to.wire.output.Reset()
		}
		if n := to.r.Updates(); n != 3 {
			t.Errorf("%d updates counted", n)
		}
	})
}

// Keys that are worn are changed, and refuse to be used on.
func TestWornKeys(t *testing.T) {
	eachWay(t, func(t *testing.T, from, to *end) {
		from.w.most = 3
		var stream []byte
		for i := range 10 {
			if from.w.Due() {
				var err error
				if stream, err = from.w.Update(slices.Grow(stream, UpdateLen)); err != nil {
					t.Fatal(err)
				}
			}
			stream = from.raw(stream, typeData, 0, byte('a'+i))
		}
		if got := wantSame(t, to, stream); string(got.data) != "abcdefghij" || to.r.Updates() != 3 {
			t.Errorf("read %q with %d updates", got.data, to.r.Updates())
		}
		from.w.seq = from.w.most
		if _, err := from.w.Seal(make([]byte, 0, 100), []byte("x")); err == nil {
			t.Error("a record was sealed with worn keys")
		}
	})
}

// What an attacker on the way can do ends as with crypto/tls.
func TestTampering(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	tests := []struct {
		name   string
		tamper func(recs [][]byte) [][]byte
	}{
		{"a flipped bit", func(recs [][]byte) [][]byte {
			rec := recs[rnd.IntN(len(recs))]
			rec[rnd.IntN(len(rec))] ^= 1 << rnd.IntN(8)
			return recs
		}},
		{"cut off", func(recs [][]byte) [][]byte {
			i := rnd.IntN(len(recs))
			return append(recs[:i:i], recs[i][:rnd.IntN(len(recs[i]))])
		}},
		{"cut at a record", func(recs [][]byte) [][]byte { return recs[:rnd.IntN(len(recs))] }},
		{"one twice", func(recs [][]byte) [][]byte {
			i := rnd.IntN(len(recs))
			return slices.Insert(recs, i, recs[i])
		}},
		{"one left out", func(recs [][]byte) [][]byte {
			i := rnd.IntN(len(recs))
			return slices.Delete(recs, i, i+1)
		}},
		{"two in the other order", func(recs [][]byte) [][]byte {
			i := rnd.IntN(len(recs) - 1)
			recs[i], recs[i+1] = recs[i+1], recs[i]
			return recs
		}},
		{"sent back to its sender", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 10 {
				eachWay(t, func(t *testing.T, from, to *end) {
					var recs [][]byte
					for range 2 + rnd.IntN(6) {
						recs = append(recs, from.data(t, nil, rnd, 1+rnd.IntN(3000)))
					}
					recs = append(recs, from.updates([]byte{msgKeyUpdate, 0, 0, 1, 0}, 1))
					if tt.tamper == nil {
						wantSame(t, from, slices.Concat(recs...))
						return
					}
					wantSame(t, to, slices.Concat(tt.tamper(recs)...))
				})
			}
		})
	}
}

// FuzzSameOutcome lets the input say what a peer with the right keys sends, and
// what happens to it on the way. The invariant is that we make of it what
// crypto/tls does: the same data, and refused or not.
func FuzzSameOutcome(f *testing.F) {
	f.Add([]byte{0, typeData, 3, 'a', 'b', 'c', 0, typeAlert, 2, 1, 0}, false)
	f.Add([]byte{0, typeHandshake, 5, msgKeyUpdate, 0, 0, 1, 1, 0, typeData, 1, 'x'}, true)
	f.Add([]byte{2, 7, typeChangeCipherSpec, 3, 3, 0, 1, 1}, true)
	f.Add([]byte{1, 9, typeData, 2, 'a', 'b'}, true)
	f.Fuzz(func(t *testing.T, script []byte, up bool) {
		client, server := connect(t)
		from, to := server, client
		if up {
			from, to = client, server
		}
		var stream []byte
		for len(script) >= 3 {
			how, kind, n := script[0], script[1], int(script[2])
			p := script[3:min(len(script), 3+n)]
			script = script[3+len(p):]
			if kind == typeHandshake && len(p) > 0 && p[0] == msgTicket {
				continue // crypto/tls looks into tickets, we do not
			}
			at := len(stream)
			switch how % 4 {
			case 0:
				stream = from.raw(stream, kind, 0, p...)
			case 1: // with padding and a changed byte
				stream = from.raw(stream, kind, int(how), p...)
				stream[at+int(how)%(len(stream)-at)] ^= kind
			case 2: // not protected at all
				stream = append(stream, p...)
			case 3:
				stream = from.raw(stream, kind, 0, p...)
				from.w.update()
			}
		}
		ours, std := to.readOurs(stream), to.readStd(stream)
		if !bytes.Equal(ours.data, std.data) || ours.end != std.end && !refusedEarlier(ours, std) {
			t.Fatalf("ours: %v\ncrypto/tls: %v", ours, std)
		}
	})
}

// refusedEarlier reports whether we have refused a message by its head, while
// crypto/tls went on to wait for the rest of it, or refused it for what was in it.
func refusedEarlier(ours, std outcome) bool {
	waited := std.end == "the end" || std.end == io.ErrUnexpectedEOF.Error() || strings.Contains(std.end, "exceeds maximum")
	return strings.HasPrefix(ours.end, opLocal) && (waited || strings.HasPrefix(std.end, opLocal))
}

// FuzzKeyLog gives arbitrary lines. The invariant is that a line is wiped, and
// that nothing longer than a secret is taken.
func FuzzKeyLog(f *testing.F) {
	f.Add([]byte("CLIENT_TRAFFIC_SECRET_0 00 0102\n"))
	f.Add([]byte("SERVER_TRAFFIC_SECRET_0 00 zz\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		k := new(KeyLog)
		k.Write(line)
		if len(bytes.Trim(line, "\x00")) > 0 || k.clientLen > maxSecret || k.serverLen > maxSecret {
			t.Errorf("left %q, took %d and %d bytes", line, k.clientLen, k.serverLen)
		}
	})
}
