package waypoint

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/go-jose/go-jose/v4"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// reflecting answers with the fields of the request as they came.
var reflecting = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	rw.Header().Set("X-Target", r.URL.RequestURI())
	rw.Header().Set("X-Body", string(body))
	for name, values := range r.Header {
		rw.Header()["Got-"+name] = values
	}
})

// onService is a policy that is attached to the service orders.
func onService(kind, name, spec string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: %s
metadata: {name: %s, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: orders}]
%s
`, kind, name, spec)
}

// A policy on a service decides by everything that a waypoint sees of a request.
func TestAuthorizationL7(t *testing.T) {
	w := newWorld(t)
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, reflecting)
	web, other := w.client("web").http(s, 80, false), w.client("other").http(s, 80, true)
	w.eventually("the service is served", func() bool { return get(t.Context(), web, "GET", "/").status == 200 })
	w.apply("policy", onService("AuthorizationPolicy", "l7", `
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
    to: [{operation: {paths: [/identity]}}]
  - to: [{operation: {paths: [/header]}}]
    when: [{key: "request.headers[x-pass]", values: ["yes"]}]
  - to: [{operation: {paths: ["/path/{*}/end", "/deep/{**}"]}}]
  - to: [{operation: {paths: [/method], methods: [GET, HEAD]}}]
  - to: [{operation: {paths: [/host], hosts: ["*.example.com"]}}]
  - to: [{operation: {paths: [/remote]}}]
    from: [{source: {remoteIpBlocks: [127.0.0.0/8], notRemoteIpBlocks: [10.0.0.0/8]}}]
  - to: [{operation: {paths: ["/open*"], notPaths: ["/open/secret*"]}}]`))
	w.apply("deny", onService("AuthorizationPolicy", "never", `
  action: DENY
  rules: [{to: [{operation: {paths: [/open/denied]}}]}]`))
	w.apply("audit", onService("AuthorizationPolicy", "watch", `
  action: AUDIT
  rules: [{to: [{operation: {paths: ["/open*"]}}]}]`))
	w.eventually("the policies are in force", func() bool {
		return get(t.Context(), web, "GET", "/x").status == 403 && get(t.Context(), web, "GET", "/open/denied").status == 403
	})
	for _, tt := range []struct {
		name, method, path, header string
		client                     *http.Client
		want                       int
	}{
		{"identity", "GET", "/identity", "", web, 200},
		{"identity of another", "GET", "/identity", "", other, 403},
		{"header", "GET", "/header", "X-Pass: yes", other, 200},
		{"header with another value", "GET", "/header", "X-Pass: no", other, 403},
		{"no header", "GET", "/header", "", other, 403},
		{"path template", "GET", "/path/x/end", "", other, 200},
		{"path template, two segments for one", "GET", "/path/x/y/end", "", other, 403},
		{"path template of any depth", "GET", "/deep/x/y", "", other, 200},
		{"method", "HEAD", "/method", "", other, 200},
		{"another method", "POST", "/method", "", other, 403},
		{"host", "GET", "/host", "Host: a.example.com", web, 200},
		{"another host", "GET", "/host", "Host: example.com", web, 403},
		{"remote address", "GET", "/remote", "", web, 200},
		{"all but some paths", "GET", "/open/x", "", other, 200},
		{"one of those paths", "GET", "/open/secret/x", "", other, 403},
		{"deny beats allow", "GET", "/open/denied", "", web, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var headers []string
			if tt.header != "" {
				headers = append(headers, tt.header)
			}
			if a := get(t.Context(), tt.client, tt.method, tt.path, headers...); a.status != tt.want {
				t.Errorf("%d %v, want %d", a.status, a.err, tt.want)
			}
		})
	}
	w.wantRecord(map[string]string{"path": "/open/x", "noted": "audit by shop/watch[0]"})
	w.wantRecord(map[string]string{"path": "/open/denied", "noted": "audit by shop/watch[0]", "flags": "DENY"})
}

// signer signs tokens of one issuer.
type signer struct {
	key *ecdsa.PrivateKey
	set string
}

// newSigner makes a key.
func newSigner(t *testing.T, id string) *signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &k.PublicKey, KeyID: id, Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	return &signer{k, string(set)}
}

// bearer is a header with a token.
func (s *signer) bearer(t *testing.T, claims map[string]any) string {
	return "Authorization: Bearer " + s.token(t, claims)
}

// token signs one.
func (s *signer) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	sg, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := sg.Sign(raw)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Tokens: who has one, who has a bad one, and what policies ask of them.
func TestL7JWT(t *testing.T) {
	w := newWorld(t)
	us, them := newSigner(t, "1"), newSigner(t, "2")
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, reflecting)
	web := w.client("web").http(s, 80, false)
	w.eventually("the service is served", func() bool { return get(t.Context(), web, "GET", "/").status == 200 })
	w.apply("tokens", onService("RequestAuthentication", "tokens", `
  jwtRules:
  - issuer: https://us
    audiences: [shop]
    jwks: '`+us.set+`'
    outputPayloadToHeader: x-payload
    outputClaimToHeaders: [{header: x-group, claim: nested.group}]`))
	w.apply("policy", onService("AuthorizationPolicy", "tokens", `
  rules:
  - to: [{operation: {paths: [/public]}}]
  - from: [{source: {requestPrincipals: ["https://us/alice"]}}]
    to: [{operation: {paths: [/alice]}}]
  - to: [{operation: {paths: [/group]}}]
    when: [{key: "request.auth.claims[nested][group]", values: [staff]}]
  - to: [{operation: {paths: [/list]}}]
    when: [{key: "request.auth.claims[roles]", values: [admin]}]
  - to: [{operation: {paths: [/scope]}}]
    when: [{key: "request.auth.claims[scope]", values: [write]}]
  - to: [{operation: {paths: [/presenter]}}]
    when: [{key: request.auth.presenter, values: [app]}, {key: request.auth.audiences, values: [shop]}]`))
	w.apply("deny", onService("AuthorizationPolicy", "anonymous", `
  action: DENY
  rules:
  - from: [{source: {notRequestPrincipals: ["*"]}}]
    to: [{operation: {notPaths: [/public]}}]`))
	good := func(more ...any) map[string]any {
		c := map[string]any{
			"iss": "https://us", "sub": "alice", "aud": []string{"shop"}, "exp": time.Now().Add(time.Hour).Unix(), "azp": "app",
			"nested": map[string]any{"group": "staff"}, "roles": []string{"user", "admin"}, "scope": "read write",
		}
		for i := 0; i+1 < len(more); i += 2 {
			c[more[i].(string)] = more[i+1]
		}
		return c
	}
	alice := us.bearer(t, good())
	w.eventually("the rules are in force", func() bool {
		return get(t.Context(), web, "GET", "/alice").status == 403 && get(t.Context(), web, "GET", "/alice", alice).status == 200
	})
	for _, tt := range []struct {
		name, path, header string
		want               int
	}{
		{"no token where none is needed", "/public", "", 200},
		{"no token where one is needed", "/alice", "", 403},
		{"good token", "/alice", alice, 200},
		{"good token of another subject", "/alice", us.bearer(t, good("sub", "bob")), 403},
		{"expired token", "/alice", us.bearer(t, good("exp", time.Now().Add(-time.Hour).Unix())), 401},
		{"expired token where none is needed", "/public", us.bearer(t, good("exp", time.Now().Add(-time.Hour).Unix())), 401},
		{"token signed by somebody else", "/public", them.bearer(t, good()), 401},
		{"token of another issuer", "/public", them.bearer(t, good("iss", "https://them")), 401},
		{"token for another audience", "/public", us.bearer(t, good("aud", "bank")), 403},
		{"no token at all", "/public", "Authorization: Bearer x.y.z", 401},
		{"nested claim", "/group", alice, 200},
		{"nested claim with another value", "/group", us.bearer(t, good("nested", map[string]any{"group": "guest"})), 403},
		{"list claim", "/list", alice, 200},
		{"list claim without the element", "/list", us.bearer(t, good("roles", []string{"user"})), 403},
		{"words of a claim", "/scope", alice, 200},
		{"words of a claim, a part of one", "/scope", us.bearer(t, good("scope", "writer")), 403},
		{"presenter and audience", "/presenter", alice, 200},
		{"another presenter", "/presenter", us.bearer(t, good("azp", "x")), 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var headers []string
			if tt.header != "" {
				headers = append(headers, tt.header)
			}
			if a := get(t.Context(), web, "GET", tt.path, headers...); a.status != tt.want {
				t.Errorf("%d %q, want %d", a.status, a.body, tt.want)
			}
		})
	}
	a := get(t.Context(), web, "GET", "/alice", alice, "X-Group: root", "X-Payload: lie")
	payload, err := base64.RawURLEncoding.DecodeString(a.header.Get("Got-X-Payload"))
	if err != nil || !strings.Contains(string(payload), `"sub":"alice"`) || strings.Join(a.header["Got-X-Group"], ",") != "staff" || a.header.Get("Got-Authorization") != "" {
		t.Errorf("what the application sees: %v %q, %v", a.header, payload, err)
	}
	w.wantRecord(map[string]string{"decision": "Jwt is expired", "status": "401"})
}

// Keys that are fetched: from a server, and from a service of the mesh; for a whole
// namespace and for selected workloads. Without keys tokens are refused.
func TestRemoteKeys(t *testing.T) {
	w := newWorld(t)
	us, inMesh := newSigner(t, "1"), newSigner(t, "2")
	var next atomic.Pointer[string]
	next.Store(&us.set)
	web := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, *next.Load()) }))
	t.Cleanup(web.Close)
	issuer := w.service("issuer", "{name: http, port: 80, targetPort: 8080}", 1, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/.well-known/openid-configuration" {
			io.WriteString(rw, `{"issuer":"http://issuer.shop","jwks_uri":"http://issuer.shop.svc.cluster.local/keys"}`)
			return
		}
		io.WriteString(rw, inMesh.set)
	}))
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, reflecting)
	hc := w.client("web").http(s, 80, false)
	w.eventually("the service is served", func() bool { return get(t.Context(), hc, "GET", "/").status == 200 })
	w.apply("tokens", `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: everywhere, namespace: shop}
spec: {jwtRules: [{issuer: us, jwksUri: "`+web.URL+`", forwardOriginalToken: true}, {issuer: nobody, jwksUri: "http://169.254.169.254/keys", timeout: 1s}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: selected, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  jwtRules: [{issuer: "http://issuer.shop", fromHeaders: [{name: x-token}]}]
`)
	mine := us.bearer(t, map[string]any{"iss": "us", "sub": "x"})
	w.eventually("the rules are in force", func() bool {
		return get(t.Context(), hc, "GET", "/", "Authorization: Bearer x").status == 401
	})
	if a := get(t.Context(), hc, "GET", "/", mine); a.status != 200 || a.header.Get("Got-Authorization") == "" {
		t.Errorf("keys of a server: %+v", a)
	}
	if a := get(t.Context(), hc, "GET", "/", us.bearer(t, map[string]any{"iss": "nobody", "sub": "x"})); a.status != 401 {
		t.Errorf("keys that are never fetched: %+v", a)
	}
	w.eventually("a token by keys that a service of the mesh has is good", func() bool {
		return get(t.Context(), hc, "GET", "/", "X-Token: "+inMesh.token(t, map[string]any{"iss": "http://issuer.shop", "sub": "x"})).status == 200
	})
	issuer.pods[0].mu.Lock()
	if issuer.pods[0].callers["cluster.local/ns/shop/sa/waypoint"] == 0 {
		t.Error("the keys of a service of the mesh did not come through its tunnel")
	}
	issuer.pods[0].mu.Unlock()
	if a := get(t.Context(), hc, "GET", "/", "X-Token: "+us.token(t, map[string]any{"iss": "us", "sub": "x"})); a.status != 401 {
		t.Errorf("a token of an issuer that is not read there: %+v", a)
	}
}

// grpcAuthorizer is a real provider over gRPC.
type grpcAuthorizer struct{ calls atomic.Int64 }

func (g *grpcAuthorizer) Check(_ context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	g.calls.Add(1)
	h := req.GetAttributes().GetRequest().GetHttp()
	if h.GetHeaders()["x-ext-authz"] == "fail" {
		return nil, fmt.Errorf("fails")
	}
	if h.GetHeaders()["x-ext-authz"] != "allow" {
		return &authv3.CheckResponse{
			Status: &status.Status{Code: int32(codes.PermissionDenied)},
			HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
				Status: &typev3.HttpStatus{Code: typev3.StatusCode_PaymentRequired}, Body: "pay first",
				Headers: []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: "x-why", Value: "no money"}}},
			}},
		}, nil
	}
	return &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
		Headers: []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{
			Key: "X-User", Value: strings.Join([]string{req.GetAttributes().GetSource().GetPrincipal(), h.GetMethod(), h.GetPath(), h.GetHost(), h.GetBody()}, " "),
		}}},
		HeadersToRemove:      []string{"x-secret"},
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: "x-checked", Value: "by grpc"}}},
	}}}, nil
}

// httpAuthorizer is a real provider over HTTP, that gives who it lets pass a token.
func httpAuthorizer(t *testing.T, s *signer) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("X-Session") {
		case "alice":
			rw.Header().Set("Authorization", "Bearer "+s.token(t, map[string]any{"iss": "sso", "sub": "alice"}))
			rw.Header().Set("X-Saw", r.Method+" "+r.Host+" "+r.URL.Path+" "+r.Header.Get("X-Fixed")+" "+r.Header.Get("X-Hidden"))
			rw.Header().Set("X-Checked", "by http")
		case "fail":
			rw.WriteHeader(500)
		default:
			rw.Header().Set("Location", "https://login.example.com/")
			rw.Header().Set("Set-Cookie", "state=1")
			rw.WriteHeader(302)
		}
	})
}

// meshConfig names the providers.
const meshConfig = `
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    extensionProviders:
    - name: over-grpc
      envoyExtAuthzGrpc:
        service: authz-grpc.shop.svc.cluster.local
        port: 9000
        timeout: 10s
        includeRequestBodyInCheck: {maxRequestBytes: 16}
    - name: over-http
      envoyExtAuthzHttp:
        service: shop/authz-http.shop.svc.cluster.local
        port: 80
        pathPrefix: /check
        statusOnError: "503"
        includeRequestHeadersInCheck: [x-session]
        includeAdditionalHeadersInCheck: {x-fixed: fixed}
        headersToUpstreamOnAllow: [authorization, "x-saw", x-groups]
        headersToDownstreamOnAllow: [x-checked]
        headersToDownstreamOnDeny: [set-cookie]
    - name: away
      envoyExtAuthzHttp: {service: nobody.shop.svc.cluster.local, port: 80, failOpen: true}
    - name: traces
      zipkin: {service: zipkin.istio-system.svc.cluster.local, port: 9411}
`

// Providers over gRPC and over HTTP decide before everything else, and what they
// change is seen by tokens, policies and applications.
func TestExternalAuthorization(t *testing.T) {
	w := newWorld(t)
	sso := newSigner(t, "1")
	authorizer := &grpcAuthorizer{}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, authorizer)
	w.service("authz-grpc", "{name: grpc, port: 9000, targetPort: 8080}", 1, server)
	w.service("authz-http", "{name: http, port: 80, targetPort: 8080}", 1, httpAuthorizer(t, sso))
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, reflecting)
	hc := w.client("web").http(s, 80, false)
	w.eventually("the service is served", func() bool { return get(t.Context(), hc, "GET", "/").status == 200 })
	custom := func(name, path string) string {
		return onService("AuthorizationPolicy", name, "  action: CUSTOM\n  provider: {name: "+name+"}\n  rules: [{to: [{operation: {paths: [\""+path+"\"]}}]}]")
	}
	w.apply("custom", custom("over-grpc", "/grpc*")+"---"+custom("over-http", "/http*")+"---"+custom("away", "/away*")+"---"+custom("unknown", "/unknown*"))
	w.eventually("without providers what would ask them is refused", func() bool {
		for _, path := range []string{"/grpc", "/http", "/away", "/unknown"} {
			if get(t.Context(), hc, "GET", path, "X-Ext-Authz: allow", "X-Session: alice").status != 403 {
				return false
			}
		}
		return get(t.Context(), hc, "GET", "/other").status == 200
	})
	if c := w.condition("AuthorizationPolicy", "over-grpc"); !strings.Contains(c, "not among the extensionProviders") {
		t.Errorf("status: %s", c)
	}
	w.apply("mesh", meshConfig)
	w.apply("tokens", onService("RequestAuthentication", "sso", "  jwtRules: [{issuer: sso, jwks: '"+sso.set+"'}]"))
	w.apply("policy", onService("AuthorizationPolicy", "only-alice", `
  action: DENY
  rules: [{from: [{source: {notRequestPrincipals: [sso/alice]}}], to: [{operation: {paths: ["/http*"]}}]}]`))
	w.eventually("the providers are known", func() bool {
		return get(t.Context(), hc, "GET", "/grpc", "X-Ext-Authz: allow").status == 200 && get(t.Context(), hc, "GET", "/http", "X-Session: alice").status == 200
	})
	t.Run("gRPC allows", func(t *testing.T) {
		a := send(t, hc, "POST", "/grpc/x?y=z", "a body", "X-Ext-Authz: allow", "X-User: lie", "X-Secret: s")
		if a.status != 200 || a.header.Get("Got-X-User") != "spiffe://cluster.local/ns/shop/sa/web POST /grpc/x?y=z orders.shop a body" ||
			a.header.Get("Got-X-Secret") != "" || a.header.Get("X-Checked") != "by grpc" || a.header.Get("X-Body") != "a body" {
			t.Errorf("%+v", a)
		}
	})
	t.Run("gRPC refuses in its own words", func(t *testing.T) {
		if a := get(t.Context(), hc, "GET", "/grpc"); a.status != 402 || a.body != "pay first" || a.header.Get("X-Why") != "no money" {
			t.Errorf("%+v", a)
		}
		w.wantRecord(map[string]string{"flags": "UAEX", "policy": "shop/over-grpc"})
	})
	t.Run("gRPC fails", func(t *testing.T) {
		if a := get(t.Context(), hc, "GET", "/grpc", "X-Ext-Authz: fail"); a.status != 403 {
			t.Errorf("%+v", a)
		}
	})
	t.Run("a body that is too large", func(t *testing.T) {
		if a := send(t, hc, "POST", "/grpc", strings.Repeat("x", 17), "X-Ext-Authz: allow"); a.status != 413 {
			t.Errorf("%+v", a)
		}
	})
	t.Run("HTTP allows, and its token is the one that counts", func(t *testing.T) {
		a := get(t.Context(), hc, "GET", "/http/x", "X-Session: alice", "X-Hidden: h", "X-Groups: admin", "Authorization: Bearer lie")
		if a.status != 200 || a.header.Get("Got-X-Saw") != "GET orders.shop /check/http/x fixed" || a.header.Get("X-Checked") != "by http" || a.header.Get("Got-X-Groups") != "" || a.header.Get("Got-Authorization") != "" {
			t.Errorf("%+v", a)
		}
	})
	t.Run("HTTP refuses with a redirect", func(t *testing.T) {
		if a := get(t.Context(), hc, "GET", "/http"); a.status != 302 || a.header.Get("Location") != "https://login.example.com/" || a.header.Get("Set-Cookie") != "state=1" {
			t.Errorf("%+v", a)
		}
	})
	t.Run("HTTP fails", func(t *testing.T) {
		if a := get(t.Context(), hc, "GET", "/http", "X-Session: fail"); a.status != 503 {
			t.Errorf("%+v", a)
		}
	})
	t.Run("a provider that is away and fails open", func(t *testing.T) {
		if a := get(t.Context(), hc, "GET", "/away"); a.status != 200 {
			t.Errorf("%+v", a)
		}
		w.wantRecord(map[string]string{"path": "/away", "noted": "fails open"})
	})
	t.Run("a provider that nobody knows", func(t *testing.T) {
		if a := get(t.Context(), hc, "GET", "/unknown"); a.status != 403 {
			t.Errorf("%+v", a)
		}
		w.wantRecord(map[string]string{"path": "/unknown", "decision": "not known here"})
	})
	before := authorizer.calls.Load()
	if a := get(t.Context(), hc, "GET", "/other", "X-Ext-Authz: allow"); a.status != 200 || authorizer.calls.Load() != before {
		t.Errorf("a path of no policy was asked about: %+v", a)
	}
}

// send asks with a body.
func send(t *testing.T, c *http.Client, method, path, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://orders.shop"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := c.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, header: resp.Header, body: string(got), err: err}
}

// Applications hear who calls only when the Gateway says so, and never from the
// client.
func TestClientCertificateHeader(t *testing.T) {
	w := newWorld(t)
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, reflecting)
	for _, h2 := range []bool{false, true} {
		hc := w.client(fmt.Sprint("web", h2)).http(s, 80, h2)
		lie := func() string {
			a := get(t.Context(), hc, "GET", "/", "X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/shop/sa/root", "x-forwarded-client-cert: URI=x")
			return strings.Join(a.header["Got-X-Forwarded-Client-Cert"], "|")
		}
		w.gateway("")
		w.eventually("the service is served, and nobody is told", func() bool { return get(t.Context(), hc, "GET", "/").status == 200 && lie() == "" })
		w.gateway(`annotations: {ambient.istio.io/xfcc-include-client-identity: "true"}`)
		want := fmt.Sprintf("By=spiffe://cluster.local/ns/shop/sa/waypoint;URI=spiffe://cluster.local/ns/shop/sa/web%v", h2)
		w.eventually("the application is told", func() bool { return lie() == want })
	}
}

// gateway writes the waypoint's Gateway anew, with more metadata.
func (w *world) gateway(more string) {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, "base.yaml"))
	if err != nil {
		w.t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(text), "kind: Gateway\n")
	_, after, _ := strings.Cut(rest, "\n")
	if more != "" {
		more = ", " + more
	}
	w.apply("base", before+"kind: Gateway\nmetadata: {name: waypoint, namespace: shop"+more+"}\n"+after)
}
