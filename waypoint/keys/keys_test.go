package keys

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/waypoint/jwt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// local lets tests fetch from where their servers are.
var local = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// keySet is a set of n keys.
func keySet(t *testing.T, n int) string {
	t.Helper()
	var set jose.JSONWebKeySet
	for i := range n {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: &k.PublicKey, KeyID: fmt.Sprint(i)})
	}
	raw, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// server serves what is put into it.
type server struct {
	*httptest.Server
	asked atomic.Int64

	mu   sync.Mutex
	body string // empty: status 500
}

// serve starts one.
func serve(t *testing.T, body string) *server {
	t.Helper()
	s := &server{body: body}
	s.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.body == "" {
			rw.WriteHeader(500)
		}
		rw.Write([]byte(s.body))
	}))
	t.Cleanup(s.Close)
	return s
}

// set changes what is served.
func (s *server) set(body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.body = body
}

// run starts a store.
func run(t *testing.T, cfg Config, deps Deps) *Store {
	t.Helper()
	s := New(cfg, deps)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

const long = 10 * time.Second

// The first request waits for keys; later ones find them. What fails leaves the last
// good set, and a key that is not there has the set fetched again.
func TestStore(t *testing.T) {
	web := serve(t, keySet(t, 1))
	src := jwt.Source{URI: web.URL}
	s := run(t, Config{Also: local, Again: time.Nanosecond}, Deps{})
	if s.Keys(t.Context(), src, long) != nil {
		t.Fatal("keys of a source that nobody wants")
	}
	s.Want([]jwt.Source{src})
	first := s.Keys(t.Context(), src, long)
	if first.Len() != 1 {
		t.Fatal("the first request got no keys")
	}
	if s.Keys(t.Context(), src, 0) != first || web.asked.Load() != 1 {
		t.Error("fetched again")
	}
	web.set("")
	if got := s.Newer(t.Context(), src, first, long); got != first {
		t.Errorf("after a failure: %v", got)
	}
	web.set(keySet(t, 2))
	second := s.Newer(t.Context(), src, first, long)
	if second.Len() != 2 {
		t.Errorf("newer keys: %v", second)
	}
	if s.Newer(t.Context(), src, first, 0) != second {
		t.Error("what came meanwhile is not returned")
	}
	s.Want(nil)
	if s.Keys(t.Context(), src, 0) != nil {
		t.Error("keys that nobody wants any more")
	}
}

// Tokens with names of keys that nobody has cannot make us fetch all the time.
func TestNewerIsRare(t *testing.T) {
	web := serve(t, keySet(t, 1))
	src := jwt.Source{URI: web.URL}
	s := run(t, Config{Also: local}, Deps{})
	s.Want([]jwt.Source{src})
	first := s.Keys(t.Context(), src, long)
	for range 100 {
		s.Newer(t.Context(), src, first, long)
	}
	if n := web.asked.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

// A server that is down at first is asked again.
func TestRetry(t *testing.T) {
	web := serve(t, "")
	src := jwt.Source{URI: web.URL}
	s := run(t, Config{Also: local}, Deps{Fetched: func(_ jwt.Source, _ int, err error) {
		if err != nil {
			web.set(keySetOnce)
		}
	}})
	s.Want([]jwt.Source{src})
	if s.Keys(t.Context(), src, long) != nil {
		t.Fatal("keys of a server that is down")
	}
	deadline := time.Now().Add(long)
	for s.Keys(t.Context(), src, 0) == nil {
		if time.Now().After(deadline) {
			t.Fatal("not asked again")
		}
		<-time.After(10 * time.Millisecond)
	}
}

// keySetOnce is a set of one key, of RFC 7517, appendix A.1.
const keySetOnce = `{"keys":[{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","kid":"1"}]}`

// What one fetch takes and refuses.
func TestFetch(t *testing.T) {
	set := keySet(t, 3)
	mux := http.NewServeMux()
	web := httptest.NewServer(mux)
	defer web.Close()
	secure := httptest.NewTLSServer(mux)
	defer secure.Close()
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	text := func(path, body string) {
		mux.HandleFunc(path, func(rw http.ResponseWriter, r *http.Request) { rw.Write([]byte(body)) })
	}
	to := func(path string, target func() string) {
		mux.HandleFunc(path, func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, target(), http.StatusFound) })
	}
	text("/keys", set)
	text("/html", "<html>")
	text("/large", set+strings.Repeat(" ", jwt.MaxKeySet))
	text("/.well-known/openid-configuration", fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, web.URL, web.URL+"/keys"))
	text("/other/.well-known/openid-configuration", fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, web.URL, web.URL+"/keys"))
	text("/s/.well-known/openid-configuration", fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, secure.URL+"/s", web.URL+"/keys"))
	to("/once", func() string { return web.URL + "/keys" })
	to("/loop", func() string { return web.URL + "/loop" })
	to("/down", func() string { return web.URL + "/keys" })
	to("/metadata", func() string { return "http://169.254.169.254/keys" })
	to("/elsewhere", func() string { return strings.Replace(web.URL, "127.0.0.1", "127.0.0.2", 1) + "/keys" })
	only := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	tests := []struct {
		name     string
		src      jwt.Source
		also     []netip.Prefix
		ok       bool
		contains string
	}{
		{"http", jwt.Source{URI: web.URL + "/keys"}, only, true, ""},
		{"https", jwt.Source{URI: secure.URL + "/keys"}, only, true, ""},
		{"discovery", jwt.Source{URI: web.URL, Discover: true}, only, true, ""},
		{"discovery of another issuer", jwt.Source{URI: web.URL + "/other", Discover: true}, only, false, "issuer"},
		{"discovery from https to http", jwt.Source{URI: secure.URL + "/s", Discover: true}, only, false, "https"},
		{"a redirect", jwt.Source{URI: web.URL + "/once"}, only, true, ""},
		{"redirects without an end", jwt.Source{URI: web.URL + "/loop"}, only, false, "redirects"},
		{"a redirect from https to http", jwt.Source{URI: secure.URL + "/down"}, only, false, "https to http"},
		{"a redirect to the metadata service", jwt.Source{URI: web.URL + "/metadata"}, only, false, "metadata"},
		{"a redirect to an address that is not allowed", jwt.Source{URI: web.URL + "/elsewhere"}, only, false, "loopback"},
		{"loopback", jwt.Source{URI: web.URL + "/keys"}, nil, false, "loopback"},
		{"loopback behind a name", jwt.Source{URI: strings.Replace(web.URL, "127.0.0.1", "localhost", 1) + "/keys"}, nil, false, "loopback"},
		{"the metadata service", jwt.Source{URI: "http://169.254.169.254/latest"}, only, false, "metadata"},
		{"the same in IPv6", jwt.Source{URI: "http://[::ffff:169.254.169.254]/latest"}, only, false, "metadata"},
		{"not found", jwt.Source{URI: web.URL + "/nothing"}, only, false, "404"},
		{"no keys", jwt.Source{URI: web.URL + "/html"}, only, false, "key set"},
		{"too large", jwt.Source{URI: web.URL + "/large"}, only, false, "more than"},
		{"a file", jwt.Source{URI: "file:///etc/passwd"}, only, false, "no address"},
		{"no address at all", jwt.Source{URI: "accounts@example.com", Discover: true}, only, false, "no address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, err := fetch(t.Context(), newClient(Config{Also: tt.also, Roots: roots}, Deps{}), tt.src)
			if tt.ok && (err != nil || k.Len() != 3) || !tt.ok && (err == nil || !strings.Contains(err.Error(), tt.contains)) {
				t.Errorf("%v, %v", k, err)
			}
		})
	}
}

// A service of the mesh is reached as the mesh says, and its plaintext address is
// looked at, too.
func TestMesh(t *testing.T) {
	web := serve(t, keySetOnce)
	at := netip.MustParseAddrPort(web.Listener.Addr().String())
	asked := ""
	deps := Deps{Mesh: func(ctx context.Context, host string, port uint16, may func(netip.Addr) error) (net.Conn, bool, error) {
		asked = fmt.Sprintf("%s:%d", host, port)
		if host != "issuer.shop" {
			return nil, false, nil
		}
		if err := may(at.Addr()); err != nil {
			return nil, true, err
		}
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", at.String())
		return c, true, err
	}}
	src := jwt.Source{URI: "http://issuer.shop/keys"}
	if k, err := fetch(t.Context(), newClient(Config{Also: local}, deps), src); err != nil || k.Len() != 1 || asked != "issuer.shop:80" {
		t.Errorf("%v, %v, asked for %q", k, err, asked)
	}
	if _, err := fetch(t.Context(), newClient(Config{}, deps), src); err == nil {
		t.Error("an address of loopback behind a service")
	}
}

func TestForbidden(t *testing.T) {
	for text, bad := range map[string]bool{
		"10.0.0.1": false, "93.184.216.34": false, "2001:db8::1": false, "fd00::1": false, "100.64.0.1": false,
		"127.0.0.1": true, "127.9.9.9": true, "::1": true, "::ffff:127.0.0.1": true, "169.254.169.254": true, "fe80::1": true, "0.0.0.0": true, "0.1.2.3": true,
		"::": true, "224.0.0.1": true, "ff02::1": true, "255.255.255.255": true, "fd00:ec2::254": true, "100.100.100.200": true, "168.63.129.16": true,
		"64:ff9b::a9fe:a9fe": true, "64:ff9b::7f00:1": true, "64:ff9b::a00:1": false,
	} {
		if err := Forbidden(netip.MustParseAddr(text), nil); (err != nil) != bad {
			t.Errorf("%s: %v", text, err)
		}
	}
	if Forbidden(netip.Addr{}, nil) == nil {
		t.Error("no address at all")
	}
	if err := Forbidden(netip.MustParseAddr("127.0.0.1"), local); err != nil {
		t.Error(err)
	}
}
