package filter

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Session keeps the requests of one client at one endpoint. Source: Gateway API,
// SessionPersistence. What a client brings back only chooses among the endpoints
// that its request could go to anyway, so it is not signed.
type Session struct {
	name, path string
	header     bool
	absolute   time.Duration // zero: no limit
	permanent  bool
}

// Pin names an endpoint without telling who it is.
type Pin struct {
	Backend  uint32 // hash of where the route sends it
	Endpoint uint64 // hash of the workload
	Since    int64  // seconds since 1970, of the first answer
}

// pinBytes is the length of a pin as clients carry it.
const pinBytes = 4 + 8 + 8

// CompileSession prepares it; nil stays nil.
func CompileSession(s *waypointapi.Session) (*Session, error) {
	if s == nil {
		return nil, nil
	}
	out := &Session{name: s.GetName(), path: s.GetPath(), header: s.GetHeader(), absolute: s.GetAbsoluteTimeout().AsDuration(), permanent: s.GetPermanent()}
	if !message.ValidName(out.name) || message.HopByHop(out.name) || strings.ContainsAny(out.path, ";\r\n") {
		return nil, fmt.Errorf("session by a bad name %q or path %q", out.name, out.path)
	}
	return out, nil
}

// Read is the pin that a request brings; ok is false when it brings none that
// counts.
func (s *Session) Read(req *message.Request, now time.Time) (p Pin, ok bool) {
	if s == nil {
		return Pin{}, false
	}
	text := req.Fields.Get(s.name)
	if !s.header {
		text = ""
		for line := range req.Fields.Values("cookie") {
			if v := CookieValue(line, s.name); v != "" {
				text = v
			}
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) != pinBytes {
		return Pin{}, false
	}
	p = Pin{binary.BigEndian.Uint32(raw), binary.BigEndian.Uint64(raw[4:]), int64(binary.BigEndian.Uint64(raw[12:]))}
	if s.absolute > 0 && now.Sub(time.Unix(p.Since, 0)) >= s.absolute || p.Since > now.Unix() {
		return Pin{}, false
	}
	return p, true
}

// Write has an answer carry a pin.
func (s *Session) Write(fields *message.Fields, p Pin, now time.Time) {
	raw := binary.BigEndian.AppendUint32(nil, p.Backend)
	raw = binary.BigEndian.AppendUint64(raw, p.Endpoint)
	text := base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(raw, uint64(p.Since)))
	if s.header {
		fields.Set(s.name, text)
		return
	}
	text = s.name + "=" + text + "; HttpOnly; Path=/" + strings.TrimPrefix(s.path, "/")
	if s.permanent && s.absolute > 0 {
		left := time.Unix(p.Since, 0).Add(s.absolute).Sub(now)
		text += "; Max-Age=" + strconv.FormatInt(max(1, int64(left.Seconds())), 10)
	}
	fields.Add("Set-Cookie", text)
}

// CookieValue is the value of a cookie in one field; "" when it is not there.
func CookieValue(cookies, name string) string {
	for part := range strings.SplitSeq(cookies, ";") {
		if key, value, ok := strings.Cut(strings.TrimSpace(part), "="); ok && key == name {
			return value
		}
	}
	return ""
}
