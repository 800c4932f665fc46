package keys

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/waypoint/jwt"
)

// Limits on what servers of keys may do to us. All are our choice.
const (
	// fetchTime is how long one fetch may take, discovery included.
	fetchTime = 10 * time.Second
	// maxRedirects is how often a server may send us elsewhere.
	maxRedirects = 3
	// maxHead is the largest head of an answer, in bytes.
	maxHead = 64 << 10
)

// newClient makes the client that all fetches use. It keeps no connection: the next
// fetch is minutes away.
func newClient(cfg Config, deps Deps) *http.Client {
	may := func(a netip.Addr) error { return Forbidden(a, cfg.Also) }
	dialer := &net.Dialer{
		Timeout: fetchTime,
		Control: func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return may(at.Addr())
		},
	}
	return &http.Client{
		Timeout: fetchTime,
		Transport: &http.Transport{
			DisableKeepAlives: true, MaxResponseHeaderBytes: maxHead, TLSHandshakeTimeout: fetchTime,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.Roots},
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if deps.Mesh != nil {
					host, port, err := splitAddress(address)
					if err != nil {
						return nil, err
					}
					if c, ok, err := deps.Mesh(ctx, host, port, may); ok {
						return c, err
					}
				}
				return dialer.DialContext(ctx, network, address)
			},
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return fmt.Errorf("more than %d redirects", maxRedirects)
			}
			if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
				return errors.New("a redirect from https to " + req.URL.Scheme)
			}
			return nil
		},
	}
}

// splitAddress splits host:port.
func splitAddress(address string) (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return host, uint16(n), err
}

// fetch gets the keys of a source once.
func fetch(ctx context.Context, client *http.Client, src jwt.Source) (*jwt.Keys, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	uri := src.URI
	if src.Discover {
		var err error
		if uri, err = discover(ctx, client, src.URI); err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
	}
	text, err := get(ctx, client, uri)
	if err != nil {
		return nil, err
	}
	return jwt.ParseKeys(text)
}

// discover finds where an issuer has its keys. Source: OpenID Connect Discovery 1.0,
// section 4.
func discover(ctx context.Context, client *http.Client, issuer string) (uri string, err error) {
	text, err := get(ctx, client, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return "", err
	}
	var doc struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return "", err
	}
	if doc.Issuer != issuer {
		return "", fmt.Errorf("the document is that of issuer %q", doc.Issuer)
	}
	if strings.HasPrefix(issuer, "https:") && !strings.HasPrefix(doc.Keys, "https:") {
		return "", fmt.Errorf("the document of an issuer with https names keys at %q", doc.Keys)
	}
	return doc.Keys, nil
}

// get reads one document.
func get(ctx context.Context, client *http.Client, uri string) ([]byte, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("%q is no address of https or http", uri)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, jwt.MaxKeySet+1))
	if err != nil {
		return nil, err
	}
	if len(text) > jwt.MaxKeySet {
		return nil, fmt.Errorf("more than %d bytes", jwt.MaxKeySet)
	}
	return text, nil
}
