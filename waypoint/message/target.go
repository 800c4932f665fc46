package message

import (
	"strings"
)

// Target is the path and query of a request in canonical form.
type Target struct {
	// Path is the path without its query: dot segments are resolved, slashes that
	// follow each other are one, characters that need no percent encoding have
	// none. It begins with a slash, or is "*".
	Path string
	// AltPath is how a server reads Path that also decodes slashes or drops path
	// parameters (;x=y). Empty when every server reads Path the same way.
	AltPath string
	// Query is what follows the question mark, as it came.
	Query string
	// HasQuery tells an empty query from none.
	HasQuery bool
}

// String is the target as it is sent on.
func (t Target) String() string {
	if !t.HasQuery {
		return t.Path
	}
	return t.Path + "?" + t.Query
}

// ParseTarget reads path and query of a request.
//
// Refused is what no honest client sends and servers read in different ways:
// control and non-ASCII characters, backslashes, fragments, percent signs that
// encode nothing, encoded control characters, and dot segments that lead above
// the root or that only show up once something is decoded that Path keeps.
func ParseTarget(raw string) (Target, error) {
	path, query, has := strings.Cut(raw, "?")
	if err := checkText(query); err != nil {
		return Target{}, err
	}
	t := Target{Path: path, Query: query, HasQuery: has}
	if path == "*" {
		return t, nil
	}
	if path == "" || path[0] != '/' {
		return Target{}, Bad("path: does not begin with a slash")
	}
	if plain(path) {
		return t, nil
	}
	decoded, special, err := decodePath(path)
	if err != nil {
		return Target{}, err
	}
	if t.Path, err = resolve(decoded); err != nil {
		return Target{}, err
	}
	if special {
		if t.AltPath, err = altPath(t.Path); err != nil {
			return Target{}, err
		}
		if t.AltPath == t.Path {
			t.AltPath = ""
		}
	}
	return t, nil
}

// plain reports whether a path is canonical and has one reading only, which is
// true of nearly all.
func plain(path string) bool {
	before := byte(0)
	for i := range len(path) {
		c := path[i]
		if c <= ' ' || c >= 0x7f || !pathBytes[c] || before == '/' && (c == '/' || c == '.') {
			return false
		}
		before = c
	}
	return true
}

// pathBytes are the characters that have one meaning in a path.
var pathBytes = func() (t [256]bool) {
	for c := byte('!'); c < 0x7f; c++ {
		t[c] = true
	}
	for _, c := range `%\;#` {
		t[c] = false
	}
	return t
}()

// checkText refuses what cannot stand in a target.
func checkText(text string) error {
	for i := range len(text) {
		switch c := text[i]; {
		case c <= ' ' || c >= 0x7f:
			return Bad("target: control or non-ASCII character")
		case c == '#':
			return Bad("target: fragment")
		}
	}
	return nil
}

// decodePath decodes what needs no percent encoding and writes the rest in upper
// case. special means that something is left that servers read differently.
func decodePath(path string) (decoded string, special bool, err error) {
	if err := checkText(path); err != nil {
		return "", false, err
	}
	var b strings.Builder
	b.Grow(len(path))
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch c {
		case '\\':
			return "", false, Bad("path: backslash")
		case ';':
			special = true
		case '%':
			v, ok := unhex(path, i+1)
			if !ok {
				return "", false, Bad("path: percent sign that encodes nothing")
			}
			i += 2
			switch {
			case v < ' ' || v == 0x7f:
				return "", false, Bad("path: encoded control character")
			case unreserved(v):
				b.WriteByte(v)
			default:
				special = special || v == '/' || v == '\\' || v == ';' || v == '%'
				b.WriteByte('%')
				b.WriteByte(hexDigits[v>>4])
				b.WriteByte(hexDigits[v&15])
			}
			continue
		}
		b.WriteByte(c)
	}
	return b.String(), special, nil
}

const hexDigits = "0123456789ABCDEF"

// unhex reads two hexadecimal digits at s[i:].
func unhex(s string, i int) (byte, bool) {
	if i+2 > len(s) {
		return 0, false
	}
	high, ok1 := hexValue(s[i])
	low, ok2 := hexValue(s[i+1])
	return high<<4 | low, ok1 && ok2
}

// hexValue is the value of a hexadecimal digit.
func hexValue(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// unreserved characters mean the same whether encoded or not. Source: RFC 3986,
// section 2.3.
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// resolve removes dot segments and empty ones. A path that leads above the root
// is refused: no two servers agree on what it means. So is an empty segment
// before one that goes up, which only some servers count.
func resolve(path string) (string, error) {
	segments := strings.Split(path[1:], "/")
	var kept []string
	slash := false // the path ends in one
	empty := false
	for i, s := range segments {
		last := i == len(segments)-1
		switch s {
		case "":
			empty = empty || !last
			slash = last
		case ".":
			slash = last
		case "..":
			if len(kept) == 0 || empty {
				return "", Bad("path: dot segments that lead above the root, or over an empty segment")
			}
			kept = kept[:len(kept)-1]
			slash = last
		default:
			kept = append(kept, s)
			slash = false
		}
	}
	if len(kept) == 0 {
		return "/", nil
	}
	path = "/" + strings.Join(kept, "/")
	if slash {
		path += "/"
	}
	return path, nil
}

// altPath is the reading of a server that drops parameters of segments, decodes
// slashes and takes backslashes for slashes, more than once if they are encoded
// more than once. A path that reads differently depending on which of that comes
// first is refused, and so is one with a dot segment that shows up on the way.
func altPath(path string) (string, error) {
	path = strings.ReplaceAll(path, "%3B", ";")
	decoded := decodeAll(path)
	dropped := dropParameters(decoded)
	if decodeAll(dropParameters(path)) != dropped {
		return "", Bad("path: encoded slash behind a parameter")
	}
	for _, p := range []string{decoded, dropped} {
		for s := range strings.SplitSeq(p[1:], "/") {
			if s == "." || s == ".." {
				return "", Bad("path: dot segment behind an encoding or before a parameter")
			}
		}
	}
	return resolve(dropped)
}

// decodeAll decodes slashes and what leads to them.
func decodeAll(path string) string {
	for range maxDecodings {
		next := alternative.Replace(path)
		if next == path {
			break
		}
		path = next
	}
	return path
}

// maxDecodings is how many encodings inside each other are looked through. More
// stay as they are, and so does what the server would have to decode.
const maxDecodings = 4

// alternative decodes what some servers decode and we do not.
var alternative = strings.NewReplacer("%2F", "/", "%5C", "/", `\`, "/", "%3B", ";", "%25", "%", "%2E", ".", "%2e", ".", "%2f", "/", "%5c", "/", "%3b", ";")

// dropParameters removes what follows a semicolon in each segment.
func dropParameters(path string) string {
	if strings.IndexByte(path, ';') < 0 {
		return path
	}
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}
