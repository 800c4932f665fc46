package http2

import (
	"runtime"
	"testing"
	"weak"

	"golang.org/x/net/http2/hpack"
)

// The decoder of a connection that waits keeps no buffer alive, and what it is made to
// look at instead changes nothing for the header that comes next.
func TestDecoderKeepsNoBuffer(t *testing.T) {
	var in reader
	in.initHeaders()
	peer := newPeerEncoder()
	for range 2 { // the second time the field comes by its index
		p := make([]byte, readSize)
		kept := weak.Make(&p[0])
		n := copy(p, peer.block(hpack.HeaderField{Name: "name", Value: "value"}))
		in.block = block{}
		if err := in.decode(p[:n]); err != nil {
			t.Fatal(err)
		}
		if b := in.block; b.bad || b.method != "" || len(b.fields) != 1 || b.fields[0].Value != "value" {
			t.Fatalf("the header is %+v", b)
		}
		p = nil
		runtime.GC()
		if kept.Value() != nil {
			t.Error("the decoder keeps the buffer alive")
		}
	}
	runtime.KeepAlive(&in)
}

// peerEncoder is the encoder of a peer.
type peerEncoder struct {
	out []byte
	enc *hpack.Encoder
}

func newPeerEncoder() *peerEncoder {
	e := &peerEncoder{}
	e.enc = hpack.NewEncoder(e)
	return e
}

func (e *peerEncoder) Write(p []byte) (int, error) {
	e.out = append(e.out, p...)
	return len(p), nil
}

// block encodes the fields of one header.
func (e *peerEncoder) block(fields ...hpack.HeaderField) []byte {
	e.out = nil
	for _, f := range fields {
		e.enc.WriteField(f)
	}
	return e.out
}
