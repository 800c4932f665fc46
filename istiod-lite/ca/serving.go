package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"time"
)

// servingTTL is how long a serving certificate lives. It is renewed at half of
// it, at the next handshake.
const servingTTL = 24 * time.Hour

// Serving holds the certificate of the control plane's own port. It is made at
// the first handshake and again when half of its life is over or the authority
// has changed. It may be used by many goroutines.
type Serving struct {
	authority *Authority
	dns       []string
	ips       []net.IP

	// mu guards the fields below.
	mu      sync.Mutex
	ring    *keyring // that signed cert
	cert    *tls.Certificate
	renewAt time.Time
}

// Serving prepares a certificate for names: DNS names and IP addresses.
func (a *Authority) Serving(names []string) (*Serving, error) {
	s := &Serving{authority: a}
	for _, name := range names {
		switch ip := net.ParseIP(name); {
		case ip != nil:
			s.ips = append(s.ips, ip)
		case name == "":
			return nil, errors.New("ca: a name of the serving certificate is empty")
		default:
			s.dns = append(s.dns, name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("ca: the serving certificate has no name")
	}
	return s, nil
}

// TLS returns the settings of the port: TLS 1.3, the certificate of the moment,
// and no client certificates, for callers prove themselves per call.
func (s *Serving) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2"},
		GetCertificate:         s.GetCertificate,
		SessionTicketsDisabled: true, // a renewal is seen by all new connections
	}
}

// GetCertificate returns the certificate of the moment. When it cannot be
// renewed the old one is served until it expires.
func (s *Serving) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ring, now := s.authority.ring.Load(), time.Now()
	if ring == nil {
		return nil, errNoKey
	}
	if s.cert != nil && s.ring == ring && now.Before(s.renewAt) {
		return s.cert, nil
	}
	cert, err := s.issue(ring)
	if err != nil {
		if s.cert != nil && now.Before(s.cert.Leaf.NotAfter) {
			return s.cert, nil
		}
		return nil, err
	}
	s.ring, s.cert = ring, cert
	s.renewAt = now.Add(cert.Leaf.NotAfter.Sub(now) / 2)
	return cert, nil
}

// issue makes key and certificate.
func (s *Serving) issue(ring *keyring) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := ring.sign(&x509.Certificate{
		DNSNames:    s.dns,
		IPAddresses: s.ips,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key.Public(), servingTTL)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	for _, c := range ring.intermediates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert, nil
}
