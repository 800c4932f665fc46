package jwt

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/json"
)

// Token is what a good token says. It never changes.
type Token struct {
	// Principal is issuer/subject; "" when the token has no subject.
	Principal string
	Audiences []string
	Presenter string // azp
	Claims    map[string]any

	words []string // claims that are lists of words
}

// alwaysWords are claims that are lists of words for everybody. Source: RFC 8693,
// section 4.2; the ecosystem adds permission.
var alwaysWords = []string{"scope", "permission"}

// claims are what a payload says, before anything is believed.
type claims struct {
	all             map[string]any
	issuer, subject string
	audiences       []string
	expires, begins float64 // seconds; NaN: never said
	presenter       string
}

// errClaims is why a payload is not read. What exactly is wrong is nothing for the
// sender.
var errClaims = errors.New("the payload is no set of claims")

// parseClaims reads a payload. A claim that is there twice is an error: of two
// readers each may take another one.
func parseClaims(payload []byte) (*claims, error) {
	c := &claims{expires: math.NaN(), begins: math.NaN()}
	strict, err := json.UnmarshalStrict(payload, &c.all, json.DisallowDuplicateFields)
	if err != nil || len(strict) > 0 || c.all == nil {
		return nil, errClaims
	}
	ok := true
	text := func(name string) (string, bool) {
		v, there := c.all[name]
		if !there {
			return "", false
		}
		s, is := v.(string)
		ok = ok && is
		return s, true
	}
	c.issuer, _ = text("iss")
	c.subject, _ = text("sub")
	c.presenter, _ = text("azp")
	for name, into := range map[string]*float64{"exp": &c.expires, "nbf": &c.begins} {
		if v, there := c.all[name]; there {
			n, is := number(v)
			ok = ok && is
			*into = n
		}
	}
	switch aud := c.all["aud"].(type) {
	case nil:
	case string:
		c.audiences = []string{aud}
	case []any:
		for _, a := range aud {
			s, is := a.(string)
			ok = ok && is
			c.audiences = append(c.audiences, s)
		}
	default:
		ok = false
	}
	if !ok {
		return nil, errClaims
	}
	return c, nil
}

// number reads a claim that is a number.
func number(v any) (float64, bool) {
	switch n := v.(type) {
	case int64:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

// seconds is a time as claims write it.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// token is what is made of claims that are believed.
func (c *claims) token(words []string) *Token {
	t := &Token{Audiences: c.audiences, Presenter: c.presenter, Claims: c.all, words: words}
	if c.subject != "" {
		t.Principal = c.issuer + "/" + c.subject
	}
	return t
}

// Values are the texts of a claim, of which names are those of inner claims: itself,
// its elements when it is a list, its words when it is a list of words.
func (t *Token) Values(names []string) []string {
	if t == nil {
		return nil
	}
	var at any = t.Claims
	for _, name := range names {
		object, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = object[name]
	}
	if list, ok := at.([]any); ok {
		var out []string
		for _, v := range list {
			if text, ok := plain(v); ok {
				out = append(out, text)
			}
		}
		return out
	}
	text, ok := plain(at)
	if !ok {
		return nil
	}
	if t.isWords(strings.Join(names, ".")) {
		if words := strings.Fields(text); len(words) != 1 || words[0] != text {
			return append(words, text)
		}
	}
	return []string{text}
}

// isWords reports whether a claim is a list of words.
func (t *Token) isWords(name string) bool {
	for _, list := range [][]string{alwaysWords, t.words} {
		for _, w := range list {
			if w == name {
				return true
			}
		}
	}
	return false
}

// plain is the text of a claim that is no object and no list.
func plain(v any) (string, bool) {
	switch x := v.(type) {
	case string:
		return x, true
	case bool:
		return strconv.FormatBool(x), true
	case int64:
		return strconv.FormatInt(x, 10), true
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64), true
	}
	return "", false
}

// headerValue is a claim as a header shows it: of the whole name, else of the names
// between its dots.
func (t *Token) headerValue(name string) (string, bool) {
	if v, there := t.Claims[name]; there {
		return plain(v)
	}
	var at any = t.Claims
	for part := range strings.SplitSeq(name, ".") {
		object, ok := at.(map[string]any)
		if !ok {
			return "", false
		}
		at = object[part]
	}
	return plain(at)
}
