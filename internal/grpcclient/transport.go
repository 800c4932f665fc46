package grpcclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"google.golang.org/grpc/credentials"
)

const (
	// maxRootFile is the most that is read of a file of roots, in bytes.
	maxRootFile = 4 << 20

	// systemRoots in place of a path means the roots of the operating system, and
	// a text with pemBegin in it the roots themselves.
	systemRoots = "SYSTEM"
	pemBegin    = "-----BEGIN"
)

// transport is TLS whose roots are looked up at each handshake, so that new
// connections follow a file that changes.
type transport struct {
	credentials.TransportCredentials // for what does not depend on roots

	serverName string
	roots      func() (*x509.CertPool, error) // nil pool: those of the system
}

// newTransport prepares TLS to serverName with the roots that rootCA names.
func newTransport(rootCA, serverName string) (*transport, error) {
	t := &transport{serverName: serverName}
	switch {
	case rootCA == "":
		return nil, errors.New(`control plane roots are not set: want a path, "SYSTEM" or PEM text`)
	case rootCA == systemRoots:
		t.roots = func() (*x509.CertPool, error) { return nil, nil }
	case strings.Contains(rootCA, pemBegin):
		pool, err := parseRoots("PEM text", []byte(rootCA))
		if err != nil {
			return nil, err
		}
		t.roots = func() (*x509.CertPool, error) { return pool, nil }
	default:
		t.roots = func() (*x509.CertPool, error) { return readRoots(rootCA) }
	}
	t.TransportCredentials = credentials.NewTLS(t.config(nil))
	return t, nil
}

// config is TLS to the control plane with the given roots.
func (t *transport) config(roots *x509.CertPool) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.serverName, RootCAs: roots}
}

// ClientHandshake makes TLS on raw with the roots of this moment.
func (t *transport) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, errors.New("TLS handshake took too long"))
	defer cancel()
	roots, err := t.roots()
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(t.config(roots)).ClientHandshake(ctx, authority, raw)
}

// Clone is used by gRPC to keep a copy of its own.
func (t *transport) Clone() credentials.TransportCredentials {
	c := *t
	c.TransportCredentials = t.TransportCredentials.Clone()
	return &c
}

// readRoots reads a PEM file of roots.
func readRoots(path string) (*x509.CertPool, error) {
	text, err := readFile(path, maxRootFile)
	if err != nil {
		return nil, fmt.Errorf("control plane roots: %w", err)
	}
	return parseRoots(path, text)
}

// parseRoots makes a pool of the PEM certificates of text; from names it.
func parseRoots(from string, text []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("control plane roots: no PEM certificate in %s", from)
	}
	return pool, nil
}

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err // os names the act and the path
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, nil
}
