package hbone

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Errors of a header that is complete but not a request or an answer of ours.
var (
	errNotConnect = errors.New("the method is not CONNECT")
	errMalformed  = errors.New("malformed header")
)

// block is a header while its pieces come in. Only the reader uses it.
type block struct {
	stream    uint32 // 0: none is under way
	endStream bool
	fragments []byte
	pieces    int
}

// fields is a decoded header.
type fields struct {
	method, authority, status string
	otherPseudo               bool // :scheme, :path, :protocol or an unknown one
	header                    Header
	bytes                     int // as SETTINGS_MAX_HEADER_LIST_SIZE counts
	malformed                 bool
}

// decoder reads header blocks. Only the reader uses it.
type decoder struct {
	dec   *hpack.Decoder
	limit int
	got   fields
}

// newDecoder returns a decoder for headers of at most limit bytes.
func newDecoder(limit int) *decoder {
	d := &decoder{limit: limit}
	d.dec = hpack.NewDecoder(4096, d.emit)
	d.dec.SetMaxStringLength(limit)
	return d
}

// decode reads a whole block. A block that cannot be decoded ends the
// connection, since the tables of the two ends would no longer agree.
func (d *decoder) decode(p []byte) (fields, error) {
	d.got = fields{}
	defer func() { d.got = fields{} }()
	d.dec.SetEmitEnabled(true)
	_, err := d.dec.Write(p)
	if err == nil {
		err = d.dec.Close()
	}
	d.forget()
	if d.got.bytes > d.limit || errors.Is(err, hpack.ErrStringLength) {
		return fields{}, calm(LimitHeaderBytes, "header of more than %d bytes", d.limit)
	}
	if err != nil {
		return fields{}, protocolError(http2.ErrCodeCompression, "header block: %v", err)
	}
	return d.got, nil
}

// aField is a block of one field, which is in the static table. Source: RFC 7541,
// section 6.1 and appendix A.
var aField = []byte{0x82}

// forget makes the decoder look at something else: it would hold on to the block that
// it has read last, and so to the buffer of up to 1 MiB in which that came.
func (d *decoder) forget() {
	d.dec.SetEmitEnabled(false)
	// Errors would be those of the block before, which decode has seen.
	_, _ = d.dec.Write(aField)
	_ = d.dec.Close()
}

// emit takes one field from the decoder.
func (d *decoder) emit(f hpack.HeaderField) {
	g := &d.got
	if g.bytes += int(f.Size()); g.bytes > d.limit {
		d.dec.SetEmitEnabled(false)
		return
	}
	if !f.IsPseudo() {
		if !validField(f) {
			g.malformed = true
			return
		}
		g.header = append(g.header, f)
		return
	}
	var into *string
	switch f.Name {
	case ":method":
		into = &g.method
	case ":authority":
		into = &g.authority
	case ":status":
		into = &g.status
	default:
		g.otherPseudo = true
		return
	}
	// A pseudo header comes once, and before the others.
	g.malformed = g.malformed || *into != "" || len(g.header) > 0
	*into = f.Value
}

// target is the authority of a CONNECT request. Source: RFC 9113, section 8.5.
func (f *fields) target() (Authority, error) {
	switch {
	case f.malformed || f.status != "":
		return Authority{}, errMalformed
	case f.method != "CONNECT" || f.otherPseudo:
		return Authority{}, errNotConnect
	}
	return ParseAuthority(f.authority)
}

// statusCode is the status of an answer.
func (f *fields) statusCode() (int, error) {
	if f.malformed || f.otherPseudo || f.method != "" || f.authority != "" || len(f.status) != 3 {
		return 0, errMalformed
	}
	code, err := strconv.Atoi(f.status)
	if err != nil || code < 100 {
		return 0, errMalformed
	}
	return code, nil
}

// validField reports whether the name is in lower case and neither name nor
// value holds control characters. Source: RFC 9113, section 8.2.1.
func validField(f hpack.HeaderField) bool {
	if f.Name == "" {
		return false
	}
	for _, b := range []byte(f.Name) {
		if b <= ' ' || b >= 0x7f || b >= 'A' && b <= 'Z' || b == ':' {
			return false
		}
	}
	return !strings.ContainsAny(f.Value, "\x00\r\n")
}

// checkHeader refuses a header of our own that the peer would have to refuse.
func checkHeader(h Header) error {
	for _, f := range h {
		if !validField(f) {
			return fmt.Errorf("header %s: name or value not allowed in HTTP/2", quoteShort(f.Name))
		}
	}
	return nil
}

// Our own headers are literals that do not enter the peer's dynamic table, so
// that any goroutine can encode and the order on the wire does not matter. The
// names of the static table are used. Source: RFC 7541, section 6.2.2 and
// appendix A.
const (
	staticAuthority = 1
	staticMethod    = 2
	staticStatus    = 8
	staticStatus200 = 0x80 | 8 // an indexed field: name and value
)

// appendRequest encodes a CONNECT request.
func appendRequest(p []byte, r Request) []byte {
	p = appendIndexed(p, staticMethod, "CONNECT")
	p = appendIndexed(p, staticAuthority, r.Authority.String())
	return appendHeader(p, r.Header)
}

// appendStatus encodes an answer.
func appendStatus(p []byte, status int, h Header) []byte {
	if status == 200 {
		p = append(p, staticStatus200)
	} else {
		p = appendIndexed(p, staticStatus, strconv.Itoa(status))
	}
	return appendHeader(p, h)
}

// appendIndexed encodes a field whose name is in the static table below 15.
func appendIndexed(p []byte, index byte, value string) []byte {
	return appendString(append(p, index), value)
}

// appendHeader encodes fields with literal names.
func appendHeader(p []byte, h Header) []byte {
	for _, f := range h {
		p = appendString(append(p, 0), f.Name)
		p = appendString(p, f.Value)
	}
	return p
}

// appendString encodes s without Huffman coding.
func appendString(p []byte, s string) []byte {
	n := len(s)
	if n < 127 {
		return append(append(p, byte(n)), s...)
	}
	p = append(p, 127)
	for n -= 127; n >= 128; n >>= 7 {
		p = append(p, byte(n)|0x80)
	}
	return append(append(p, byte(n)), s...)
}
