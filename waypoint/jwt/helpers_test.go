package jwt

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// issuer signs tokens with its keys.
type issuer struct {
	rsa *rsa.PrivateKey
	ec  *ecdsa.PrivateKey
	ed  ed25519.PrivateKey
}

// rsaKeys are made once: that takes long.
var rsaKeys = sync.OnceValues(func() (pair [2]*rsa.PrivateKey, err error) {
	for i := range pair {
		if pair[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			break
		}
	}
	return pair, err
})

// turn is which RSA key the next issuer gets.
var turn atomic.Uint32

// newIssuer makes keys.
func newIssuer(t testing.TB) *issuer {
	t.Helper()
	pair, err := rsaKeys()
	if err != nil {
		t.Fatal(err)
	}
	r := pair[turn.Add(1)%2]
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, d, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{r, e, d}
}

// set is the key set with the public keys.
func (i *issuer) set(t testing.TB, more ...jose.JSONWebKey) string {
	t.Helper()
	keys := append([]jose.JSONWebKey{
		{Key: &i.rsa.PublicKey, KeyID: "r"}, {Key: &i.ec.PublicKey, KeyID: "e"}, {Key: i.ed.Public(), KeyID: "d"},
	}, more...)
	raw, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// sign makes a token.
func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, kid string, claims any) string {
	t.Helper()
	o := (&jose.SignerOptions{}).WithType("JWT")
	if kid != "" {
		o = o.WithHeader("kid", kid)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o)
	if err != nil {
		t.Fatal(err)
	}
	raw, ok := claims.([]byte)
	if !ok {
		if raw, err = json.Marshal(claims); err != nil {
			t.Fatal(err)
		}
	}
	jws, err := s.Sign(raw)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// b64 is base64url.
func b64(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// compile is an authentication with rules.
func compile(t testing.TB, rules ...*waypointapi.TokenRule) *Authentication {
	t.Helper()
	for _, r := range rules {
		if len(r.Locations) == 0 {
			r.Locations = []*waypointapi.TokenLocation{
				{Kind: &waypointapi.TokenLocation_Header{Header: "Authorization"}, Prefix: "Bearer "},
				{Kind: &waypointapi.TokenLocation_Parameter{Parameter: "access_token"}},
			}
		}
	}
	a, err := Compile(&waypointapi.Authentication{Name: "a", Namespace: "shop", Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// inline are keys in a rule.
func inline(set string) *waypointapi.TokenRule_Inline {
	return &waypointapi.TokenRule_Inline{Inline: set}
}

// request has header fields and a query.
func request(query string, fields ...string) *message.Request {
	req := &message.Request{Method: "GET"}
	req.Path, req.Query, req.HasQuery = "/", query, query != ""
	for i := 0; i+1 < len(fields); i += 2 {
		req.Fields.Add(fields[i], fields[i+1])
	}
	return req
}

// bearing is a request with a token where everybody looks.
func bearing(token string) *message.Request { return request("", "authorization", "Bearer "+token) }

// status is what a refusal answers; 200 for none.
func status(r *Refused) int {
	if r == nil {
		return 200
	}
	return r.Status
}

// oracle says by the standard library alone whether a token is signed by one of the
// keys.
func (i *issuer) oracle(text string) bool {
	first, last := -1, -1
	for at, c := range text {
		if c == '.' {
			if first < 0 {
				first = at
			}
			last = at
		}
	}
	if first < 0 || last == first {
		return false
	}
	sig, err := base64.RawURLEncoding.DecodeString(text[last+1:])
	if err != nil {
		return false
	}
	input := []byte(text[:last])
	hashed := func(h crypto.Hash) []byte { d := h.New(); d.Write(input); return d.Sum(nil) }
	if ed25519.Verify(i.ed.Public().(ed25519.PublicKey), input, sig) {
		return true
	}
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		if rsa.VerifyPKCS1v15(&i.rsa.PublicKey, h, hashed(h), sig) == nil || rsa.VerifyPSS(&i.rsa.PublicKey, h, hashed(h), sig, nil) == nil {
			return true
		}
	}
	if len(sig) == 64 {
		r, s := newInt(sig[:32]), newInt(sig[32:])
		return ecdsa.Verify(&i.ec.PublicKey, hashed(crypto.SHA256), r, s)
	}
	return false
}

// fetched is a Remote with keys that are there.
type fetched struct {
	keys, newer map[Source]*Keys
	asked       []Source
}

func (f *fetched) Keys(_ context.Context, s Source, _ time.Duration) *Keys {
	f.asked = append(f.asked, s)
	return f.keys[s]
}

func (f *fetched) Newer(_ context.Context, s Source, old *Keys, _ time.Duration) *Keys {
	if k := f.newer[s]; k != nil {
		return k
	}
	return old
}

// values of a field.
func values(req *message.Request, name string) []string {
	return slices.Collect(req.Fields.Values(name))
}
