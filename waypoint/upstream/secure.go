package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/waypoint/config"
)

// ErrSettings: connections cannot be made as the users want them, whichever endpoint
// is picked. Nothing is sent in plain instead.
var ErrSettings = errors.New("the service's TLS settings cannot be met")

// Names of what is spoken inside of TLS. Source: IANA, TLS ALPN Protocol IDs.
const (
	alpnHTTP1 = "http/1.1"
	alpnHTTP2 = "h2"
	alpnBytes = "" // nobody is asked
)

// vault keeps what securing connections needs of files, for as long as the files stay
// what they were. The zero vault is ready for use, by any goroutine.
type vault struct {
	mu  sync.Mutex
	all map[config.Security]*loaded
}

// loaded are the settings of TLS for one kind of security.
type loaded struct {
	tls   *tls.Config
	files [3]os.FileInfo // it was made of; nil: none
	used  time.Time
}

// settings are those of a connection. Each new connection looks whether files have
// changed, so that renewed certificates are used.
func (v *vault) settings(s config.Security, now time.Time) (*tls.Config, error) {
	if s.Broken != "" {
		return nil, fmt.Errorf("%w: %s", ErrSettings, s.Broken)
	}
	var files [3]os.FileInfo
	for i, name := range [3]string{s.Roots, s.Certificate, s.Key} {
		if name == "" {
			continue
		}
		var err error
		if files[i], err = os.Stat(name); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSettings, err)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.all[s]
	if l == nil || !slices.EqualFunc(l.files[:], files[:], sameFile) {
		cfg, err := load(s)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSettings, err)
		}
		if v.all == nil {
			v.all = map[config.Security]*loaded{}
		}
		l = &loaded{tls: cfg, files: files}
		v.all[s] = l
	}
	l.used = now
	return l.tls, nil
}

// sameFile reports whether a file is what it was.
func sameFile(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// forgetTime is how long settings are kept that no new connection uses: our choice.
// They cost a read of files then.
const forgetTime = 10 * time.Minute

// sweep forgets what nobody uses.
func (v *vault) sweep(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for s, l := range v.all {
		if now.Sub(l.used) > forgetTime {
			delete(v.all, s)
		}
	}
}

// load reads the files.
func load(s config.Security) (*tls.Config, error) {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12, // outside of the mesh 1.3 is not everywhere
		ServerName: s.ServerName,
		// VerifyConnection does all of the checking: names are of several kinds.
		InsecureSkipVerify: true,
	}
	if s.Certificate != "" {
		cert, err := tls.LoadX509KeyPair(s.Certificate, s.Key)
		if err != nil {
			return nil, err
		}
		// Not Certificates: those are withheld from a server whose hints do not name
		// their issuer, and the server then cannot say what is wrong.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	if s.Unverified {
		return cfg, nil
	}
	var roots *x509.CertPool // nil: those of the system
	if s.Roots != "" {
		pem, err := os.ReadFile(s.Roots)
		if err != nil {
			return nil, err
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in %s", s.Roots)
		}
	}
	names := s.Names
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { return verify(cs.PeerCertificates, roots, names) }
	return cfg, nil
}

// verify reports why a server is not one of names, each of which has a newline behind
// it. roots are who vouches for it; nil: those of the system.
func verify(chain []*x509.Certificate, roots *x509.CertPool, names string) error {
	if len(chain) == 0 {
		return errors.New("the endpoint has shown no certificate")
	}
	leaf, intermediates := chain[0], x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return fmt.Errorf("certificate of the endpoint: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(names, "\n"), "\n") {
		if isNamed(leaf, name) {
			return nil
		}
	}
	return fmt.Errorf("certificate of the endpoint: it is for %s, want one of %q", namesOf(leaf), strings.Fields(names))
}

// isNamed reports whether a certificate is for a DNS name, an address, a URI or a
// mailbox.
func isNamed(c *x509.Certificate, name string) bool {
	if name == "" {
		return false
	}
	for _, u := range c.URIs {
		if u.String() == name {
			return true
		}
	}
	return slices.Contains(c.EmailAddresses, name) || c.VerifyHostname(name) == nil
}

// namesOf are the names that a certificate is for, for people.
func namesOf(c *x509.Certificate) string {
	names := slices.Concat(c.DNSNames, c.EmailAddresses)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	return fmt.Sprintf("%q", names)
}

// secure speaks TLS on a new connection, which it closes when that fails. alpn is what
// is going to be spoken inside.
func secure(ctx context.Context, raw *net.TCPConn, cfg *tls.Config, alpn string) (link, error) {
	if alpn != alpnBytes {
		cfg = cfg.Clone()
		cfg.NextProtos = []string{alpn}
	}
	s := &socket{plain: plain{raw}}
	c := tls.Client(s, cfg)
	err := c.HandshakeContext(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil && alpn == alpnHTTP2 && c.ConnectionState().NegotiatedProtocol != alpnHTTP2 {
		err = errors.New("the endpoint does not say that it speaks HTTP/2 (ALPN h2)")
	}
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("TLS with %s: %w", cfg.ServerName, err)
	}
	return secured{Conn: c, raw: s}, nil
}

// socket is what TLS writes to.
type socket struct {
	plain
	leaving atomic.Bool // what does not go now need not go any more
}

// Write sends all of b, or when nobody waits for it any more, what can be sent at
// once.
func (s *socket) Write(b []byte) (int, error) {
	if s.leaving.Load() {
		_, err := s.plain.WriteNow(b)
		return len(b), err
	}
	return s.plain.Write(b)
}

// errNoGoodbye is why what came over TLS may not be all of it. Source: RFC 8446, section
// 6.1; RFC 9112, section 9.8.
var errNoGoodbye = errors.New("the endpoint has ended the connection without the goodbye of TLS")

// Read reads what TLS understands. An end below TLS is not an end: crypto/tls would take
// it for one, and who cuts the connection could cut an answer short.
func (s *socket) Read(p []byte) (int, error) {
	n, err := s.plain.Read(p)
	if err == io.EOF {
		err = errNoGoodbye
	}
	return n, err
}

// SetWriteDeadline does nothing: with it crypto/tls would bound how long the end of a
// direction may take, and a slow reader would see a broken connection for an end.
func (s *socket) SetWriteDeadline(time.Time) error { return nil }

// secured is TLS with what streams of tunnels can do.
type secured struct {
	*tls.Conn
	raw *socket
}

// Reset ends both directions at once; the endpoint sees a reset.
func (s secured) Reset() { s.raw.Reset() }

// Close says goodbye, if that takes no time, and closes the connection.
func (s secured) Close() error {
	s.raw.leaving.Store(true)
	return s.Conn.Close()
}

// SetWriteDeadline bounds what is written from now on.
func (s secured) SetWriteDeadline(t time.Time) error { return s.raw.TCPConn.SetWriteDeadline(t) }

// SetDeadline bounds what is read and written from now on.
func (s secured) SetDeadline(t time.Time) error { return s.raw.TCPConn.SetDeadline(t) }

// longAgo is a time that has passed.
var longAgo = time.Unix(1, 0)

// Quiet reports whether the endpoint has said nothing that was not read. It looks
// without waiting, nobody may be reading, and of what the endpoint has said a byte may
// be lost: whoever is not quiet is not used again.
func (s secured) Quiet() bool {
	if !s.raw.Quiet() {
		return false
	}
	// What came with the records that were read lies in the TLS connection. With a
	// deadline that has passed it gives that and does not go to the socket.
	if s.raw.SetReadDeadline(longAgo) != nil {
		return false
	}
	var b [1]byte
	n, err := s.Conn.Read(b[:])
	return s.raw.SetReadDeadline(time.Time{}) == nil && n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// WriteNow writes nothing: a record cannot be sent in part.
func (s secured) WriteNow([]byte) (int, error) { return 0, nil }
