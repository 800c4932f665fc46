package jwt

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// location is a place of a request where a token may be. It is comparable: rules
// that read the same place share what is found there.
type location struct {
	kind   locationKind
	name   string
	prefix string
}

// locationKind is what kind of place.
type locationKind uint8

const (
	inHeader locationKind = iota
	inParameter
	inCookie
)

// compileLocation checks a place.
func compileLocation(l *waypointapi.TokenLocation) (location, error) {
	switch k := l.GetKind().(type) {
	case *waypointapi.TokenLocation_Header:
		if !message.ValidName(k.Header) {
			return location{}, fmt.Errorf("%q is no name of a header", k.Header)
		}
		return location{inHeader, strings.ToLower(k.Header), l.GetPrefix()}, nil
	case *waypointapi.TokenLocation_Parameter:
		if k.Parameter == "" {
			return location{}, fmt.Errorf("parameter without a name")
		}
		return location{kind: inParameter, name: k.Parameter}, nil
	case *waypointapi.TokenLocation_Cookie:
		if !message.ValidName(k.Cookie) {
			return location{}, fmt.Errorf("%q is no name of a cookie", k.Cookie)
		}
		return location{kind: inCookie, name: k.Cookie}, nil
	}
	return location{}, fmt.Errorf("of no known kind")
}

// bearer is the scheme in whose name case does not count. Source: RFC 9110, section
// 11.1.
const bearer = "Bearer "

// find returns the token at the place, "" when there is none. With several of them
// nobody knows which one the application takes.
func (l location) find(req *message.Request) (token string, refused *Refused) {
	n := 0
	found := func(text string) {
		if text = message.TrimBlank(text); text != "" {
			token, n = text, n+1
		}
	}
	switch l.kind {
	case inHeader:
		for value := range req.Fields.Values(l.name) {
			if rest, ok := l.cut(value); ok {
				found(rest)
			}
		}
	case inParameter:
		if !strings.Contains(req.Query, l.name) && !strings.Contains(req.Query, "%") {
			return "", nil
		}
		for part := range strings.SplitSeq(req.Query, "&") {
			if value, ok := l.parameter(part); ok {
				found(value)
			}
		}
	case inCookie:
		for line := range req.Fields.Values("cookie") {
			for part := range strings.SplitSeq(line, ";") {
				if value, ok := l.cookie(part); ok {
					found(value)
				}
			}
		}
	}
	if n > 1 {
		return "", errTwo
	}
	return token, nil
}

// cut takes the prefix of a header away.
func (l location) cut(value string) (rest string, ok bool) {
	n := len(l.prefix)
	if len(value) < n {
		return "", false
	}
	if value[:n] == l.prefix || l.prefix == bearer && strings.EqualFold(value[:n], bearer) {
		return value[n:], true
	}
	return "", false
}

// parameter reads one name=value of a query.
func (l location) parameter(part string) (value string, ok bool) {
	name, value, _ := strings.Cut(part, "=")
	if plain, err := url.QueryUnescape(name); err != nil || plain != l.name {
		return "", false
	}
	if plain, err := url.QueryUnescape(value); err == nil {
		value = plain
	}
	return value, true
}

// cookie reads one name=value of a cookie field.
func (l location) cookie(part string) (value string, ok bool) {
	name, value, _ := strings.Cut(part, "=")
	if message.TrimBlank(name) != l.name {
		return "", false
	}
	return strings.Trim(message.TrimBlank(value), `"`), true
}

// remove takes a token out of a request.
func (l location) remove(req *message.Request) {
	switch l.kind {
	case inHeader:
		kept := req.Fields[:0]
		for _, f := range req.Fields {
			if message.EqualName(f.Name, l.name) {
				if _, is := l.cut(f.Value); is {
					continue
				}
			}
			kept = append(kept, f)
		}
		req.Fields = kept
	case inParameter:
		var kept []string
		for part := range strings.SplitSeq(req.Query, "&") {
			if _, is := l.parameter(part); !is {
				kept = append(kept, part)
			}
		}
		req.Query = strings.Join(kept, "&")
		req.HasQuery = req.Query != ""
	case inCookie:
		l.removeCookie(req)
	}
}

// removeCookie takes one cookie out of the fields that have it.
func (l location) removeCookie(req *message.Request) {
	fields := req.Fields[:0]
	for _, f := range req.Fields {
		if !message.EqualName(f.Name, "cookie") {
			fields = append(fields, f)
			continue
		}
		var kept []string
		for part := range strings.SplitSeq(f.Value, ";") {
			if _, is := l.cookie(part); !is {
				kept = append(kept, message.TrimBlank(part))
			}
		}
		if f.Value = strings.Join(kept, "; "); f.Value != "" {
			fields = append(fields, f)
		}
	}
	req.Fields = fields
}
