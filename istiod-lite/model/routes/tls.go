package routes

import (
	"path"

	api "istio.io/api/networking/v1alpha3"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// besideTunnels is what TLS settings mean to endpoints in the mesh.
const besideTunnels = "is for endpoints that have no tunnel; those in the mesh are reached through theirs, by mutual TLS of the mesh, whatever it says"

// tls translates how endpoints without a tunnel are secured. What cannot be done is
// not left out: requests to them are refused.
func (t *trafficConverter) tls(at string, s *api.ClientTLSSettings) *waypointapi.ClientTls {
	t.note(at, besideTunnels)
	out := &waypointapi.ClientTls{
		Sni: s.GetSni(), SubjectAltNames: s.GetSubjectAltNames(), Roots: s.GetCaCertificates(),
		Certificate: s.GetClientCertificate(), Key: s.GetPrivateKey(), Unverified: s.GetInsecureSkipVerify().GetValue(), Namespace: t.namespace,
	}
	switch s.GetMode() {
	case api.ClientTLSSettings_DISABLE:
		return &waypointapi.ClientTls{}
	case api.ClientTLSSettings_ISTIO_MUTUAL:
		t.note(at, "with ISTIO_MUTUAL endpoints that have no tunnel get no requests")
		return &waypointapi.ClientTls{Mode: waypointapi.ClientTls_MESH}
	case api.ClientTLSSettings_SIMPLE:
		out.Mode = waypointapi.ClientTls_SIMPLE
		out.Certificate, out.Key = "", ""
	case api.ClientTLSSettings_MUTUAL:
		out.Mode = waypointapi.ClientTls_MUTUAL
		t.note(at, "certificates for MUTUAL are used by waypoints of namespace "+t.namespace+" alone: the files are theirs")
	}
	broken := func(field, text string) {
		out.Broken = "tls." + field + " " + text
		t.problem(at+"."+field, "%s. Until then endpoints without a tunnel get no requests", text)
	}
	file := func(field, name string) {
		if name != "" && !path.IsAbs(name) {
			broken(field, "is no path that begins with a slash")
		}
	}
	file("caCertificates", out.Roots)
	file("clientCertificate", out.Certificate)
	file("privateKey", out.Key)
	switch {
	case s.GetCredentialName() != "":
		broken("credentialName", "is not supported, as nothing of the mesh reads Secrets outside of its own namespace: have the waypoint mount the files (parametersRef of its Gateway), and name them in caCertificates, clientCertificate and privateKey")
	case s.GetCaCrl() != "":
		broken("caCrl", "is not supported: revocation lists are not looked at")
	case out.Mode == waypointapi.ClientTls_DISABLE:
		broken("mode", s.GetMode().String()+" is not known")
	case out.Mode == waypointapi.ClientTls_MUTUAL && (out.Certificate == "" || out.Key == ""):
		broken("mode", "MUTUAL needs clientCertificate and privateKey")
	case out.Unverified:
		t.note(at+".insecureSkipVerify", "whoever answers is taken for the server")
	}
	return out
}

// Vouch says which names a server may prove where the rule itself names none: those
// of the service. Source: ServiceEntry, subjectAltNames.
func (d *Destination) Vouch(names []string) {
	set := func(t *waypointapi.Traffic) {
		if tls := t.GetTls(); len(tls.GetSubjectAltNames()) == 0 && tls.GetMode() != waypointapi.ClientTls_DISABLE {
			tls.SubjectAltNames = names
		}
	}
	set(d.Traffic)
	for _, t := range d.Ports {
		set(t)
	}
	for _, s := range d.Subsets {
		set(s.Traffic)
		for _, t := range s.Ports {
			set(t)
		}
	}
}
