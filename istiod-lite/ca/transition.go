package ca

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
)

// spreadTime is how long a root needs to reach every proxy: ConfigMaps are in pods
// within a minute or two, and proxies ask for new certificates as soon as they see
// it. Our choice: twice that.
const spreadTime = 3 * time.Minute

// transition is a change of the issuer that nobody has prepared: somebody has
// replaced the Secret by one under a root that no proxy trusts. Whoever got a
// certificate of it at once would be refused by all others. So for a while the old
// issuer goes on, and both roots are trusted; then the new one takes over.
type transition struct {
	next *keyring
	at   time.Time // when it takes over
	done bool      // it has
	old  []*x509.Certificate
}

// beginLocked decides whether a keyring can be put in force as it is; else it
// begins a transition. The caller holds a.mu.
func (a *Authority) beginLocked(next *keyring, now time.Time) {
	current := a.ring.Load()
	if current == nil {
		a.installLocked(next)
		return
	}
	known := current.roots // that proxies have had time to learn of
	if t := a.transition; t != nil {
		if t.next.digest == next.digest {
			return // it is under way, or done
		}
		if !t.done {
			known = t.old
		}
	}
	if next.trustedBy(known, now) || !now.Before(current.notAfter) {
		a.transition = nil
		a.installLocked(next)
		return
	}
	a.transition = &transition{next: next, at: now.Add(spreadTime), old: known}
	a.log.Warn("the CA's Secret has another issuer, under a root that nobody trusts yet: both roots are distributed, and the new issuer signs when proxies have had time to learn of it; restart the control plane to switch at once",
		zap.String("in", a.where), zap.Stringer("issuer", next.issuer.Subject), zap.Time("at", a.transition.at))
	a.installLocked(current.trusting(next.roots))
}

// finishTransition lets the new issuer take over when it is time. The old roots
// stay trusted as long as its Secret does not change: certificates under them are
// in use for a day.
func (a *Authority) finishTransition(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.transition
	if t == nil || t.done || now.Before(t.at) {
		return
	}
	t.done = true
	a.installLocked(t.next.trusting(t.old))
}

// trustedBy reports whether the issuer leads to one of the roots.
func (r *keyring) trustedBy(roots []*x509.Certificate, now time.Time) bool {
	trusted, between := x509.NewCertPool(), x509.NewCertPool()
	for _, root := range roots {
		trusted.AddCert(root)
	}
	for _, cert := range r.intermediates {
		between.AddCert(cert)
	}
	_, err := r.issuer.Verify(x509.VerifyOptions{
		Roots: trusted, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err == nil
}

// trusting is the keyring with further roots.
func (r *keyring) trusting(roots []*x509.Certificate) *keyring {
	more := *r
	more.roots = unique(append(slices.Clip(r.roots), roots...))
	more.seal()
	return &more
}

// waitsLocked says what waits; empty when nothing does. The caller holds a.mu.
func (a *Authority) waitsLocked() string {
	if t := a.transition; t != nil && !t.done {
		return fmt.Sprintf("issuer %s of the Secret takes over at %s, when its root has reached every proxy", fingerprint(t.next.issuer), t.at.UTC().Format(time.RFC3339))
	}
	return ""
}
