package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	api "istio.io/api/security/v1beta1"
	security "istio.io/client-go/pkg/apis/security/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// tellAnnotation on a Gateway, with the value true, has its waypoint tell applications
// who calls.
const tellAnnotation = "ambient.istio.io/xfcc-include-client-identity"

// tokenTargets are the objects that a RequestAuthentication is attached to by name.
func (m *Model) tokenTargets(r *security.RequestAuthentication) []Key {
	if r == nil {
		return nil
	}
	return m.targetsNamed(r.Namespace, allRefs(&r.Spec))
}

// applyTokens takes a RequestAuthentication in, or its absence, and marks what it is
// attached to and the workloads that it selects, before or now.
func (m *Model) applyTokens(s *space, e Event, d dirty) {
	old, now := replace(s.tokens, e)
	m.attachTo(e.Key, m.tokenTargets(old), m.tokenTargets(now), d)
	for _, r := range []*security.RequestAuthentication{old, now} {
		if r == nil || r.Spec.Selector == nil {
			continue
		}
		for _, namespace := range m.reach(e.Key.Namespace) {
			m.markSelected(namespace, r.Spec.Selector.GetMatchLabels(), false, d)
		}
	}
}

// fromRequestAuthentication is what waypoints believe; node proxies do not look at
// requests.
func (m *Model) fromRequestAuthentication(r *security.RequestAuthentication) ([]*Resource, []Condition) {
	a := &waypointapi.Authentication{
		Name: r.Name, Namespace: r.Namespace, Scope: m.scopeOf(r.Namespace, r.Spec.Selector), Attached: hasTargets(&r.Spec),
	}
	var bad []string
	for i, rule := range r.Spec.GetJwtRules() {
		a.Rules = append(a.Rules, tokenRule(rule))
		if err := checkKeys(rule); err != nil {
			bad = append(bad, fmt.Sprintf("spec.jwtRules[%d]: %v", i, err))
		}
	}
	resource := waypointResource(TypeWaypointAuthentication, WaypointAuthenticationURL, r.Namespace+"/"+r.Name, a,
		rulesOf(a.Namespace, a.Scope, a.Attached), m.needsOfTokens(a))
	return []*Resource{resource}, []Condition{m.tokenCondition(r, bad)}
}

// tokenCondition says where tokens are looked at.
func (m *Model) tokenCondition(r *security.RequestAuthentication, bad []string) Condition {
	where := ""
	if hasTargets(&r.Spec) {
		if c := m.unserved(m.tokenTargets(r), "tokens are then not looked at"); c != nil {
			return *c
		}
	} else {
		near := m.waypointsNear(r.Namespace)
		if len(near) == 0 {
			return Condition{Type: ConditionWaypoint, Reason: ReasonNotBound,
				Message: "only waypoints look at tokens, and none serves anything that is meant: set the label istio.io/use-waypoint on a service or its namespace"}
		}
		where = "enforced by " + strings.Join(near, ", ") + " for what is bound there"
	}
	if len(bad) > 0 {
		return Condition{Type: ConditionWaypoint, Reason: ReasonPartlyInvalid, Message: "tokens of these rules are refused: " + strings.Join(bad, "; ")}
	}
	return Condition{Type: ConditionWaypoint, True: true, Reason: ReasonAccepted, Message: where}
}

// tokenRule translates one rule.
func tokenRule(rule *api.JWTRule) *waypointapi.TokenRule {
	out := &waypointapi.TokenRule{
		Issuer: rule.GetIssuer(), Audiences: rule.GetAudiences(), Timeout: rule.GetTimeout(), Forward: rule.GetForwardOriginalToken(),
		PayloadHeader: rule.GetOutputPayloadToHeader(), WordClaims: rule.GetSpaceDelimitedClaims(),
	}
	switch {
	case rule.GetJwks() != "":
		out.Keys = &waypointapi.TokenRule_Inline{Inline: rule.GetJwks()}
	case rule.GetJwksUri() != "":
		out.Keys = &waypointapi.TokenRule_Uri{Uri: rule.GetJwksUri()}
	default:
		out.Keys = &waypointapi.TokenRule_Discover{Discover: true}
	}
	add := func(l *waypointapi.TokenLocation) { out.Locations = append(out.Locations, l) }
	for _, h := range rule.GetFromHeaders() {
		add(&waypointapi.TokenLocation{Kind: &waypointapi.TokenLocation_Header{Header: h.GetName()}, Prefix: h.GetPrefix()})
	}
	for _, p := range rule.GetFromParams() {
		add(&waypointapi.TokenLocation{Kind: &waypointapi.TokenLocation_Parameter{Parameter: p}})
	}
	for _, c := range rule.GetFromCookies() {
		add(&waypointapi.TokenLocation{Kind: &waypointapi.TokenLocation_Cookie{Cookie: c}})
	}
	if len(out.Locations) == 0 { // where everybody looks. Source: RFC 6750, section 2.
		add(&waypointapi.TokenLocation{Kind: &waypointapi.TokenLocation_Header{Header: "authorization"}, Prefix: "Bearer "})
		add(&waypointapi.TokenLocation{Kind: &waypointapi.TokenLocation_Parameter{Parameter: "access_token"}})
	}
	for _, c := range rule.GetOutputClaimToHeaders() {
		out.ClaimHeaders = append(out.ClaimHeaders, &waypointapi.ClaimHeader{Header: c.GetHeader(), Claim: c.GetClaim()})
	}
	return out
}

// checkKeys says why the keys of a rule cannot be had. Waypoints read them for
// themselves; what is said here is for the author.
func checkKeys(rule *api.JWTRule) error {
	switch {
	case rule.GetJwks() != "":
		var set struct {
			Keys []json.RawMessage `json:"keys"`
		}
		if err := json.Unmarshal([]byte(rule.GetJwks()), &set); err != nil {
			return fmt.Errorf("jwks: %w", err)
		}
		if len(set.Keys) == 0 {
			return errors.New("jwks: no keys")
		}
	case rule.GetJwksUri() != "":
		return checkURI("jwksUri", rule.GetJwksUri())
	default:
		if err := checkURI("issuer", rule.GetIssuer()); err != nil {
			return fmt.Errorf("neither jwks nor jwksUri, and keys cannot be discovered: %w", err)
		}
	}
	return nil
}

// checkURI accepts where something can be fetched.
func checkURI(field, text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return fmt.Errorf("%s: want an address of https or http, not %q", field, text)
	}
	return nil
}

// believing are the names of the authentications that select labels.
func (m *Model) believing(namespace string, labels map[string]string) []string {
	var names []string
	for _, level := range slices.Compact([]string{namespace, m.cfg.RootNamespace}) {
		s := m.spaces[level]
		if s == nil {
			continue
		}
		for name, r := range s.tokens {
			if r.Spec.Selector != nil && !hasTargets(&r.Spec) && selects(r.Spec.Selector.GetMatchLabels(), labels) {
				names = append(names, level+"/"+name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// tellsClient reports whether a waypoint tells applications who calls. Incoming
// x-forwarded-client-cert is removed in any case.
func (m *Model) tellsClient(waypoint Key) bool {
	s := m.spaces[waypoint.Namespace]
	return s != nil && s.gateways[waypoint.Name] != nil &&
		s.gateways[waypoint.Name].Annotations[tellAnnotation] == "true"
}

// requestAuthentication checks what would be dropped, or refused, in silence.
func (c *checker) requestAuthentication(r *security.RequestAuthentication) {
	c.labels("spec.selector.matchLabels", r.Spec.GetSelector().GetMatchLabels())
	if r.Spec.GetSelector() != nil && hasTargets(&r.Spec) {
		c.add("spec.selector", "stands beside targetRefs: want one of them")
	}
	for i, rule := range r.Spec.GetJwtRules() {
		at := fmt.Sprintf("spec.jwtRules[%d]", i)
		if rule.GetIssuer() == "" {
			c.check(at+".issuer", errEmpty)
		}
		if rule.GetJwks() != "" && rule.GetJwksUri() != "" {
			c.add(at+".jwksUri", "stands beside jwks: want one of them")
		}
		if rule.GetTimeout() != nil && rule.GetTimeout().AsDuration() <= 0 {
			c.add(at+".timeout", "want more than 0, not %v", rule.GetTimeout().AsDuration())
		}
		c.check(at, checkKeys(rule))
		c.headerName(at+".outputPayloadToHeader", rule.GetOutputPayloadToHeader())
		for j, h := range rule.GetFromHeaders() {
			c.headerName(fmt.Sprintf("%s.fromHeaders[%d].name", at, j), h.GetName())
			if h.GetName() == "" {
				c.check(fmt.Sprintf("%s.fromHeaders[%d].name", at, j), errEmpty)
			}
		}
		c.each(at+".fromParams", rule.GetFromParams(), checkPattern)
		c.each(at+".fromCookies", rule.GetFromCookies(), checkToken)
		for j, h := range rule.GetOutputClaimToHeaders() {
			path := fmt.Sprintf("%s.outputClaimToHeaders[%d]", at, j)
			c.headerName(path+".header", h.GetHeader())
			if h.GetHeader() == "" || h.GetClaim() == "" {
				c.check(path, errEmpty)
			}
		}
	}
}

// headerName checks the name of a header, if there is one.
func (c *checker) headerName(path, name string) {
	if name != "" {
		c.check(path, checkToken(name))
	}
}

// checkToken accepts a token of HTTP. Source: RFC 9110, section 5.6.2.
func checkToken(name string) error {
	if name == "" {
		return errEmpty
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return fmt.Errorf("want a name of letters, digits and dashes, not %q", name)
		}
	}
	return nil
}
