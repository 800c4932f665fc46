package config

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// Traffic is how the endpoints of a service, of one of its ports or subsets, are
// treated. It never changes. The zero Traffic is not ready for use: see
// [Service.Traffic].
type Traffic struct {
	*waypointapi.Traffic // never nil
	// Security is for endpoints without a tunnel.
	Security Security
	// Places is who comes first, by where they are; often nil.
	Places *Places
	// MaxDuration is how long a connection is used; zero: for as long as it stands.
	MaxDuration time.Duration
}

// noTraffic is that of services of which the users say nothing.
var noTraffic = &Traffic{Traffic: &waypointapi.Traffic{}}

// Security is how connections to endpoints without a tunnel are secured. The zero
// Security means in plain. Two connections that were made with equal ones are worth
// the same to their users; it is comparable for that.
type Security struct {
	// TLS is spoken; else nothing else of this counts, but for Broken.
	TLS bool
	// ServerName is what the endpoint is asked for.
	ServerName string
	// Names are those of which the endpoint has to prove one, each with a newline
	// behind it.
	Names string
	// Roots is a file with certificates that vouch for the endpoint; empty: those of
	// the system do.
	Roots string
	// Certificate and Key are files that prove who we are; empty: nobody asks.
	Certificate, Key string
	// Unverified takes whoever answers.
	Unverified bool
	// Broken is why nobody can be reached as the users want it; empty: they can.
	Broken string
}

// compileTraffic checks how endpoints of a host are treated, at the waypoint own; nil
// stays nil.
func compileTraffic(t *waypointapi.Traffic, host string, own Name) *Traffic {
	if t == nil {
		return nil
	}
	return &Traffic{Traffic: t, Security: compileSecurity(t.GetTls(), host, own), Places: compilePlaces(t), MaxDuration: t.GetLimits().GetMaxDuration().AsDuration()}
}

// compileSecurity checks what connections to endpoints of a host need. What cannot be
// done is not left out: nobody is reached then.
func compileSecurity(t *waypointapi.ClientTls, host string, own Name) Security {
	broken := func(format string, args ...any) Security { return Security{Broken: fmt.Sprintf(format, args...)} }
	switch t.GetMode() {
	case waypointapi.ClientTls_DISABLE:
		return Security{Broken: t.GetBroken()}
	case waypointapi.ClientTls_MESH:
		return broken("mutual TLS of the mesh is asked for (ISTIO_MUTUAL), and the endpoint is not in the mesh")
	case waypointapi.ClientTls_SIMPLE, waypointapi.ClientTls_MUTUAL:
	default:
		return broken("TLS mode %v is not known", t.GetMode())
	}
	s := Security{
		TLS: true, ServerName: cmp.Or(t.GetSni(), host), Roots: t.GetRoots(), Unverified: t.GetUnverified(), Broken: t.GetBroken(),
		Certificate: t.GetCertificate(), Key: t.GetKey(),
	}
	for _, name := range t.GetSubjectAltNames() {
		s.Names += name + "\n"
	}
	s.Names = cmp.Or(s.Names, s.ServerName+"\n")
	switch {
	case s.Broken != "":
	case strings.Contains(s.ServerName, "*"):
		return broken("%s is no name of a server: set tls.sni", s.ServerName)
	case t.GetMode() != waypointapi.ClientTls_MUTUAL:
		s.Certificate, s.Key = "", ""
	case s.Certificate == "" || s.Key == "":
		return broken("mutual TLS needs a certificate and a key")
	case t.GetNamespace() != own.Namespace:
		return broken("the certificates of a waypoint of namespace %s are not for rules of namespace %q", own.Namespace, t.GetNamespace())
	}
	for _, file := range []string{s.Roots, s.Certificate, s.Key} {
		if file != "" && !filepath.IsAbs(file) {
			return broken("%s: want a path from the root of the waypoint's files", file)
		}
	}
	return s
}

// Traffic is how endpoints are chosen and reached: for a port of a subset, else the
// subset, else the port, else the service. Never nil.
func (s *Service) Traffic(number uint16, subset string) *Traffic {
	if s == nil {
		return noTraffic
	}
	if sub := s.subsets[subset]; subset != "" && sub != nil {
		if t := sub.ports[number]; t != nil {
			return t
		}
		if sub.traffic != nil {
			return sub.traffic
		}
	}
	return cmp.Or(s.ports[number].traffic, s.traffic, noTraffic)
}
