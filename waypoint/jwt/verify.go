package jwt

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Refused is why a request with a token gets no further.
type Refused struct {
	// Status is what to answer: 401, or 403 for a good token for somebody else.
	Status int
	// Text is for the client, in the words that the ecosystem uses.
	Text string
}

func (r *Refused) Error() string { return r.Text }

// Why tokens are refused.
var (
	errForm      = &Refused{401, "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"}
	errClaim     = &Refused{401, "Jwt payload is invalid"}
	errIssuer    = &Refused{401, "Jwt issuer is not configured"}
	errSignature = &Refused{401, "Jwt verification fails"}
	errNoKeys    = &Refused{401, "Jwks remote fetch is failed"}
	errExpired   = &Refused{401, "Jwt is expired"}
	errEarly     = &Refused{401, "Jwt not yet valid"}
	errAudience  = &Refused{403, "Audiences in Jwt are not allowed"}
	errTwo       = &Refused{401, "Jwt is there more than once"}
	errPrincipal = &Refused{401, "Jwt subject is that of another issuer"}
)

// signed is a token that was taken apart; nothing of it is believed.
type signed struct {
	jws     *jose.JSONWebSignature
	payload string // as it came
	claims  *claims
}

// parse takes a token apart.
func parse(text string) (*signed, *Refused) {
	if len(text) > maxToken {
		return nil, errForm
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return nil, errForm
	}
	jws, err := jose.ParseSignedCompact(text, Algorithms)
	if err != nil || len(jws.Signatures) != 1 {
		return nil, errForm
	}
	// Whoever marks something as critical wants to be understood, and nothing of the
	// kind is; b64 would change what is signed.
	extra := jws.Signatures[0].Protected.ExtraHeaders
	if extra["crit"] != nil || extra["b64"] != nil {
		return nil, errForm
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return nil, errForm
	}
	c, err := parseClaims(raw)
	if err != nil {
		return nil, errClaim
	}
	return &signed{jws: jws, payload: parts[1], claims: c}, nil
}

// verify says whether a token is good by a rule.
func (r *Rule) verify(ctx context.Context, s *signed, remote Remote, now time.Time) *Refused {
	if s.claims.issuer != r.issuer {
		return errIssuer
	}
	keys, refused := r.keysFor(ctx, s, remote)
	if refused != nil {
		return refused
	}
	if !s.signedBy(keys) {
		return errSignature
	}
	at, leeway := seconds(now), Leeway.Seconds()
	switch { // what was never said is NaN, and compares as false
	case at-leeway > s.claims.expires:
		return errExpired
	case at+leeway < s.claims.begins:
		return errEarly
	}
	if len(r.audiences) > 0 && !slices.ContainsFunc(s.claims.audiences, func(a string) bool { return slices.Contains(r.audiences, a) }) {
		return errAudience
	}
	return nil
}

// keysFor are the keys of a rule. Where they are fetched, and none has the name that
// the token says, newer ones are asked for.
func (r *Rule) keysFor(ctx context.Context, s *signed, remote Remote) (*Keys, *Refused) {
	if r.inline != nil {
		return r.inline, nil
	}
	if remote == nil || r.source.URI == "" {
		return nil, errNoKeys
	}
	keys := remote.Keys(ctx, r.source, r.timeout)
	if id := s.jws.Signatures[0].Protected.KeyID; keys != nil && id != "" && !keys.has(id) {
		keys = remote.Newer(ctx, r.source, keys, r.timeout)
	}
	if keys == nil {
		return nil, errNoKeys
	}
	return keys, nil
}

// signedBy reports whether one of the keys has signed the token.
func (s *signed) signedBy(keys *Keys) bool {
	h := s.jws.Signatures[0].Protected
	for _, k := range keys.candidates(h.KeyID, jose.SignatureAlgorithm(h.Algorithm)) {
		if _, err := s.jws.Verify(k.public); err == nil {
			return true
		}
	}
	return false
}
