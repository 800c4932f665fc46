package tls13

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The test vector of RFC 8448, section 3: the server's first keys.
func TestKeySchedule(t *testing.T) {
	secret, _ := hex.DecodeString("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")
	s, _ := suiteOf(tls.TLS_AES_128_GCM_SHA256)
	key, err := s.expand(secret, "key", 16)
	if got := hex.EncodeToString(key); err != nil || got != "9f02283b6c9c07efc26bb9f2ac92e356" {
		t.Errorf("key = %s, %v", got, err)
	}
	mask, err := s.expand(secret, "iv", nonceLen)
	if got := hex.EncodeToString(mask); err != nil || got != "cf782b88dd83549aadf1e984" {
		t.Errorf("iv = %s, %v", got, err)
	}
}

// The nonce of a record is the mask with the record's number in its low bytes.
// Source: RFC 8446, section 5.3.
func TestNonce(t *testing.T) {
	var k keys
	copy(k.mask[:], "abcdefghijkl")
	k.seq = 0x0102030405060708
	want := []byte("abcdefghijkl")
	for i := range 8 {
		want[4+i] ^= byte(1 + i)
	}
	if got := k.number(); !bytes.Equal(got, want) {
		t.Errorf("nonce = %x, want %x", got, want)
	}
}

// Nothing of a secret is left where we have put it.
func TestKeysAreGone(t *testing.T) {
	k := new(KeyLog)
	secret := bytes.Repeat([]byte{0xa5}, sha256.Size)
	for _, label := range []string{labelClient, labelServer} {
		line := fmt.Appendf(nil, "%s %x %x\n", label, make([]byte, 32), secret)
		if n, err := k.Write(line); n != len(line) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
		if len(bytes.Trim(line, "\x00")) > 0 {
			t.Errorf("the line is still there: %q", line)
		}
	}
	r, w, ok := k.Take(&tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}, true)
	if !ok {
		t.Fatal("no keys")
	}
	if k.client != [maxSecret]byte{} || k.server != [maxSecret]byte{} {
		t.Error("the log still has the secrets")
	}
	for name, h := range map[string]*keys{"reader": &r.keys, "writer": &w.keys} {
		if bytes.Contains(h.next[:], secret) {
			t.Errorf("%s: the secret of the keys in use is kept", name)
		}
		first := h.next
		if err := h.update(); err != nil || h.next == first || h.next == [maxSecret]byte{} {
			t.Errorf("%s: the secret after an update is the old one or none: %v", name, err)
		}
		h.number()
	}
	r.Wipe()
	w.Wipe()
	for name, h := range map[string]*keys{"reader": &r.keys, "writer": &w.keys} {
		if h.aead != nil || h.mask != [nonceLen]byte{} || h.nonce != [nonceLen]byte{} || h.next != [maxSecret]byte{} {
			t.Errorf("%s: keys are left: %+v", name, h)
		}
	}
	if _, err := r.Open(nil, make([]byte, 100)); err == nil {
		t.Error("a wiped reader opens")
	}
	if _, err := w.Seal(make([]byte, 0, 100), []byte("x")); err == nil {
		t.Error("a wiped writer seals")
	}
}

// Where keys are not ours to have, Take says so, and wipes what it has.
func TestTakeSaysNo(t *testing.T) {
	good := tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
	for _, tt := range []struct {
		name   string
		state  tls.ConnectionState
		labels []string
		digits int
		want   bool
	}{
		{"all well", good, []string{labelClient, labelServer}, 64, true},
		{"ChaCha20", tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_CHACHA20_POLY1305_SHA256}, []string{labelClient, labelServer}, 64, false},
		{"TLS 1.2", tls.ConnectionState{Version: tls.VersionTLS12, CipherSuite: tls.TLS_AES_128_GCM_SHA256}, []string{labelClient, labelServer}, 64, false},
		{"no secrets", good, nil, 64, false},
		{"one secret", good, []string{labelClient}, 64, false},
		{"secrets of another hash", good, []string{labelClient, labelServer}, 96, false},
		{"secrets of the handshake only", good, []string{"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET"}, 64, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := new(KeyLog)
			for _, l := range tt.labels {
				k.Write([]byte(l + " 00 " + strings.Repeat("a", tt.digits) + "\n"))
			}
			if _, _, ok := k.Take(&tt.state, true); ok != tt.want {
				t.Errorf("Take = %v", ok)
			}
			if k.client != [maxSecret]byte{} || k.server != [maxSecret]byte{} {
				t.Error("secrets are left")
			}
		})
	}
}

// A line goes on to whoever the configuration named before us.
func TestPrepareKeepsTheOtherLog(t *testing.T) {
	var other bytes.Buffer
	conf := &tls.Config{KeyLogWriter: &other}
	k, mine := Prepare(conf)
	if mine == conf || conf.KeyLogWriter != &other || !mine.SessionTicketsDisabled {
		t.Errorf("the configuration is not a copy, or allows tickets: %+v", mine)
	}
	k.Write([]byte("X 1 2\n"))
	if other.String() != "X 1 2\n" {
		t.Errorf("the other log got %q", other.String())
	}
}

// In FIPS mode records stay with crypto/tls.
func TestPrepareInFIPSMode(t *testing.T) {
	const in = "TLS13_FIPS_TEST"
	if os.Getenv(in) != "" {
		conf := new(tls.Config)
		if k, same := Prepare(conf); k != nil || same != conf {
			t.Error("keys are taken in FIPS mode")
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), in+"=1", "GODEBUG=fips140=on")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("with GODEBUG=fips140=on: %v\n%s", err, out)
	}
}

// Neither direction allocates.
func TestRecordsDoNotAllocate(t *testing.T) {
	client, server := connect(t)
	p := make([]byte, MaxPlain, MaxPlain+1)
	rec := make([]byte, 0, MaxLen)
	plain := make([]byte, 0, MaxLen)
	n := testing.AllocsPerRun(100, func() {
		sealed, err := client.w.Seal(rec, p)
		if err == nil {
			_, err = server.r.Open(plain, sealed)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations per record", n)
	}
}
