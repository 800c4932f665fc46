package jwt

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

func newInt(raw []byte) *big.Int { return new(big.Int).SetBytes(raw) }

type claimsOf = map[string]any

var now = time.Unix(1_800_000_000, 0)

// Which tokens are good, and what becomes of the others.
func TestTokens(t *testing.T) {
	us, other := newIssuer(t), newIssuer(t)
	good := func(more ...any) claimsOf {
		c := claimsOf{"iss": "https://us", "sub": "alice", "aud": []string{"shop", "bank"}, "exp": now.Unix() + 10, "azp": "app"}
		for i := 0; i+1 < len(more); i += 2 {
			c[more[i].(string)] = more[i+1]
		}
		return c
	}
	public, err := json.Marshal(jose.JSONWebKey{Key: &us.rsa.PublicKey})
	if err != nil {
		t.Fatal(err)
	}
	withHeader := func(header string, claims claimsOf, sig string) string {
		raw, _ := json.Marshal(claims)
		return b64(header) + "." + b64(string(raw)) + "." + b64(sig)
	}
	valid := sign(t, jose.RS256, us.rsa, "r", good())
	parts := strings.Split(valid, ".")
	weak, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	embedded, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: other.rsa}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := json.Marshal(good())
	jws, err := embedded.Sign(raw)
	if err != nil {
		t.Fatal(err)
	}
	brought, _ := jws.CompactSerialize()
	tests := []struct {
		name, token string
		want        int
	}{
		{"RS256", valid, 200},
		{"PS512", sign(t, jose.PS512, us.rsa, "r", good()), 200},
		{"ES256", sign(t, jose.ES256, us.ec, "e", good()), 200},
		{"EdDSA", sign(t, jose.EdDSA, us.ed, "d", good()), 200},
		{"no name of a key: all are tried", sign(t, jose.ES256, us.ec, "", good()), 200},
		{"no subject: no principal, but good", sign(t, jose.ES256, us.ec, "e", good("sub", "")), 200},
		{"audience as a text", sign(t, jose.ES256, us.ec, "e", good("aud", "shop")), 200},
		{"no expiry", sign(t, jose.ES256, us.ec, "e", good("exp", nil)), 401}, // null is no number
		{"expired within the leeway", sign(t, jose.ES256, us.ec, "e", good("exp", now.Unix()-59)), 200},
		{"expired", sign(t, jose.ES256, us.ec, "e", good("exp", now.Unix()-61)), 401},
		{"expiry that is a text", sign(t, jose.ES256, us.ec, "e", good("exp", "2099")), 401},
		{"early within the leeway", sign(t, jose.ES256, us.ec, "e", good("nbf", now.Unix()+59)), 200},
		{"early", sign(t, jose.ES256, us.ec, "e", good("nbf", now.Unix()+61)), 401},
		{"another audience", sign(t, jose.ES256, us.ec, "e", good("aud", "other")), 403},
		{"no audience", sign(t, jose.ES256, us.ec, "e", good("aud", []string{})), 403},
		{"another issuer", sign(t, jose.ES256, us.ec, "e", good("iss", "https://them")), 401},
		{"issuer that is a list", sign(t, jose.ES256, us.ec, "e", good("iss", []string{"https://us"})), 401},
		{"signed by somebody else", sign(t, jose.ES256, other.ec, "e", good()), 401},
		{"key of another name", sign(t, jose.ES256, us.ec, "x", good()), 401},
		{"key of another kind", sign(t, jose.ES256, us.ec, "r", good()), 401},
		{"curve that no key has", sign(t, jose.ES384, weak, "", good()), 401},
		{"key that the token brings along", brought, 401},
		{"alg none", withHeader(`{"alg":"none"}`, good(), ""), 401},
		{"alg None", withHeader(`{"alg":"None","kid":"r"}`, good(), "x"), 401},
		{"no alg", withHeader(`{"kid":"r"}`, good(), "x"), 401},
		{"shared secret", sign(t, jose.HS256, []byte(strings.Repeat("k", 32)), "r", good()), 401},
		{"public key as a shared secret", sign(t, jose.HS256, public, "r", good()), 401},
		{"critical extension", withHeader(`{"alg":"RS256","kid":"r","crit":["b64"],"b64":false}`, good(), "x"), 401},
		{"payload of another token", parts[0] + "." + b64(`{"iss":"https://us","sub":"root","aud":"shop"}`) + "." + parts[2], 401},
		{"no signature", parts[0] + "." + parts[1] + ".", 401},
		{"two parts", parts[0] + "." + parts[1], 401},
		{"four parts", valid + ".x", 401},
		{"no token at all", "x", 401},
		{"too long", valid + strings.Repeat("A", maxToken), 401},
		{"a claim twice", sign(t, jose.ES256, us.ec, "e", []byte(`{"iss":"https://us","sub":"alice","sub":"root","aud":"shop"}`)), 401},
		{"a payload that is a list", sign(t, jose.ES256, us.ec, "e", []byte(`[]`)), 401},
	}
	a := compile(t, &waypointapi.TokenRule{Issuer: "https://us", Audiences: []string{"shop"}, Keys: inline(us.set(t))})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, refused := Check(t.Context(), []*Authentication{a}, bearing(tt.token), nil, now)
			if status(refused) != tt.want {
				t.Fatalf("%v, want %d", refused, tt.want)
			}
			if (res != nil && res.Token != nil) != (tt.want == 200) {
				t.Errorf("token %v", res)
			}
			if tt.want == 200 && res.Token.Principal != "https://us/alice" && tt.name != "no subject: no principal, but good" {
				t.Errorf("principal %q", res.Token.Principal)
			}
		})
	}
}

// Where tokens are looked for, and what it means that there are none or several.
func TestPlaces(t *testing.T) {
	us, them := newIssuer(t), newIssuer(t)
	mine := sign(t, jose.ES256, us.ec, "e", claimsOf{"iss": "us", "sub": "alice"})
	theirs := sign(t, jose.ES256, them.ec, "e", claimsOf{"iss": "them", "sub": "bob"})
	forged := sign(t, jose.ES256, them.ec, "e", claimsOf{"iss": "us", "sub": "root"})
	everywhere := []*waypointapi.TokenLocation{
		{Kind: &waypointapi.TokenLocation_Header{Header: "X-Token"}, Prefix: "jwt "},
		{Kind: &waypointapi.TokenLocation_Parameter{Parameter: "t"}},
		{Kind: &waypointapi.TokenLocation_Cookie{Cookie: "session"}},
	}
	a := compile(t,
		&waypointapi.TokenRule{Issuer: "us", Keys: inline(us.set(t))},
		&waypointapi.TokenRule{Issuer: "them", Keys: inline(them.set(t))},
		&waypointapi.TokenRule{Issuer: "us", Keys: inline(us.set(t)), Locations: everywhere},
	)
	tests := []struct {
		name, query string
		fields      []string
		want        int
		principal   string
	}{
		{"none", "", nil, 200, ""},
		{"bearer", "", []string{"Authorization", "Bearer " + mine}, 200, "us/alice"},
		{"bearer, in lower case", "", []string{"Authorization", "bearer " + mine}, 200, "us/alice"},
		{"the other issuer, same place", "", []string{"Authorization", "Bearer " + theirs}, 200, "them/bob"},
		{"another scheme is no token", "", []string{"Authorization", "Basic eDp5"}, 200, ""},
		{"two bearers", "", []string{"Authorization", "Bearer " + mine, "authorization", "Bearer " + theirs}, 401, ""},
		{"parameter", "x=1&access_token=" + mine, nil, 200, "us/alice"},
		{"parameter, encoded name", "acc%65ss_token=" + mine, nil, 200, "us/alice"},
		{"parameter twice", "access_token=" + mine + "&access_token=" + mine, nil, 401, ""},
		{"own header", "", []string{"x-token", "jwt " + mine}, 200, "us/alice"},
		{"own header without its prefix", "", []string{"x-token", mine}, 200, ""},
		{"own parameter", "t=" + mine, nil, 200, "us/alice"},
		{"cookie", "", []string{"cookie", "a=b; session=" + mine}, 200, "us/alice"},
		{"cookie, in pieces", "", []string{"cookie", "a=b", "cookie", `session="` + mine + `"`}, 200, "us/alice"},
		{"cookie twice", "", []string{"cookie", "session=" + mine + "; session=" + mine}, 401, ""},
		{"a forged one beside a good one", "t=" + forged, []string{"Authorization", "Bearer " + mine}, 401, ""},
		{"a good one of an issuer that is not read there", "t=" + theirs, nil, 401, ""},
		{"two good ones: the first in the order of rules", "t=" + mine, []string{"Authorization", "Bearer " + theirs}, 200, "them/bob"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, refused := Check(t.Context(), []*Authentication{a}, request(tt.query, tt.fields...), nil, now)
			if status(refused) != tt.want {
				t.Fatalf("%v, want %d", refused, tt.want)
			}
			got := ""
			if res != nil && res.Token != nil {
				got = res.Token.Principal
			}
			if got != tt.principal {
				t.Errorf("principal %q, want %q", got, tt.principal)
			}
		})
	}
}

// What applications see of tokens, and that nobody but us writes it.
func TestApply(t *testing.T) {
	us := newIssuer(t)
	claims := claimsOf{"iss": "us", "sub": "alice", "group": "staff", "n": 7, "yes": true, "nested": claimsOf{"key": claimsOf{"x": "deep"}}, "list": []string{"a"}, "bad": "a\r\nx: y", "a.b": "dotted"}
	token := sign(t, jose.ES256, us.ec, "e", claims)
	rule := func(forward bool) *Authentication {
		return compile(t, &waypointapi.TokenRule{
			Issuer: "us", Keys: inline(us.set(t)), Forward: forward, PayloadHeader: "X-Payload",
			ClaimHeaders: []*waypointapi.ClaimHeader{
				{Header: "x-group", Claim: "group"}, {Header: "x-n", Claim: "n"}, {Header: "x-yes", Claim: "yes"}, {Header: "x-deep", Claim: "nested.key.x"},
				{Header: "x-list", Claim: "list"}, {Header: "x-bad", Claim: "bad"}, {Header: "x-none", Claim: "none"}, {Header: "x-dotted", Claim: "a.b"},
			},
			Locations: []*waypointapi.TokenLocation{
				{Kind: &waypointapi.TokenLocation_Header{Header: "authorization"}, Prefix: "Bearer "},
				{Kind: &waypointapi.TokenLocation_Parameter{Parameter: "t"}}, {Kind: &waypointapi.TokenLocation_Cookie{Cookie: "c"}},
			},
		})
	}
	lies := []string{"x-payload", "lie", "X-Group", "root", "x-group", "root", "x-none", "lie", "X-LIST", "lie", "x-bad", "lie"}
	want := map[string]string{"x-group": "staff", "x-n": "7", "x-yes": "true", "x-deep": "deep", "x-dotted": "dotted", "x-payload": strings.Split(token, ".")[1]}
	for _, forward := range []bool{false, true} {
		req := request("a=1&t="+token+"&b=2", append([]string{"authorization", "Bearer " + token, "cookie", "x=y; c=" + token + "; z=w"}, lies...)...)
		res, refused := Check(t.Context(), []*Authentication{rule(forward)}, req, nil, now)
		if refused != nil {
			t.Fatal(refused)
		}
		res.Apply(req)
		for _, name := range []string{"x-payload", "x-group", "x-n", "x-yes", "x-deep", "x-list", "x-bad", "x-none", "x-dotted"} {
			got := values(req, name)
			if want[name] == "" && len(got) > 0 || want[name] != "" && !slices.Equal(slices.Compact(got), []string{want[name]}) {
				t.Errorf("forward %v: %s is %q, want %q", forward, name, got, want[name])
			}
		}
		if kept := strings.Contains(req.Query, token) && req.Fields.Has("authorization") && strings.Contains(req.Fields.Get("cookie"), token); kept != forward {
			t.Errorf("forward %v: %q %v", forward, req.Query, req.Fields)
		}
		if !forward && (req.Query != "a=1&b=2" || req.Fields.Get("cookie") != "x=y; z=w") {
			t.Errorf("what was left: %q %q", req.Query, req.Fields.Get("cookie"))
		}
	}
	// Without a token the fields go, too.
	req := request("", lies...)
	res, refused := Check(t.Context(), []*Authentication{rule(false)}, req, nil, now)
	if refused != nil || res.Token != nil {
		t.Fatal(res, refused)
	}
	res.Apply(req)
	if len(req.Fields) != 0 {
		t.Errorf("fields that only rules may write: %v", req.Fields)
	}
}

// One issuer cannot speak for another whose name begins with its own.
func TestSubjectOfAnotherIssuer(t *testing.T) {
	short, long := newIssuer(t), newIssuer(t)
	a := compile(t, &waypointapi.TokenRule{Issuer: "https://a", Keys: inline(short.set(t))}, &waypointapi.TokenRule{Issuer: "https://a/b", Keys: inline(long.set(t))})
	for token, want := range map[string]int{
		sign(t, jose.ES256, long.ec, "e", claimsOf{"iss": "https://a/b", "sub": "c"}):   200,
		sign(t, jose.ES256, short.ec, "e", claimsOf{"iss": "https://a", "sub": "c"}):    200,
		sign(t, jose.ES256, short.ec, "e", claimsOf{"iss": "https://a", "sub": "x/c"}):  200,
		sign(t, jose.ES256, short.ec, "e", claimsOf{"iss": "https://a", "sub": "b/c"}):  401,
		sign(t, jose.ES256, short.ec, "e", claimsOf{"iss": "https://a/b", "sub": "c"}):  401,
		sign(t, jose.ES256, long.ec, "e", claimsOf{"iss": "https://a/b", "sub": "/c/"}): 200,
	} {
		if _, refused := Check(t.Context(), []*Authentication{a}, bearing(token), nil, now); status(refused) != want {
			t.Errorf("%v, want %d", refused, want)
		}
	}
}

// Keys that are fetched: none refuses, and a name that is not known asks for newer.
func TestRemoteKeys(t *testing.T) {
	old, fresh := newIssuer(t), newIssuer(t)
	a := compile(t, &waypointapi.TokenRule{Issuer: "us", Keys: &waypointapi.TokenRule_Uri{Uri: "https://us/keys"}})
	discovered := compile(t, &waypointapi.TokenRule{Issuer: "https://us", Keys: &waypointapi.TokenRule_Discover{Discover: true}})
	without := compile(t, &waypointapi.TokenRule{Issuer: "us"})
	keys, err := ParseKeys([]byte(old.set(t)))
	if err != nil {
		t.Fatal(err)
	}
	second, err := ParseKeys([]byte(fresh.set(t, jose.JSONWebKey{Key: &fresh.ec.PublicKey, KeyID: "new"})))
	if err != nil {
		t.Fatal(err)
	}
	src := Source{URI: "https://us/keys"}
	token := sign(t, jose.ES256, old.ec, "e", claimsOf{"iss": "us", "sub": "x"})
	rotated := sign(t, jose.ES256, fresh.ec, "new", claimsOf{"iss": "us", "sub": "x"})
	tests := []struct {
		name   string
		a      *Authentication
		token  string
		remote Remote
		want   int
	}{
		{"there", a, token, &fetched{keys: map[Source]*Keys{src: keys}}, 200},
		{"never came", a, token, &fetched{}, 401},
		{"nobody fetches", a, token, nil, 401},
		{"rotated", a, rotated, &fetched{keys: map[Source]*Keys{src: keys}, newer: map[Source]*Keys{src: second}}, 200},
		{"rotated, and nothing newer", a, rotated, &fetched{keys: map[Source]*Keys{src: keys}}, 401},
		{"discovered", discovered, sign(t, jose.ES256, old.ec, "e", claimsOf{"iss": "https://us"}), &fetched{keys: map[Source]*Keys{{"https://us", true}: keys}}, 200},
		{"a rule without keys", without, token, &fetched{keys: map[Source]*Keys{{}: keys, src: keys}}, 401},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, refused := Check(t.Context(), []*Authentication{tt.a}, bearing(tt.token), tt.remote, now); status(refused) != tt.want {
				t.Errorf("%v, want %d", refused, tt.want)
			}
		})
	}
	if got := a.Sources(); !slices.Equal(got, []Source{src}) {
		t.Errorf("sources %v", got)
	}
}

// Key sets: what cannot check a signature is left out, and nothing left is an error.
func TestParseKeys(t *testing.T) {
	us := newIssuer(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	one := func(k jose.JSONWebKey) string {
		raw, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{k}})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	tests := []struct {
		name, text string
		want       int
	}{
		{"three", us.set(t), 3},
		{"for signatures", one(jose.JSONWebKey{Key: &us.ec.PublicKey, Use: "sig"}), 1},
		{"for encryption", one(jose.JSONWebKey{Key: &us.ec.PublicKey, Use: "enc"}), 0},
		{"private", one(jose.JSONWebKey{Key: us.ec}), 0},
		{"shared", one(jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef")}), 0},
		{"weak", one(jose.JSONWebKey{Key: &small.PublicKey}), 0},
		{"of an algorithm of another kind", one(jose.JSONWebKey{Key: &us.ec.PublicKey, Algorithm: "RS256"}), 0},
		{"of HMAC by name", one(jose.JSONWebKey{Key: &us.rsa.PublicKey, Algorithm: "HS256"}), 0},
		{"one that is not known beside one that is", strings.Replace(us.set(t), `{"keys":[`, `{"keys":[{"kty":"future"},`, 1), 3},
		{"empty", `{"keys":[]}`, 0}, {"nothing", ``, 0}, {"no JSON", `x`, 0},
		{"too long", us.set(t) + strings.Repeat(" ", MaxKeySet), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, err := ParseKeys([]byte(tt.text))
			if got := k; tt.want == 0 && err == nil || tt.want > 0 && (err != nil || got.Len() != tt.want) {
				t.Errorf("%v, %v; want %d keys", k, err, tt.want)
			}
		})
	}
}

// Texts of claims.
func TestValues(t *testing.T) {
	c, err := parseClaims([]byte(`{"s":"a b","scope":"read write","permission":"one","l":["x",1,true,{"no":1}],"o":{"in":"y","words":"p q"},"n":1.5,"null":null}`))
	if err != nil {
		t.Fatal(err)
	}
	token := c.token([]string{"o.words"})
	for path, want := range map[string][]string{
		"s": {"a b"}, "scope": {"read", "write", "read write"}, "permission": {"one"}, "l": {"x", "1", "true"}, "o": nil, "o/in": {"y"}, "o/words": {"p", "q", "p q"},
		"n": {"1.5"}, "null": nil, "missing": nil, "s/deeper": nil,
	} {
		if got := token.Values(strings.Split(path, "/")); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if got := (*Token)(nil).Values([]string{"s"}); got != nil {
		t.Errorf("without a token: %q", got)
	}
}

func TestCompileRefuses(t *testing.T) {
	place := []*waypointapi.TokenLocation{{Kind: &waypointapi.TokenLocation_Cookie{Cookie: "c"}}}
	for name, a := range map[string]*waypointapi.Authentication{
		"no name":          {},
		"no issuer":        {Name: "a", Rules: []*waypointapi.TokenRule{{Locations: place}}},
		"no place":         {Name: "a", Rules: []*waypointapi.TokenRule{{Issuer: "x"}}},
		"place of no kind": {Name: "a", Rules: []*waypointapi.TokenRule{{Issuer: "x", Locations: []*waypointapi.TokenLocation{{}}}}},
		"header name":      {Name: "a", Rules: []*waypointapi.TokenRule{{Issuer: "x", Locations: place, PayloadHeader: "a b"}}},
		"claim header":     {Name: "a", Rules: []*waypointapi.TokenRule{{Issuer: "x", Locations: place, ClaimHeaders: []*waypointapi.ClaimHeader{{Header: ""}}}}},
		"scope":            {Name: "a", Scope: 9},
	} {
		if got, err := Compile(a); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
