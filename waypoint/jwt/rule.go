package jwt

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Authentication says which tokens are believed. It never changes.
type Authentication struct {
	name, namespace string
	scope           securityapi.Scope
	attached        bool
	rules           []*Rule
}

// Rule is about the tokens of one issuer.
type Rule struct {
	issuer        string
	audiences     []string
	inline        *Keys  // nil: they are fetched
	source        Source // zero: inline, or there are none
	timeout       time.Duration
	locations     []location
	forward       bool
	payloadHeader string
	claimHeaders  []claimHeader
	words         []string
}

// claimHeader is a field that gets a claim.
type claimHeader struct{ header, claim string }

// Source is where keys are fetched. It is comparable.
type Source struct {
	// URI of a key set, or of an issuer.
	URI string
	// Discover says that URI is an issuer, whose discovery document names the set.
	Discover bool
}

// defaultTimeout is how long a request waits for keys where the users say nothing.
// Source: Istio's JWTRule.
const defaultTimeout = 5 * time.Second

// Compile checks what the control plane sent. Keys that cannot be read are no error:
// then nobody's signature is good, which refuses what the rule is about.
func Compile(a *waypointapi.Authentication) (*Authentication, error) {
	out := &Authentication{name: a.GetNamespace() + "/" + a.GetName(), namespace: a.GetNamespace(), scope: a.GetScope(), attached: a.GetAttached()}
	if a.GetName() == "" {
		return nil, fmt.Errorf("authentication in namespace %q has no name", a.GetNamespace())
	}
	if _, known := securityapi.Scope_name[int32(out.scope)]; !known {
		return nil, fmt.Errorf("authentication %s: scope %d is not known", out.name, out.scope)
	}
	for i, m := range a.GetRules() {
		r, err := compileRule(m)
		if err != nil {
			return nil, fmt.Errorf("authentication %s, rule %d: %w", out.name, i, err)
		}
		out.rules = append(out.rules, r)
	}
	return out, nil
}

// compileRule checks one rule.
func compileRule(m *waypointapi.TokenRule) (*Rule, error) {
	r := &Rule{
		issuer: m.GetIssuer(), audiences: m.GetAudiences(), timeout: cmp.Or(m.GetTimeout().AsDuration(), defaultTimeout),
		forward: m.GetForward(), payloadHeader: m.GetPayloadHeader(), words: m.GetWordClaims(),
	}
	if r.issuer == "" {
		return nil, errors.New("no issuer")
	}
	switch k := m.GetKeys().(type) {
	case *waypointapi.TokenRule_Inline:
		if keys, err := ParseKeys([]byte(k.Inline)); err == nil {
			r.inline = keys
		} else {
			r.inline = &Keys{}
		}
	case *waypointapi.TokenRule_Uri:
		r.source = Source{URI: k.Uri}
	case *waypointapi.TokenRule_Discover:
		r.source = Source{URI: r.issuer, Discover: true}
	}
	if r.payloadHeader != "" && !message.ValidName(r.payloadHeader) {
		return nil, fmt.Errorf("%q is no name of a header", r.payloadHeader)
	}
	for _, h := range m.GetClaimHeaders() {
		if !message.ValidName(h.GetHeader()) {
			return nil, fmt.Errorf("%q is no name of a header", h.GetHeader())
		}
		r.claimHeaders = append(r.claimHeaders, claimHeader{h.GetHeader(), h.GetClaim()})
	}
	if len(m.GetLocations()) > maxLocations {
		return nil, fmt.Errorf("%d places for tokens, want at most %d", len(m.GetLocations()), maxLocations)
	}
	for i, l := range m.GetLocations() {
		one, err := compileLocation(l)
		if err != nil {
			return nil, fmt.Errorf("location %d: %w", i, err)
		}
		r.locations = append(r.locations, one)
	}
	if len(r.locations) == 0 {
		return nil, errors.New("no place for tokens")
	}
	return r, nil
}

// Name is "namespace/name".
func (a *Authentication) Name() string { return a.name }

// Namespace is where it lives.
func (a *Authentication) Namespace() string { return a.namespace }

// Scope says to which workloads it applies; it counts unless Attached.
func (a *Authentication) Scope() securityapi.Scope { return a.scope }

// Attached reports whether it applies only where a service names it.
func (a *Authentication) Attached() bool { return a.attached }

// Sources are where its keys are fetched.
func (a *Authentication) Sources() []Source {
	var out []Source
	for _, r := range a.rules {
		if r.source.URI != "" {
			out = append(out, r.source)
		}
	}
	return out
}
