package http1

import (
	"strings"

	"github.com/ambit-mesh/ambit/waypoint/message"
)

// ReadResponse reads the head of the next answer to a request of that method into
// resp, and prepares its body. Errors are those of [Reader.ReadRequest].
func (r *Reader) ReadResponse(method string, resp *message.Response) error {
	raw, err := r.head()
	if err != nil {
		return err
	}
	text := string(raw)
	line, rest, _ := strings.Cut(text, "\r\n")
	if err := statusLine(line, resp); err != nil {
		return err
	}
	var f framing
	if err := r.fields(rest, &resp.Fields, &f); err != nil {
		return err
	}
	if f.hasHost {
		resp.Fields.Add("Host", f.host) // of no meaning in an answer, and no reason to refuse it
	}
	return r.frameResponse(method, resp, &f)
}

// statusLine reads the first line of an answer.
func statusLine(line string, resp *message.Response) error {
	version, rest, _ := strings.Cut(line, " ")
	switch version {
	case "HTTP/1.1":
		resp.Version = message.HTTP11
	case "HTTP/1.0":
		resp.Version = message.HTTP10
	default:
		return message.Bad("status line: no HTTP/1 version")
	}
	code, reason, _ := strings.Cut(rest, " ")
	if len(code) != 3 || code[0] < '1' || code[0] > '9' || code[1] < '0' || code[1] > '9' || code[2] < '0' || code[2] > '9' {
		return message.Bad("status line: no status of three digits")
	}
	if !message.ValidValue(message.TrimBlank(reason)) {
		return message.Bad("status line: control character")
	}
	resp.Status = int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0')
	resp.Reason = message.TrimBlank(reason)
	return nil
}

// frameResponse decides how the body ends. Source: RFC 9112, section 6.3.
func (r *Reader) frameResponse(method string, resp *message.Response, f *framing) error {
	resp.Body, resp.Length, resp.Upgrade = nil, 0, ""
	r.body.close = f.close || resp.Version == message.HTTP10 && !f.keepAlive
	bodyless := method == "HEAD" || resp.Status < 200 || resp.Status == 204 || resp.Status == 304
	switch {
	case resp.Status == 101:
		if f.upgrade == "" {
			return message.Bad("101 without an Upgrade field")
		}
		resp.Upgrade = f.upgrade
	case bodyless && resp.Status < 200 && (f.chunked || f.hasLength):
		return message.Bad("1xx with a body")
	case bodyless:
		if f.hasLength && (method == "HEAD" || resp.Status == 304) {
			resp.Length = f.length // of the body that is not there
		} else if f.chunked || method == "HEAD" || resp.Status == 304 {
			resp.Length = message.Unknown
		}
	case f.chunked && resp.Version == message.HTTP10:
		return message.Bad("Transfer-Encoding in HTTP/1.0")
	case f.chunked:
		resp.Length = message.Unknown
		resp.Body = r.body.begin(r, chunked, 0)
	case f.hasLength:
		if resp.Length = f.length; f.length > 0 {
			resp.Body = r.body.begin(r, counted, f.length)
		}
	default:
		resp.Length = message.Unknown
		resp.Body = r.body.begin(r, untilEnd, 0)
		r.body.close = true
	}
	return nil
}
