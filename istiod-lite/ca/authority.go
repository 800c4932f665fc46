package ca

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

const (
	// defaultTTL and maxTTL are how long a leaf lives when nothing is asked for,
	// and at most. Source: the defaults of the existing control plane.
	defaultTTL = 24 * time.Hour
	maxTTL     = 90 * 24 * time.Hour

	// backdate is how long before now a certificate begins to be valid, for nodes
	// whose clock is late.
	backdate = 2 * time.Minute

	// lookAgain is how often the directory is looked at.
	lookAgain = time.Second

	// serialBits is the size of serial numbers: more than what can be guessed, at
	// most what fits. Source: RFC 5280, section 4.1.2.2.
	serialBits = 127
)

// errNoKey is why nothing is signed yet.
var errNoKey = errors.New("there is no CA key yet")

// Config says where an [Authority] lives and how long its certificates do. A
// negative duration is an error.
type Config struct {
	// Dir holds key and certificates. It is made when it is absent. Empty: they
	// come by [Authority.Use].
	Dir string
	// TrustDomain is that of the mesh; nothing else is signed.
	TrustDomain string
	// DefaultTTL is how long a leaf lives whose request does not say. Zero means
	// 24 hours.
	DefaultTTL time.Duration
	// MaxTTL is the longest a request may ask for. Zero means 90 days.
	MaxTTL time.Duration
}

// withDefaults returns the configuration that is in force.
func (c Config) withDefaults() (Config, error) {
	if _, err := identity.NewID(c.TrustDomain, "x", "x"); err != nil {
		return Config{}, fmt.Errorf("ca: trust domain %q: %w", c.TrustDomain, err)
	}
	if c.DefaultTTL < 0 || c.MaxTTL < 0 {
		return Config{}, fmt.Errorf("ca: DefaultTTL is %v and MaxTTL %v: want no negative value", c.DefaultTTL, c.MaxTTL)
	}
	c.DefaultTTL = cmp.Or(c.DefaultTTL, defaultTTL)
	c.MaxTTL = cmp.Or(c.MaxTTL, maxTTL)
	if c.DefaultTTL > c.MaxTTL {
		return Config{}, fmt.Errorf("ca: DefaultTTL is %v, more than MaxTTL, %v", c.DefaultTTL, c.MaxTTL)
	}
	return c, nil
}

// Authority signs certificates with the key in its directory. It may be used by
// many goroutines.
type Authority struct {
	cfg Config
	log *zap.Logger

	ring    atomic.Pointer[keyring] // nil until there is a key: never after Open
	changed chan struct{}           // a note that ring is another one

	// mu serialises reloads and guards the fields below.
	mu     sync.Mutex
	seen   directoryVersion
	failed error     // of the last reload; nil when it is in force
	where  string    // the directory, or the Secret of the last Use
	warned time.Time // when it was last said that the end is near

	transition *transition // nil: the issuer has not changed unprepared
}

// New makes an authority without a key: it signs nothing until [Authority.Use]
// has given it one.
func New(cfg Config, log *zap.Logger) (*Authority, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Authority{cfg: cfg, log: log, where: cfg.Dir, changed: make(chan struct{}, 1)}, nil
}

// Open reads the directory, or makes a self-signed root in an empty one.
func Open(cfg Config, log *zap.Logger) (*Authority, error) {
	if cfg.Dir == "" {
		return nil, errors.New("ca: the directory is not set")
	}
	a, err := New(cfg, log)
	if err != nil {
		return nil, err
	}
	cfg = a.cfg
	if err := prepareDirectory(cfg); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	a.seen = directoryVersionOf(cfg.Dir)
	ring, err := loadKeyring(cfg.Dir, time.Now())
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	if err := ring.publish(cfg.Dir); err != nil {
		return nil, fmt.Errorf("ca: publish roots: %w", err)
	}
	a.ring.Store(ring)
	return a, nil
}

// Run takes over changes of the directory until ctx ends. A bad set of files is
// logged, and the last good one stays in force.
func (a *Authority) Run(ctx context.Context) error {
	for lifecycle.Sleep(ctx, lookAgain) == nil {
		if a.cfg.Dir != "" {
			a.Reload()
		}
		a.finishTransition(time.Now())
		a.warn(time.Now())
	}
	return nil
}

// Use puts the values of a Secret in force, by the names of the files that a
// directory would have; empty ones count as absent. where is how people call the
// Secret. It returns why what is there cannot be used; then the last good state
// stays in force.
func (a *Authority) Use(where string, values map[string][]byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.failed
	a.where = where
	ring, err := material{where: where, files: values, secret: true}.keyring(time.Now())
	if err == nil {
		a.beginLocked(ring, time.Now())
	}
	a.failed = err
	a.sayLocked(before)
	return a.failed
}

// Changed has a note whenever there are other certificates than before. One
// goroutine may wait for it.
func (a *Authority) Changed() <-chan struct{} { return a.changed }

// installLocked puts a keyring in force. The caller holds a.mu.
func (a *Authority) installLocked(ring *keyring) {
	if old := a.ring.Load(); old != nil && old.digest == ring.digest {
		return
	}
	a.ring.Store(ring)
	a.log.Info("CA certificates changed", zap.String("in", a.where), zap.Stringer("issuer", ring.issuer.Subject),
		zap.Time("issuer_not_after", ring.notAfter), zap.Int("roots", len(ring.roots)))
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// sayLocked logs that a set was refused, once, and that the next was not. The
// caller holds a.mu.
func (a *Authority) sayLocked(before error) {
	switch {
	case a.failed != nil && (before == nil || before.Error() != a.failed.Error()):
		a.log.Error("CA files refused, the last good ones stay in force", zap.String("in", a.where), zap.Error(a.failed))
	case a.failed == nil && before != nil:
		a.log.Info("CA files accepted again", zap.String("in", a.where))
	}
}

// Reload takes over changes of the directory now. It returns why what is there
// cannot be used; then the last good state stays in force.
func (a *Authority) Reload() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	version := directoryVersionOf(a.cfg.Dir)
	if a.failed == nil && version == a.seen && !version.fresh(time.Now()) {
		return nil
	}
	before := a.failed
	a.seen, a.failed = version, a.reloadLocked()
	a.sayLocked(before)
	return a.failed
}

// reloadLocked reads the directory and puts it in force. The caller holds a.mu.
func (a *Authority) reloadLocked() error {
	ring, err := loadKeyring(a.cfg.Dir, time.Now())
	if err != nil {
		return err
	}
	if ring.digest == a.ring.Load().digest {
		return nil
	}
	if err := ring.publish(a.cfg.Dir); err != nil {
		return fmt.Errorf("publish roots: %w", err)
	}
	a.installLocked(ring)
	return nil
}

// Roots returns the certificates that the mesh trusts, in PEM; empty when there
// are none yet.
func (a *Authority) Roots() string {
	if ring := a.ring.Load(); ring != nil {
		return ring.rootsPEM
	}
	return ""
}

// TrustDomain returns the trust domain whose identities are signed.
func (a *Authority) TrustDomain() string { return a.cfg.TrustDomain }

// Sign makes a certificate that says that the holder of public is id. A ttl of
// zero or less means the default. The result is leaf, intermediates, and last
// the bundle of roots, each in PEM. A [*RequestError] means that the request is
// at fault.
func (a *Authority) Sign(public crypto.PublicKey, id identity.ID, ttl time.Duration) ([]string, error) {
	if id.TrustDomain != a.cfg.TrustDomain {
		return nil, &RequestError{fmt.Errorf("identity %v is not of trust domain %s", id, a.cfg.TrustDomain)}
	}
	// Checked again: an ID can be put together without a parser.
	if checked, err := identity.ParseID(id.String()); err != nil || checked != id {
		return nil, &RequestError{fmt.Errorf("identity %q cannot be signed", id)}
	}
	if ttl <= 0 {
		ttl = a.cfg.DefaultTTL
	}
	if ttl > a.cfg.MaxTTL {
		return nil, &RequestError{fmt.Errorf("validity of %v: want at most %v", ttl, a.cfg.MaxTTL)}
	}
	uri, err := url.Parse(id.String())
	if err != nil {
		return nil, err
	}
	ring := a.ring.Load()
	if ring == nil {
		return nil, errNoKey
	}
	der, err := ring.sign(&x509.Certificate{
		URIs:        []*url.URL{uri},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, public, ttl)
	if err != nil {
		return nil, err
	}
	chain := []string{certificatePEM(der)}
	for _, cert := range ring.intermediates {
		chain = append(chain, certificatePEM(cert.Raw))
	}
	return append(chain, ring.rootsPEM), nil
}

// sign completes template as a leaf and signs it. The leaf does not outlive what
// it rests on.
func (r *keyring) sign(template *x509.Certificate, public crypto.PublicKey, ttl time.Duration) ([]byte, error) {
	now := time.Now()
	if !now.Before(r.notAfter) {
		return nil, fmt.Errorf("the CA certificate %v has expired at %v", r.issuer.Subject, r.notAfter)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1)) // never zero
	template.NotBefore = latest(now.Add(-backdate), r.issuer.NotBefore)
	template.NotAfter = now.Add(ttl)
	if template.NotAfter.After(r.notAfter) {
		template.NotAfter = r.notAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true // and not a CA
	return x509.CreateCertificate(rand.Reader, template, r.issuer, public, r.key)
}

// latest returns the later of two times.
func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// certificatePEM writes one certificate.
func certificatePEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
