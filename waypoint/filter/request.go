package filter

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/waypoint/jwt"
	"github.com/ambit-mesh/ambit/waypoint/match"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Subject is what policies decide about: one request, or one connection of which
// only its bytes are known.
type Subject struct {
	// Conn is the connection, with the caller that the tunnel has proven.
	Conn policy.Facts
	// HTTP is nil for a connection that carries something else.
	HTTP *message.Request
	// RemoteIP is the address of the first client, as far as it is believed.
	RemoteIP netip.Addr
	// Token is what a checked token says; nil without one.
	Token *jwt.Token
	// Approved are names of providers that have let the request pass.
	Approved []string
}

// list is a positive and a negative list of comparisons.
type list struct{ yes, not []match.Text }

// asks reports whether anything is asked for.
func (l *list) asks() bool { return len(l.yes)+len(l.not) > 0 }

// holds compares the values that there are: one of them has to hit the positive
// list, and none the negative one.
func (l *list) holds(values ...string) bool {
	return (len(l.yes) == 0 || anyMatches(l.yes, values)) && !anyMatches(l.not, values)
}

// holdsEach compares a field that came more than once, of which nobody knows which
// value an application takes: who allows does so when every value is good, who
// denies does so when any is bad.
func (l *list) holdsEach(restrictive bool, values []string) bool {
	if restrictive {
		if len(values) == 0 {
			return l.holds()
		}
		return slices.ContainsFunc(values, func(v string) bool { return l.holds(v) })
	}
	return l.holds(values...) && !slices.ContainsFunc(values, func(v string) bool { return !l.holds(v) })
}

// anyMatches reports whether a comparison holds for a value.
func anyMatches(texts []match.Text, values []string) bool {
	for i := range texts {
		if slices.ContainsFunc(values, texts[i].Matches) {
			return true
		}
	}
	return false
}

// requestMatch is what one match asks of a request.
type requestMatch struct {
	methods, hosts, principals, headers, claims, audiences, presenters list

	paths, notPaths []match.Pattern
	remote, notRem  policy.Addresses
	header          string
	claim           []string
}

// compileRequest prepares a match. What is not known is an error: a comparison
// that is left out makes a policy mean something else.
func compileRequest(m *waypointapi.RequestMatch) (*requestMatch, error) {
	out := &requestMatch{header: m.GetHeader(), claim: m.GetClaim()}
	for _, l := range []struct {
		name     string
		yes, not []*waypointapi.StringMatch
		into     *list
	}{
		{"methods", m.GetMethods(), m.GetNotMethods(), &out.methods},
		{"hosts", m.GetHosts(), m.GetNotHosts(), &out.hosts},
		{"request principals", m.GetRequestPrincipals(), m.GetNotRequestPrincipals(), &out.principals},
		{"header", m.GetHeaderValues(), m.GetNotHeaderValues(), &out.headers},
		{"claim", m.GetClaimValues(), m.GetNotClaimValues(), &out.claims},
		{"audiences", m.GetAudiences(), m.GetNotAudiences(), &out.audiences},
		{"presenters", m.GetPresenters(), m.GetNotPresenters(), &out.presenters},
	} {
		var err error
		if l.into.yes, err = match.CompileTexts(l.yes); err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		if l.into.not, err = match.CompileTexts(l.not); err != nil {
			return nil, fmt.Errorf("not %s: %w", l.name, err)
		}
	}
	var err error
	if out.paths, err = match.CompilePatterns(m.GetPaths()); err != nil {
		return nil, fmt.Errorf("paths: %w", err)
	}
	if out.notPaths, err = match.CompilePatterns(m.GetNotPaths()); err != nil {
		return nil, fmt.Errorf("not paths: %w", err)
	}
	if out.headers.asks() && out.header == "" || out.claims.asks() && len(out.claim) == 0 {
		return nil, fmt.Errorf("values of nothing")
	}
	out.remote, out.notRem = policy.CompileAddresses(m.GetRemoteIps()), policy.CompileAddresses(m.GetNotRemoteIps())
	return out, nil
}

// asks reports whether anything is asked for.
func (m *requestMatch) asks() bool {
	return m.methods.asks() || m.hosts.asks() || m.principals.asks() || m.headers.asks() || m.claims.asks() ||
		m.audiences.asks() || m.presenters.asks() || len(m.paths)+len(m.notPaths) > 0 || !m.remote.Empty() || !m.notRem.Empty()
}

// holds reports whether the request, read with that path, has all that is asked
// for.
func (m *requestMatch) holds(s *Subject, path string, restrictive bool) bool {
	req := s.HTTP
	if m.methods.asks() && !m.methods.holds(req.Method) {
		return false
	}
	if m.hosts.asks() && !m.hosts.holds(req.Host, req.Authority) {
		return false
	}
	if !m.holdsPath(path) {
		return false
	}
	if m.headers.asks() && !m.headers.holdsEach(restrictive, slices.Collect(req.Fields.Values(m.header))) {
		return false
	}
	if !m.remote.Empty() && !m.remote.Contains(s.RemoteIP) || m.notRem.Contains(s.RemoteIP) {
		return false
	}
	return m.holdsToken(s.Token)
}

// holdsPath compares the path.
func (m *requestMatch) holdsPath(path string) bool {
	hit := func(p match.Pattern) bool { return p.Matches(path) }
	return (len(m.paths) == 0 || slices.ContainsFunc(m.paths, hit)) && !slices.ContainsFunc(m.notPaths, hit)
}

// holdsToken compares what the token says; without one nothing is there.
func (m *requestMatch) holdsToken(t *jwt.Token) bool {
	var principals, presenters, audiences, claims []string
	if t != nil {
		principals, audiences = present(t.Principal), t.Audiences
		presenters = present(t.Presenter)
		if m.claims.asks() {
			claims = t.Values(m.claim)
		}
	}
	return m.principals.holds(principals...) && m.presenters.holds(presenters...) && m.audiences.holds(audiences...) && m.claims.holds(claims...)
}

// present is a list of one, or of none.
func present(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}
