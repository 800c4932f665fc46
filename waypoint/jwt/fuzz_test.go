package jwt

import (
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// Whatever comes, nobody gets a principal without a signature by one of our keys,
// as the standard library sees it, and nobody but the issuer of those keys is one.
func FuzzCheck(f *testing.F) {
	us, other := newIssuer(f), newIssuer(f)
	c := claimsOf{"iss": "us", "sub": "alice", "exp": now.Unix() + 100}
	for _, s := range []string{
		sign(f, jose.ES256, us.ec, "e", c), sign(f, jose.RS256, us.rsa, "", c), sign(f, jose.EdDSA, us.ed, "d", c), sign(f, jose.ES256, other.ec, "e", c),
		sign(f, jose.HS256, []byte(strings.Repeat("k", 32)), "r", c), b64(`{"alg":"none"}`) + "." + b64(`{"iss":"us","sub":"root"}`) + ".", "a.b.c",
	} {
		f.Add("Bearer "+s, "access_token="+s, "t="+s)
	}
	a := compile(f, &waypointapi.TokenRule{Issuer: "us", Keys: inline(us.set(f)), Locations: []*waypointapi.TokenLocation{
		{Kind: &waypointapi.TokenLocation_Header{Header: "authorization"}, Prefix: "Bearer "},
		{Kind: &waypointapi.TokenLocation_Parameter{Parameter: "access_token"}}, {Kind: &waypointapi.TokenLocation_Cookie{Cookie: "t"}},
	}})
	f.Fuzz(func(t *testing.T, header, query, cookie string) {
		req := request(query, "authorization", header, "cookie", cookie)
		res, refused := Check(t.Context(), []*Authentication{a}, req, nil, now)
		if refused != nil {
			if res != nil || refused.Status != 401 && refused.Status != 403 {
				t.Fatalf("%+v beside %v", res, refused)
			}
			return
		}
		if res.Token == nil {
			return
		}
		if !strings.HasPrefix(res.Token.Principal, "us/") && res.Token.Principal != "" {
			t.Fatalf("principal %q", res.Token.Principal)
		}
		signed := false
		for _, text := range []string{strings.TrimSpace(header[min(7, len(header)):]), query, cookie} {
			for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return strings.ContainsRune(`&;="' `, r) }) {
				signed = signed || us.oracle(part)
			}
		}
		if !signed {
			t.Fatalf("%q, %q, %q: %+v", header, query, cookie, res.Token)
		}
	})
}

// A key set that is taken has only public keys that can check what they are for.
func FuzzParseKeys(f *testing.F) {
	us := newIssuer(f)
	f.Add([]byte(us.set(f)))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA"},{"kty":"EC","crv":"P-256","x":"","y":""}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParseKeys(text)
		if err != nil {
			return
		}
		for _, x := range k.all {
			if got, err := algorithmsOf(x.public); err != nil || len(x.algorithms) == 0 || len(got) < len(x.algorithms) {
				t.Fatalf("%T for %v, %v", x.public, x.algorithms, err)
			}
		}
	})
}
