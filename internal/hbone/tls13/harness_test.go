package tls13

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	_ "unsafe" // for go:linkname
)

//go:linkname suitesTLS13 crypto/tls.defaultCipherSuitesTLS13
var suitesTLS13 []uint16

// useSuite makes crypto/tls, which does not let one choose, speak one suite.
func useSuite(t testing.TB, id uint16) {
	old := suitesTLS13
	suitesTLS13 = []uint16{id}
	t.Cleanup(func() { suitesTLS13 = old })
}

// bothSuites are those that we speak.
var bothSuites = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384}

// certificate is self-signed, made once.
var certificate = sync.OnceValues(func() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
})

// wire is an end of a connection in memory. What it reads during the handshake
// comes one record at a time; after that from input, and then there is no more.
type wire struct {
	net.Conn
	done   bool
	open   bool // more will come
	left   int  // of the record under way
	input  bytes.Reader
	output bytes.Buffer // written after the handshake
}

func (w *wire) Read(p []byte) (int, error) {
	if w.done {
		n, err := w.input.Read(p)
		if err == io.EOF && w.open {
			err = errNotYet{}
		}
		return n, err
	}
	if w.left == 0 {
		var head [HeadLen]byte
		if _, err := io.ReadFull(w.Conn, head[:]); err != nil {
			return 0, err
		}
		w.left = int(head[3])<<8 | int(head[4])
		return copy(p, head[:]), nil
	}
	n, err := w.Conn.Read(p[:min(len(p), w.left)])
	w.left -= n
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	if w.done {
		return w.output.Write(p)
	}
	return w.Conn.Write(p)
}

func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// errNotYet is what crypto/tls gets where more will come. It is temporary, so
// that crypto/tls does not hold on to it.
type errNotYet struct{}

func (errNotYet) Error() string   { return "nothing yet" }
func (errNotYet) Timeout() bool   { return true }
func (errNotYet) Temporary() bool { return true }

// end is one side of a connection, twice: as crypto/tls has it and as we do.
// Both count the same records.
type end struct {
	wire *wire
	std  *tls.Conn
	r    *Reader
	w    *Writer
}

// connect makes both ends of a connection.
func connect(t testing.TB) (client, server *end) {
	t.Helper()
	cert, err := certificate()
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	client, server = &end{wire: &wire{Conn: a}}, &end{wire: &wire{Conn: b}}
	clientKeys, clientConf := Prepare(&tls.Config{InsecureSkipVerify: true})
	serverKeys, serverConf := Prepare(&tls.Config{Certificates: []tls.Certificate{cert}})
	client.std, server.std = tls.Client(client.wire, clientConf), tls.Server(server.wire, serverConf)
	result := make(chan error, 1)
	go func() { result <- server.std.Handshake() }()
	if err := errors.Join(client.std.Handshake(), <-result); err != nil {
		t.Fatal(err)
	}
	client.take(t, clientKeys, true)
	server.take(t, serverKeys, false)
	return client, server
}

// take makes our half of an end.
func (e *end) take(t testing.TB, keys *KeyLog, client bool) {
	state := e.std.ConnectionState()
	var ok bool
	if e.r, e.w, ok = keys.Take(&state, client); !ok {
		t.Fatalf("no keys for %s", tls.CipherSuiteName(state.CipherSuite))
	}
	e.wire.done = true
}

// outcome is what a receiver made of a stream: the data, and how it ended.
type outcome struct {
	data []byte
	end  string
}

func (o outcome) String() string { return fmt.Sprintf("%d bytes, then %s", len(o.data), o.end) }

// readStd has crypto/tls read stream.
func (e *end) readStd(stream []byte) outcome {
	e.wire.input.Reset(stream)
	data, err := io.ReadAll(e.std)
	return outcome{data, describe(err)}
}

// readOurs reads the same as hbone does. Every third record it opens where it
// lies, the others into a buffer.
func (e *end) readOurs(stream []byte) outcome {
	stream = slices.Clone(stream)
	var data []byte
	for i := 0; len(stream) > 0; i++ {
		if len(stream) < HeadLen {
			return outcome{data, describe(io.ErrUnexpectedEOF)}
		}
		n, err := e.r.Len(stream)
		if err != nil {
			return outcome{data, describe(err)}
		}
		if n > len(stream) {
			return outcome{data, describe(io.ErrUnexpectedEOF)}
		}
		rec := stream[:n:n]
		stream = stream[n:]
		dst := rec[HeadLen:HeadLen]
		if i%3 != 0 {
			dst = make([]byte, 0, n)
		}
		plain, err := e.r.Open(dst, rec)
		if err != nil {
			return outcome{data, describe(err)}
		}
		data = append(data, plain...)
	}
	return outcome{data, describe(nil)}
}

// describe is an error in words that both have in common. Those of crypto/tls
// that do not tell the alert are told apart by their text.
func describe(err error) string {
	op, isOp := errors.AsType[*net.OpError](err)
	header, isHeader := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case err == nil || err == io.EOF || err == error(errNotYet{}):
		return "the end"
	case isOp:
		return op.Op + ": " + op.Err.Error()
	case isHeader && strings.Contains(header.Msg, "version"):
		return describe(local(alertProtocolVersion))
	case isHeader && strings.Contains(header.Msg, "oversized"):
		return describe(local(alertRecordOverflow))
	case strings.Contains(err.Error(), "too many"), strings.Contains(err.Error(), "unexpected handshake message"),
		strings.Contains(err.Error(), "session ticket from a client"), strings.Contains(err.Error(), "buffer not empty"):
		return describe(local(alertUnexpectedMessage))
	}
	return err.Error()
}

// wantSame has both receivers of to read stream and compares.
func wantSame(t testing.TB, to *end, stream []byte) outcome {
	t.Helper()
	ours, std := to.readOurs(stream), to.readStd(stream)
	if !bytes.Equal(ours.data, std.data) || ours.end != std.end {
		t.Fatalf("ours: %v\ncrypto/tls: %v", ours, std)
	}
	return ours
}
