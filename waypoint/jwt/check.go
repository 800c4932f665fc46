package jwt

import (
	"context"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Remote has keys that are fetched.
type Remote interface {
	// Keys are those of a source; nil when none has ever come. The first ones are
	// waited for, as long as wait.
	Keys(ctx context.Context, s Source, wait time.Duration) *Keys
	// Newer are keys that came after old, if there are any now or within wait; else
	// old.
	Newer(ctx context.Context, s Source, old *Keys, wait time.Duration) *Keys
}

// Result is what the tokens of a request say. It never changes. nil is the result
// where nobody asked for tokens.
type Result struct {
	// Token is the good one; nil when there is none. Of several it is the first, in
	// the order of authentications, rules and places.
	Token *Token

	by    []*Authentication // whose rules found tokens good
	all   []*Authentication // that were asked
	found []finding
}

// finding is a good token.
type finding struct {
	rule *Rule
	at   location
	s    *signed
	t    *Token
}

// Check looks at all places of a request where the rules expect tokens. Every token
// that is there must be good by a rule that reads its place. now is when the
// request came.
func Check(ctx context.Context, list []*Authentication, req *message.Request, remote Remote, now time.Time) (*Result, *Refused) {
	if len(list) == 0 || req == nil {
		return nil, nil
	}
	res := &Result{all: list}
	seen := map[location]bool{}
	for _, a := range list {
		for _, r := range a.rules {
			for _, at := range r.locations {
				if seen[at] {
					continue
				}
				seen[at] = true
				text, refused := at.find(req)
				if refused == nil && text != "" {
					refused = res.judge(ctx, at, text, remote, now)
				}
				if refused != nil {
					return nil, refused
				}
			}
		}
	}
	return res, nil
}

// judge has the rules that read a place look at the token that is there.
func (res *Result) judge(ctx context.Context, at location, text string, remote Remote, now time.Time) *Refused {
	s, refused := parse(text)
	if refused != nil {
		return refused
	}
	worst := errIssuer
	for _, a := range res.all {
		for _, r := range a.rules {
			if !r.reads(at) {
				continue
			}
			refused := r.verify(ctx, s, remote, now)
			if refused == nil {
				refused = res.unmistakable(s.claims)
			}
			if refused == nil {
				t := s.claims.token(r.words)
				if res.Token == nil {
					res.Token = t
				}
				res.by = append(res.by, a)
				res.found = append(res.found, finding{r, at, s, t})
				return nil
			}
			if refused != errIssuer {
				worst = refused
			}
		}
	}
	return worst
}

// reads reports whether a rule looks at a place.
func (r *Rule) reads(at location) bool {
	for _, l := range r.locations {
		if l == at {
			return true
		}
	}
	return false
}

// unmistakable refuses a subject by which one issuer would speak for another: with
// a slash in it, issuer and subject together can be those of an issuer whose name is
// longer.
func (res *Result) unmistakable(c *claims) *Refused {
	if !strings.Contains(c.subject, "/") {
		return nil
	}
	principal := c.issuer + "/" + c.subject
	for _, a := range res.all {
		for _, r := range a.rules {
			if len(r.issuer) > len(c.issuer) && strings.HasPrefix(principal, r.issuer+"/") {
				return errPrincipal
			}
		}
	}
	return nil
}

// Apply makes the request what the rules want applications to see: without the
// tokens that were found good, unless they are to go on, and with what rules put
// into fields. Nobody else can have written those fields.
func (res *Result) Apply(req *message.Request) {
	if res == nil {
		return
	}
	for _, a := range res.all {
		for _, r := range a.rules {
			if r.payloadHeader != "" {
				req.Fields.Del(r.payloadHeader)
			}
			for _, h := range r.claimHeaders {
				req.Fields.Del(h.header)
			}
		}
	}
	for _, f := range res.found {
		if !f.rule.forward {
			f.at.remove(req)
		}
	}
	for _, f := range res.found {
		if h := f.rule.payloadHeader; h != "" {
			req.Fields.Add(h, f.s.payload)
		}
		for _, h := range f.rule.claimHeaders {
			if text, ok := f.t.headerValue(h.claim); ok && message.ValidValue(text) {
				req.Fields.Set(h.header, text)
			}
		}
	}
}

// StillBy reports whether every authentication that found a token good is among
// list: what it said goes on to count while that is so.
func (res *Result) StillBy(list []*Authentication) bool {
	if res == nil {
		return true
	}
	for _, a := range res.by {
		found := false
		for _, b := range list {
			found = found || a == b
		}
		if !found {
			return false
		}
	}
	return true
}

// Covers reports whether list is what was asked: then it would say the same again.
func (res *Result) Covers(list []*Authentication) bool {
	if res == nil {
		return len(list) == 0
	}
	if len(list) != len(res.all) {
		return false
	}
	for i := range list {
		if list[i] != res.all[i] {
			return false
		}
	}
	return true
}
