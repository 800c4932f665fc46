package routes

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// tlsOf is a rule of namespace shop with TLS settings.
func tlsOf(s *api.ClientTLSSettings) Destination {
	return Rule(&networking.DestinationRule{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Spec: api.DestinationRule{TrafficPolicy: &api.TrafficPolicy{Tls: s}}})
}

// Every mode becomes one of the waypoint's, what cannot be done refuses and says what
// to do, and what it means for the mesh is always said.
func TestTLSModes(t *testing.T) {
	const simple, mutual = api.ClientTLSSettings_SIMPLE, api.ClientTLSSettings_MUTUAL
	for _, tt := range []struct {
		name    string
		in      *api.ClientTLSSettings
		want    *waypointapi.ClientTls // without Broken
		problem string                 // a part of it; "": none
		note    string
	}{
		{"disabled", &api.ClientTLSSettings{}, &waypointapi.ClientTls{}, "", "whatever it says"},
		{"that of the mesh", &api.ClientTLSSettings{Mode: api.ClientTLSSettings_ISTIO_MUTUAL}, &waypointapi.ClientTls{Mode: waypointapi.ClientTls_MESH}, "", "get no requests"},
		{"simple", &api.ClientTLSSettings{Mode: simple, Sni: "a.example", SubjectAltNames: []string{"b.example"}, CaCertificates: "/tls/ca.pem"},
			&waypointapi.ClientTls{Mode: waypointapi.ClientTls_SIMPLE, Sni: "a.example", SubjectAltNames: []string{"b.example"}, Roots: "/tls/ca.pem", Namespace: "shop"}, "", "have no tunnel"},
		{"simple, by the system's roots", &api.ClientTLSSettings{Mode: simple}, &waypointapi.ClientTls{Mode: waypointapi.ClientTls_SIMPLE, Namespace: "shop"}, "", ""},
		{"simple uses no certificate", &api.ClientTLSSettings{Mode: simple, ClientCertificate: "/c", PrivateKey: "/k"}, &waypointapi.ClientTls{Mode: waypointapi.ClientTls_SIMPLE, Namespace: "shop"}, "", ""},
		{"unverified", &api.ClientTLSSettings{Mode: simple, InsecureSkipVerify: wrapperspb.Bool(true)}, &waypointapi.ClientTls{Mode: waypointapi.ClientTls_SIMPLE, Unverified: true, Namespace: "shop"}, "", "whoever answers"},
		{"mutual", &api.ClientTLSSettings{Mode: mutual, ClientCertificate: "/c", PrivateKey: "/k"},
			&waypointapi.ClientTls{Mode: waypointapi.ClientTls_MUTUAL, Certificate: "/c", Key: "/k", Namespace: "shop"}, "", "waypoints of namespace shop alone"},
		{"mutual without a key", &api.ClientTLSSettings{Mode: mutual, ClientCertificate: "/c"}, &waypointapi.ClientTls{Mode: waypointapi.ClientTls_MUTUAL, Certificate: "/c", Namespace: "shop"}, "clientCertificate and privateKey", ""},
		{"a Secret", &api.ClientTLSSettings{Mode: simple, CredentialName: "x"}, &waypointapi.ClientTls{Mode: waypointapi.ClientTls_SIMPLE, Namespace: "shop"}, "have the waypoint mount the files", ""},
		{"a revocation list", &api.ClientTLSSettings{Mode: simple, CaCrl: "/crl"}, &waypointapi.ClientTls{Mode: waypointapi.ClientTls_SIMPLE, Namespace: "shop"}, "caCrl", ""},
		{"a path from nowhere", &api.ClientTLSSettings{Mode: simple, CaCertificates: "ca.pem"}, &waypointapi.ClientTls{Mode: waypointapi.ClientTls_SIMPLE, Roots: "ca.pem", Namespace: "shop"}, "begins with a slash", ""},
		{"a mode to come", &api.ClientTLSSettings{Mode: 17}, &waypointapi.ClientTls{Namespace: "shop"}, "17 is not known", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := tlsOf(tt.in)
			got := d.Traffic.GetTls()
			if broken := got.GetBroken(); (broken != "") != (tt.problem != "") {
				t.Errorf("broken %q", broken)
			}
			got.Broken = ""
			if !proto.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
			if len(d.Problems) > 1 || (len(d.Problems) == 1) != (tt.problem != "") || tt.problem != "" && (!strings.Contains(d.Problems[0].String(), tt.problem) || !strings.Contains(d.Problems[0].String(), "get no requests")) {
				t.Errorf("problems %v", d.Problems)
			}
			var notes string
			for _, n := range d.Notes {
				notes += n.String() + "\n"
			}
			if !strings.Contains(notes, tt.note) || !strings.Contains(notes, "spec.trafficPolicy.tls: is for endpoints that have no tunnel") {
				t.Errorf("notes %s", notes)
			}
		})
	}
}

// The nearest word counts: of a port of a subset, a subset, a port, the service.
func TestTLSOfPortsAndSubsets(t *testing.T) {
	tls := func(sni string) *api.ClientTLSSettings {
		return &api.ClientTLSSettings{Mode: api.ClientTLSSettings_SIMPLE, Sni: sni}
	}
	port := func(number uint32, sni string) *api.TrafficPolicy_PortTrafficPolicy {
		return &api.TrafficPolicy_PortTrafficPolicy{Port: &api.PortSelector{Number: number}, Tls: tls(sni)}
	}
	d := Rule(&networking.DestinationRule{Spec: api.DestinationRule{
		TrafficPolicy: &api.TrafficPolicy{Tls: tls("all"), PortLevelSettings: []*api.TrafficPolicy_PortTrafficPolicy{port(443, "port"), {Port: &api.PortSelector{Number: 80}}}},
		Subsets: []*api.Subset{
			{Name: "silent"},
			{Name: "pool", TrafficPolicy: &api.TrafficPolicy{ConnectionPool: &api.ConnectionPoolSettings{}}},
			{Name: "own", TrafficPolicy: &api.TrafficPolicy{Tls: tls("subset"), PortLevelSettings: []*api.TrafficPolicy_PortTrafficPolicy{port(444, "subset port")}}},
		},
	}})
	of := func(subset string, number uint32) string {
		for _, s := range d.Subsets {
			if t := s.Ports[number]; s.Name == subset && t != nil {
				return t.Tls.Sni
			} else if s.Name == subset {
				return s.Traffic.Tls.Sni
			}
		}
		if t := d.Ports[number]; t != nil {
			return t.Tls.Sni
		}
		return d.Traffic.Tls.Sni
	}
	for _, tt := range []struct {
		subset string
		port   uint32
		want   string
	}{
		{"", 81, "all"}, {"", 80, "all"}, {"", 443, "port"},
		{"silent", 81, "all"}, {"silent", 443, "port"}, {"pool", 81, "all"}, {"pool", 443, "port"},
		{"own", 81, "subset"}, {"own", 443, "subset"}, {"own", 444, "subset port"},
	} {
		if got := of(tt.subset, tt.port); got != tt.want {
			t.Errorf("subset %q, port %d: %q, want %q", tt.subset, tt.port, got, tt.want)
		}
	}
	d.Vouch([]string{"server.example"})
	if got := d.Subsets[0].Ports[443].Tls.SubjectAltNames; len(got) != 1 {
		t.Errorf("names of the service: %v", got)
	}
}
