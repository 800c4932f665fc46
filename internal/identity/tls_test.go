package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
	_ "unsafe" // for go:linkname
)

func TestTLSGoodPeersKnowEachOther(t *testing.T) {
	ca := newCA(t, "root").intermediate(t, "middle")
	web, cart := mustID(t, "spiffe://td/ns/shop/sa/web"), mustID(t, "spiffe://td/ns/shop/sa/cart")
	server, client := ca.certify(t, web, time.Minute, time.Hour), ca.certify(t, cart, time.Minute, time.Hour)
	var hello tls.ClientHelloInfo
	cfg := ServerTLS(server)
	cfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { hello = *h; return nil, nil }
	s, c := handshake(t, cfg, ClientTLS(client, []ID{cart, web}))
	if s.err != nil || c.err != nil {
		t.Fatalf("server %v, client %v", s.err, c.err)
	}
	for _, e := range []struct {
		name string
		end  end
		want ID
	}{{"server", s, cart}, {"client", c, web}} {
		st := e.end.state
		if st.Version != tls.VersionTLS13 || st.NegotiatedProtocol != "h2" || st.DidResume || st.CurveID != tls.X25519MLKEM768 {
			t.Errorf("%s: %s, ALPN %q, resumed %v, key exchange %v", e.name, tls.VersionName(st.Version), st.NegotiatedProtocol, st.DidResume, st.CurveID)
		}
		peer, err := PeerOf(&st)
		if err != nil || peer.ID != e.want || len(peer.Chain) != 2 || time.Until(peer.NotAfter) > time.Hour {
			t.Errorf("%s sees %+v, %v, want %v", e.name, peer.ID, err, e.want)
		}
	}
	if hello.ServerName != "" {
		t.Errorf("the client sends SNI %q", hello.ServerName)
	}
	if hello.SupportedCurves[0] != tls.X25519MLKEM768 || !slices.Equal(hello.SupportedProtos, []string{"h2"}) || !slices.Equal(hello.SupportedVersions, []uint16{tls.VersionTLS13}) {
		t.Errorf("the client offers %v, %v, %v", hello.SupportedCurves, hello.SupportedProtos, hello.SupportedVersions)
	}
}

// Each row is a peer that must be refused, by a server of ours when it dials and
// by a client of ours when it is dialed.
func TestTLSVerification(t *testing.T) {
	root := newCA(t, "root")
	middle := root.intermediate(t, "middle")
	web := mustID(t, "spiffe://td/ns/shop/sa/web")
	ours := middle.certify(t, mustID(t, "spiffe://td/ns/shop/sa/ours"), time.Minute, time.Hour)
	change := func(f func(c *x509.Certificate)) tls.Certificate {
		template := leafTemplate(t, web)
		f(template)
		return middle.present(t, template)
	}
	good := func(*x509.Certificate) {}
	stranger := newCA(t, "root")
	innocent := middle.present(t, leafTemplate(t, web))

	for _, tt := range []struct {
		name           string
		peer           tls.Certificate
		server, client string // what each end of ours says; "" when it accepts
	}{
		{"good", change(good), "", ""},
		{"wrong SAN: another service account", change(func(c *x509.Certificate) {
			c.URIs = []*url.URL{mustURL(t, "spiffe://td/ns/shop/sa/thief")}
		}), "", "unexpected peer identity: want one of [spiffe://td/ns/shop/sa/web]"},
		{"wrong td: another trust domain", change(func(c *x509.Certificate) {
			c.URIs = []*url.URL{mustURL(t, "spiffe://elsewhere/ns/shop/sa/web")}
		}), `unexpected peer identity: trust domain "elsewhere", want "td"`, "unexpected peer identity"},
		{"expired", change(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), "expired", "expired"},
		{"not yet valid", change(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), "not yet valid", "not yet valid"},
		{"only for servers", change(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), "not for clients", ""},
		{"only for clients", change(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }), "", "not for servers"},
		{"for code signing", change(func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
		}), "not for clients", "not for servers"},
		{"without any usage", change(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), "not for clients", "not for servers"},
		{"two URI SANs, the good one first", change(func(c *x509.Certificate) {
			c.URIs = append(c.URIs, mustURL(t, "spiffe://td/ns/shop/sa/thief"))
		}), "more than one URI SAN", "more than one URI SAN"},
		{"two URI SANs, the good one last", change(func(c *x509.Certificate) {
			c.URIs = []*url.URL{mustURL(t, "https://example.org"), c.URIs[0]}
		}), "more than one URI SAN", "more than one URI SAN"},
		{"wrong SAN: a DNS name only", change(func(c *x509.Certificate) {
			c.URIs, c.DNSNames = nil, []string{"td/ns/shop/sa/web"}
		}), "no URI SAN", "no URI SAN"},
		{"name in the subject only", change(func(c *x509.Certificate) {
			c.URIs = nil
			c.Subject.CommonName = "spiffe://td/ns/shop/sa/web"
		}), "no URI SAN", "no URI SAN"},
		{"SPIFFE ID of no workload", change(func(c *x509.Certificate) {
			c.URIs = []*url.URL{mustURL(t, "spiffe://td/gateway")}
		}), "want spiffe://TRUST-DOMAIN", "want spiffe://TRUST-DOMAIN"},
		{"a leaf that is a CA", change(func(c *x509.Certificate) { c.IsCA = true }), "one of a CA", "one of a CA"},
		{"a leaf that may sign", change(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), "may sign others", "may sign others"},
		{"the intermediate as leaf", tls.Certificate{
			PrivateKey: middle.key, Certificate: [][]byte{middle.cert.Raw},
		}, "one of a CA", "one of a CA"},
		{"signed by another root of the same name", stranger.present(t, leafTemplate(t, web)), "unknown authority", "unknown authority"},
		{"self-signed", selfSigned(t, web), "unknown authority", "unknown authority"},
		{"signed by a leaf", signedByLeaf(t, middle, web), "certificate", "certificate"},
		{"without its intermediate", withChain(change(good)), "unknown authority", "unknown authority"},
		{"a stranger's leaf, then a good chain", withChain(
			stranger.present(t, leafTemplate(t, web)), innocent.Certificate...), "unknown authority", "unknown authority"},
		{"a nameless leaf, then a good chain", withChain(
			change(func(c *x509.Certificate) { c.URIs = nil }), innocent.Certificate...), "no URI SAN", "no URI SAN"},
		{"more certificates than we look at", withChain(change(good), slices.Repeat([][]byte{middle.cert.Raw}, maxPresented)...),
			"want at most 10", "want at most 10"},
		{"the root sent along", withChain(change(good), middle.cert.Raw, root.cert.Raw), "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := handshake(t, ServerTLS(ours), plainClient(tt.peer))
			wantRefusal(t, "server of ours", s, tt.server)
			_, c := handshake(t, plainServer(tt.peer), ClientTLS(ours, []ID{web}))
			wantRefusal(t, "client of ours", c, tt.client)
		})
	}
}

// wantRefusal checks that an end of ours refused with text, or that it did not
// and sees web or another peer that it may see.
func wantRefusal(t *testing.T, who string, e end, text string) {
	t.Helper()
	if text == "" {
		if _, err := PeerOf(&e.state); e.err != nil || err != nil {
			t.Errorf("%s: %v, peer %v, want the peer accepted", who, e.err, err)
		}
		return
	}
	verify, ok := errors.AsType[*VerifyError](e.err)
	if !ok || !strings.Contains(verify.Error(), text) {
		t.Errorf("%s: %v, want a VerifyError with %q", who, e.err, text)
	}
	if want := strings.Contains(text, "unexpected peer"); errors.Is(e.err, ErrUnexpectedPeer) != want {
		t.Errorf("%s: %v is ErrUnexpectedPeer: %v, want %v", who, e.err, !want, want)
	}
}

// plainClient presents cert and checks nothing.
func plainClient(cert tls.Certificate) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}
}

// plainServer presents cert and takes any client.
func plainServer(cert tls.Certificate) *tls.Config {
	return &tls.Config{ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}
}

// withChain presents the leaf of cert followed by der.
func withChain(cert tls.Certificate, der ...[]byte) tls.Certificate {
	return tls.Certificate{PrivateKey: cert.PrivateKey, Certificate: append([][]byte{cert.Certificate[0]}, der...)}
}

// selfSigned is a leaf of id that signed itself.
func selfSigned(t *testing.T, id ID) tls.Certificate {
	key := newKey(t)
	return tls.Certificate{PrivateKey: key, Certificate: [][]byte{sign(t, leafTemplate(t, id), nil, key, key).Raw}}
}

// signedByLeaf is a leaf of id that another workload's leaf signed.
func signedByLeaf(t *testing.T, ca *testCA, id ID) tls.Certificate {
	template := leafTemplate(t, mustID(t, "spiffe://td/ns/shop/sa/thief"))
	template.Subject.CommonName = "thief"
	parent := &testCA{key: newKey(t)}
	parent.cert = sign(t, template, ca.cert, parent.key, ca.key)
	parent.above = append([]*x509.Certificate{parent.cert}, ca.above...)
	return parent.present(t, leafTemplate(t, id))
}

func TestTLSClientWithoutACertificateIsRefused(t *testing.T) {
	ca := newCA(t, "root")
	ours := ca.certify(t, mustID(t, "spiffe://td/ns/shop/sa/ours"), time.Minute, time.Hour)
	if s, _ := handshake(t, ServerTLS(ours), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}); s.err == nil {
		t.Error("a client without a certificate is accepted")
	}
}

func TestTLSEmptyAcceptMatchesNobody(t *testing.T) {
	ca := newCA(t, "root")
	web := mustID(t, "spiffe://td/ns/shop/sa/web")
	ours := ca.certify(t, web, time.Minute, time.Hour)
	for name, accept := range map[string][]ID{"nil": nil, "empty": {}, "the zero ID": {{}}} {
		_, c := handshake(t, ServerTLS(ours), ClientTLS(ours, accept))
		if !errors.Is(c.err, ErrUnexpectedPeer) {
			t.Errorf("%s: %v, want ErrUnexpectedPeer", name, c.err)
		}
	}
}

func TestTLSOlderVersionsAndOtherProtocolsAreRefused(t *testing.T) {
	ca := newCA(t, "root")
	web := mustID(t, "spiffe://td/ns/shop/sa/web")
	ours := ca.certify(t, web, time.Minute, time.Hour)
	for name, change := range map[string]func(*tls.Config){
		"TLS 1.2": func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
		"ALPN h3": func(c *tls.Config) { c.NextProtos = []string{"h3"} },
	} {
		client, server := plainClient(ours.TLS), plainServer(ours.TLS)
		change(client)
		change(server)
		if s, _ := handshake(t, ServerTLS(ours), client); s.err == nil {
			t.Errorf("a client with %s is accepted", name)
		}
		if _, c := handshake(t, server, ClientTLS(ours, []ID{web})); c.err == nil {
			t.Errorf("a server with %s is accepted", name)
		}
	}
}

func TestTLSNoSessionIsResumed(t *testing.T) {
	ca := newCA(t, "root")
	web := mustID(t, "spiffe://td/ns/shop/sa/web")
	ours := ca.certify(t, web, time.Minute, time.Hour)
	server, client := ServerTLS(ours), plainClient(ours.TLS)
	client.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	client.ServerName = "x" // the key of the cache
	for range 3 {
		if s, c := handshake(t, server, client); s.err != nil || c.state.DidResume {
			t.Errorf("server %v; resumed %v", s.err, c.state.DidResume)
		}
	}
	if ClientTLS(ours, nil).ClientSessionCache != nil {
		t.Error("the client keeps sessions")
	}
}

//go:linkname suitesTLS13 crypto/tls.defaultCipherSuitesTLS13
var suitesTLS13 []uint16

//go:linkname suitesTLS13NoAES crypto/tls.defaultCipherSuitesTLS13NoAES
var suitesTLS13NoAES []uint16

// A peer that speaks ChaCha20 only completes all of TLS except for our own look
// at the suite. crypto/tls does not let one choose, so the test sets its list.
func TestTLSPeerWithChaCha20OnlyIsRefused(t *testing.T) {
	ca := newCA(t, "root")
	web := mustID(t, "spiffe://td/ns/shop/sa/web")
	ours := ca.certify(t, web, time.Minute, time.Hour)
	normal, normalNoAES := suitesTLS13, suitesTLS13NoAES
	defer func() { suitesTLS13, suitesTLS13NoAES = normal, normalNoAES }()

	suitesTLS13 = []uint16{tls.TLS_CHACHA20_POLY1305_SHA256}
	suitesTLS13NoAES = suitesTLS13
	s, _ := handshake(t, plainServer(ours.TLS), plainClient(ours.TLS))
	if FIPS() { // there it is not offered in the first place
		if s.state.CipherSuite == tls.TLS_CHACHA20_POLY1305_SHA256 {
			t.Error("ChaCha20 is spoken in FIPS mode")
		}
		return
	}
	if s.err != nil || s.state.CipherSuite != tls.TLS_CHACHA20_POLY1305_SHA256 {
		t.Fatalf("the test does not get two plain ends to speak ChaCha20: %v, %s", s.err, tls.CipherSuiteName(s.state.CipherSuite))
	}
	s, _ = handshake(t, ServerTLS(ours), plainClient(ours.TLS))
	wantRefusal(t, "server of ours", s, "cipher suite TLS_CHACHA20_POLY1305_SHA256: want AES-GCM")
	_, c := handshake(t, plainServer(ours.TLS), ClientTLS(ours, []ID{web}))
	wantRefusal(t, "client of ours", c, "cipher suite TLS_CHACHA20_POLY1305_SHA256: want AES-GCM")

	for _, suite := range suites() {
		suitesTLS13, suitesTLS13NoAES = []uint16{suite}, []uint16{suite}
		if s, c := handshake(t, ServerTLS(ours), ClientTLS(ours, []ID{web})); s.err != nil || c.err != nil {
			t.Errorf("%s: server %v, client %v", tls.CipherSuiteName(suite), s.err, c.err)
		}
	}
}

// The handshakes of this file, in a process that runs with the FIPS module in
// force.
func TestTLSInFIPSMode(t *testing.T) {
	if FIPS() {
		t.Log("FIPS mode: true")
		return // we are that process
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^TestTLS|^TestRootRotation$")
	child.Env = append(os.Environ(), "GODEBUG=fips140=on")
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestTLSInFIPSMode") {
		t.Errorf("with GODEBUG=fips140=on: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "FIPS mode: true") {
		t.Error("the other process does not report FIPS mode")
	}
}
