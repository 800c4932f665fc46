package http1

import (
	"strings"

	"github.com/ambit-mesh/ambit/waypoint/message"
)

// framing is what fields say about the message itself and the connection. They
// are not among the fields that are sent on.
type framing struct {
	host         string
	length       int64
	upgrade      string
	expect       string
	hasHost      bool
	hasLength    bool
	chunked      bool
	close        bool
	keepAlive    bool
	namesUpgrade bool // by the Connection field
	trailers     bool // TE: trailers
}

// fields reads the lines of text, up to the empty one, into out and f.
func (r *Reader) fields(text string, out *message.Fields, f *framing) error {
	*out = (*out)[:0]
	r.names = r.names[:0]
	for count := 0; text != "\r\n"; count++ {
		if count == maxFields {
			return errHeadSize
		}
		end := strings.Index(text, "\r\n")
		name, value, err := fieldLine(text[:end])
		if err != nil {
			return err
		}
		text = text[end+2:]
		sendOn, err := r.meaning(name, value, f)
		if err != nil {
			return err
		}
		if sendOn {
			out.Add(name, value)
		}
	}
	return r.dropNamed(out)
}

// fieldLine reads a name and a value. Source: RFC 9112, section 5.
func fieldLine(line string) (name, value string, err error) {
	colon := strings.IndexByte(line, ':')
	switch {
	case line == "" || line[0] == ' ' || line[0] == '\t':
		return "", "", message.Bad("field: continued line, or none")
	case colon < 0:
		return "", "", message.Bad("field: no colon")
	}
	name, value = line[:colon], message.TrimBlank(line[colon+1:])
	if !message.ValidName(name) {
		return "", "", message.Bad("field: name is no token")
	}
	if !message.ValidValue(value) {
		return "", "", message.Bad("field: control character in the value")
	}
	return name, value, nil
}

// meaning notes what a field says about the message or the connection and
// reports whether it is sent on.
func (r *Reader) meaning(name, value string, f *framing) (sendOn bool, err error) {
	switch len(name) { // nearly all names are told apart by their length
	case len("TE"):
		if message.EqualName(name, "TE") {
			for coding := range message.List(value) {
				f.trailers = f.trailers || message.EqualName(coding, "trailers")
			}
			return false, nil
		}
	case len("Host"):
		if message.EqualName(name, "Host") {
			if f.hasHost {
				return false, message.Bad("more than one Host field")
			}
			f.host, f.hasHost = value, true
			return false, nil
		}
	case len("Expect"):
		if message.EqualName(name, "Expect") {
			f.expect = value
		}
	case len("Upgrade"):
		if message.EqualName(name, "Upgrade") {
			if f.upgrade != "" || strings.IndexByte(value, ',') >= 0 {
				return false, message.Bad("Upgrade: want one protocol")
			}
			f.upgrade = value
			return false, nil
		}
	case len("Connection"):
		if message.EqualName(name, "Connection") {
			return false, r.connection(value, f)
		}
	case len("Content-Length"):
		if message.EqualName(name, "Content-Length") {
			return false, f.contentLength(value)
		}
	case len("Transfer-Encoding"):
		if message.EqualName(name, "Transfer-Encoding") {
			return false, f.transferEncoding(value)
		}
	}
	return !message.HopByHop(name), nil
}

// connection reads what concerns this connection only.
func (r *Reader) connection(value string, f *framing) error {
	for name := range message.List(value) {
		switch {
		case message.EqualName(name, "close"):
			f.close = true
		case message.EqualName(name, "keep-alive"):
			f.keepAlive = true
		case message.EqualName(name, "upgrade"):
			f.namesUpgrade = true
		case message.HopByHop(name):
		case !message.MayName(name):
			return message.Bad("Connection: names a field that is not about the connection")
		default:
			r.names = append(r.names, name)
		}
	}
	return nil
}

// dropNamed removes the fields that the Connection field names.
func (r *Reader) dropNamed(out *message.Fields) error {
	for _, name := range r.names {
		out.Del(name)
	}
	return nil
}

// contentLength reads the length of the body: digits, once, and not beside a
// transfer encoding.
func (f *framing) contentLength(value string) error {
	if f.hasLength {
		return message.Bad("more than one Content-Length")
	}
	if f.chunked {
		return message.Bad("Content-Length beside Transfer-Encoding")
	}
	if value == "" || len(value) > maxLengthDigits {
		return message.Bad("Content-Length: no number, or too large")
	}
	for i := range len(value) {
		c := value[i]
		if c < '0' || c > '9' {
			return message.Bad("Content-Length: no number")
		}
		f.length = f.length*10 + int64(c-'0')
	}
	f.hasLength = true
	return nil
}

// transferEncoding takes chunked, once.
func (f *framing) transferEncoding(value string) error {
	switch {
	case f.chunked:
		return message.Bad("more than one Transfer-Encoding")
	case f.hasLength:
		return message.Bad("Transfer-Encoding beside Content-Length")
	case !message.EqualName(value, "chunked"):
		return &message.Error{Status: 501, Text: "Transfer-Encoding: only chunked is known"}
	}
	f.chunked = true
	return nil
}
