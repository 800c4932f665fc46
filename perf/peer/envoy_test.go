package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/identity"
)

// What Envoy is told holds together: every listener and cluster that is named is
// there, and the endpoint must be the one that was meant. Where there is an Envoy it
// is asked itself.
func TestEnvoyConfiguration(t *testing.T) {
	id, err := identity.NewID("cluster.local", "shop", "waypoint")
	if err != nil {
		t.Fatal(err)
	}
	server, err := identity.NewID("cluster.local", "shop", "cart")
	if err != nil {
		t.Fatal(err)
	}
	hop := EnvoyHop{
		Certificate: selfSigned(t, id), Endpoint: server, Tunnel: netip.MustParseAddrPort("10.77.2.3:15008"),
		Services: map[netip.AddrPort]netip.AddrPort{
			netip.MustParseAddrPort("10.96.77.1:80"): netip.MustParseAddrPort("10.77.2.3:8080"),
			netip.MustParseAddrPort("10.96.77.1:81"): netip.MustParseAddrPort("10.77.2.3:8083"),
		},
	}
	dir := t.TempDir()
	program, lookErr := exec.LookPath("envoy")
	path, args, err := Envoy{Path: program}.Command(dir, hop)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem")); err != nil {
		t.Error(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "envoy.json"))
	if err != nil {
		t.Fatal(err)
	}
	var conf struct {
		Static struct{ Listeners, Clusters []struct{ Name string } } `json:"static_resources"`
	}
	if err := json.Unmarshal(raw, &conf); err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, l := range conf.Static.Listeners {
		if l.Name != "connect_terminate" && !strings.Contains(text, `"server_listener_name": "`+l.Name+`"`) {
			t.Errorf("nothing leads to listener %s", l.Name)
		}
	}
	for _, c := range conf.Static.Clusters {
		if !strings.Contains(text, `"cluster": "`+c.Name+`"`) {
			t.Errorf("nothing leads to cluster %s", c.Name)
		}
	}
	if n := len(conf.Static.Listeners); n != 5 {
		t.Errorf("%d listeners, want one for tunnels and two per service", n)
	}
	if !strings.Contains(text, `"exact": "`+server.String()+`"`) {
		t.Error("any endpoint is good enough")
	}
	if lookErr != nil {
		return
	}
	if out, err := exec.CommandContext(t.Context(), path, append(args, "--mode", "validate")...).CombinedOutput(); err != nil {
		t.Errorf("Envoy refuses it: %v\n%s", err, out)
	}
}

func TestEnvoyThatIsNotThere(t *testing.T) {
	for _, e := range []Envoy{{}, {Path: "/no/such/envoy"}} {
		if _, err := e.Find(t.Context()); err == nil {
			t.Errorf("%+v was found", e)
		}
	}
}

// selfSigned is a certificate of id that is its own root.
func selfSigned(t *testing.T, id identity.ID) *identity.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse(id.String())
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &identity.Certificate{ID: id, TLS: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, Roots: []*x509.Certificate{leaf}}
}
