package http1

import (
	"strings"

	"github.com/ambit-mesh/ambit/waypoint/message"
)

// ReadRequest reads the head of the next request into req, and prepares its
// body. req.Fields is used again for the fields of this one; the strings stay
// valid.
//
// Errors: io.EOF when the peer has ended between two requests; a
// [*message.Error] when the request is refused, after which the connection can
// only be closed.
func (r *Reader) ReadRequest(req *message.Request) error {
	raw, err := r.head()
	if err != nil {
		return err
	}
	if len(raw) >= 2 && raw[0] == '\r' && raw[1] == '\n' {
		// One empty line before a request is from old clients, and harmless.
		// Source: RFC 9112, section 2.2.
		if raw = raw[2:]; len(raw) < len(headEnd) {
			return message.Bad("head: nothing but empty lines")
		}
	}
	text := string(raw) // the only copy: every field is a part of it
	line, rest, _ := strings.Cut(text, "\r\n")
	target, err := requestLine(line, req)
	if err != nil {
		return err
	}
	var f framing
	if err := r.fields(rest, &req.Fields, &f); err != nil {
		return err
	}
	if err := requestTarget(target, req, &f); err != nil {
		return err
	}
	return r.frameRequest(req, &f)
}

// requestLine reads the first line and returns the target.
func requestLine(line string, req *message.Request) (target string, err error) {
	method, rest, ok := strings.Cut(line, " ")
	if !ok || !message.ValidName(method) {
		return "", message.Bad("request line: no method")
	}
	target, version, ok := strings.Cut(rest, " ")
	if !ok || target == "" {
		return "", message.Bad("request line: want method, target and version with one space between them")
	}
	switch version {
	case "HTTP/1.1":
		req.Version = message.HTTP11
	case "HTTP/1.0":
		req.Version = message.HTTP10
	default:
		if strings.HasPrefix(version, "HTTP/") && len(version) == len("HTTP/1.1") {
			return "", &message.Error{Status: 505, Text: "request line: want HTTP/1.1"}
		}
		return "", message.Bad("request line: no version")
	}
	if method == "CONNECT" {
		return "", &message.Error{Status: 405, Text: "CONNECT inside a tunnel"}
	}
	req.Method = method
	return target, nil
}

// requestTarget reads the target and the host. In absolute form the target names
// the host as well; where the two differ nobody knows which one a server takes.
// Source: RFC 9112, section 3.2.
func requestTarget(target string, req *message.Request, f *framing) error {
	if !f.hasHost {
		return message.Bad("no Host field")
	}
	req.Authority, req.Scheme = f.host, ""
	var port string
	var err error
	if req.Host, port, err = message.CanonicalHost(f.host); err != nil {
		return err
	}
	if target[0] != '/' && target != "*" {
		scheme, after, ok := strings.Cut(target, "://")
		scheme = strings.ToLower(scheme)
		if !ok || scheme != "http" && scheme != "https" {
			return message.Bad("target: neither a path nor an http URL")
		}
		authority, path := after, "/"
		if at := strings.IndexAny(after, "/?"); at >= 0 {
			authority, path = after[:at], after[at:]
		}
		if path[0] == '?' {
			path = "/" + path
		}
		host, absolutePort, err := message.CanonicalHost(authority)
		if err != nil {
			return err
		}
		if host != req.Host || absolutePort != port {
			return message.Bad("target and Host field name different hosts")
		}
		req.Scheme, target = scheme, path
	}
	if target == "*" && req.Method != "OPTIONS" {
		return message.Bad("target: a star is for OPTIONS only")
	}
	req.Target, err = message.ParseTarget(target)
	return err
}

// frameRequest decides how the body ends. Source: RFC 9112, section 6.3.
func (r *Reader) frameRequest(req *message.Request, f *framing) error {
	if f.expect != "" && !message.EqualName(f.expect, "100-continue") {
		return &message.Error{Status: 417, Text: "Expect: only 100-continue is known"}
	}
	req.Trailers, req.Upgrade, req.Body, req.Length = f.trailers, "", nil, 0
	if f.upgrade != "" && f.namesUpgrade && !message.EqualName(f.upgrade, "h2c") {
		req.Upgrade = f.upgrade
	}
	switch {
	case f.chunked && req.Version == message.HTTP10:
		return message.Bad("Transfer-Encoding in HTTP/1.0")
	case f.chunked:
		req.Length = message.Unknown
		req.Body = r.body.begin(r, chunked, 0)
	case f.length > 0:
		req.Length = f.length
		req.Body = r.body.begin(r, counted, f.length)
	}
	if req.Upgrade != "" && req.Body != nil {
		return message.Bad("Upgrade of a request that has a body")
	}
	r.body.close = f.close || req.Version == message.HTTP10 && !f.keepAlive
	return nil
}

// KeepsAlive reports whether the peer sends another message on the connection
// after the current one.
func (r *Reader) KeepsAlive() bool { return !r.body.close && r.err == nil }
