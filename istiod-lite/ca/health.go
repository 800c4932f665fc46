package ca

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"

	"go.uber.org/zap"
)

const (
	// warnBefore is how long before a CA certificate ends people are told. Our
	// choice: time for a rotation that is planned, announced and put off once.
	warnBefore = 60 * 24 * time.Hour
	// warnAgain is how often the log says so.
	warnAgain = 12 * time.Hour
)

// Status says how it stands with an [Authority]. Certificates are named by the
// SHA-256 of their DER, in hexadecimal digits.
type Status struct {
	Where     string    `json:"secret"` // the Secret, or the directory
	Issuer    string    `json:"issuer"` // the certificate that signs
	IssuerIs  string    `json:"issuerSubject"`
	NotAfter  time.Time `json:"notAfter"` // when it, or what it rests on, ends
	Roots     []string  `json:"roots"`    // that are trusted, in the order of the bundle
	RootsAre  []string  `json:"rootSubjects"`
	Warning   string    `json:"warning,omitempty"` // what ends soon
	Waits     string    `json:"waits,omitempty"`   // the issuer that takes over, and when
	LastError string    `json:"error"`             // why what is there now is not in force; or ""
}

// Status describes the state that is in force.
func (a *Authority) Status() Status {
	a.mu.Lock()
	failed, s := a.failed, Status{Where: a.where, Waits: a.waitsLocked()}
	a.mu.Unlock()
	if ring := a.ring.Load(); ring != nil {
		s.Issuer, s.IssuerIs, s.NotAfter = fingerprint(ring.issuer), ring.issuer.Subject.String(), ring.notAfter
		for _, root := range ring.roots {
			s.Roots = append(s.Roots, fingerprint(root))
			s.RootsAre = append(s.RootsAre, root.Subject.String())
		}
		s.Warning = ring.warning(time.Now())
	}
	if failed != nil {
		s.LastError = failed.Error()
	}
	return s
}

// fingerprint names a certificate.
func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Check says why there is no authority: none was read yet, or none that is good. An
// authority that has expired is one: it signs nothing, but whoever holds a
// certificate still needs to hear from this process who is where, and to be told
// of a new root. See [Authority.Expired].
func (a *Authority) Check() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.ring.Load() != nil:
		return nil
	case a.failed != nil:
		return a.failed
	}
	return errNoKey
}

// Expired says why nothing can be signed any more; nil while it can, and before
// there is anything to sign with.
func (a *Authority) Expired() error {
	a.mu.Lock()
	where := a.where
	a.mu.Unlock()
	if ring := a.ring.Load(); ring != nil && !time.Now().Before(ring.notAfter) {
		return fmt.Errorf("the certificate %v, or what it rests on, has expired at %v: put a new one into %s", ring.issuer.Subject, ring.notAfter, where)
	}
	return nil
}

// warning is what people have to know about the end of what signs; empty when
// there is time.
func (r *keyring) warning(now time.Time) string {
	left := r.notAfter.Sub(now)
	switch {
	case left <= 0:
		return fmt.Sprintf("%v, or what it rests on, has expired at %s", r.issuer.Subject, r.notAfter.Format(time.RFC3339))
	case left < warnBefore:
		return fmt.Sprintf("%v, or what it rests on, expires in %d days, at %s: try ambit ca rotate", r.issuer.Subject, left/(24*time.Hour), r.notAfter.Format(time.RFC3339))
	}
	return ""
}

// warn logs from time to time that the end is near.
func (a *Authority) warn(now time.Time) {
	ring := a.ring.Load()
	if ring == nil {
		return
	}
	text := ring.warning(now)
	a.mu.Lock()
	defer a.mu.Unlock()
	if text == "" || now.Sub(a.warned) < warnAgain {
		return
	}
	a.warned = now
	a.log.Warn("the CA certificate ends soon", zap.String("what", text), zap.String("in", a.where))
}
