package grpcclient

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"google.golang.org/grpc/credentials"
)

// maxToken is the longest token, in bytes. Our choice: far above any JWT, below
// what servers take as headers.
const maxToken = 32 << 10

// callHeaders is what every call carries: the token, the cluster, and the extra
// headers.
type callHeaders struct {
	fixed map[string]string
	token func() (string, error) // nil: none
}

var _ credentials.PerRPCCredentials = (*callHeaders)(nil)

// newCallHeaders checks what can be checked before the first call.
func newCallHeaders(cfg Config) (*callHeaders, error) {
	h := &callHeaders{fixed: map[string]string{}}
	for name, value := range cfg.Headers {
		name = strings.ToLower(strings.TrimSpace(name))
		if err := checkHeader(name, value); err != nil {
			return nil, err
		}
		if name == "authorization" || name == "clusterid" {
			return nil, fmt.Errorf("header %q is made of the token and the cluster id and cannot be set", name)
		}
		h.fixed[name] = value
	}
	if cfg.ClusterID != "" {
		if err := checkHeader("clusterid", cfg.ClusterID); err != nil {
			return nil, err
		}
		h.fixed["clusterid"] = cfg.ClusterID
	}
	switch {
	case cfg.Token == "":
	case strings.HasPrefix(cfg.Token, "/"), strings.HasPrefix(cfg.Token, "./"), strings.HasPrefix(cfg.Token, "../"):
		h.token = func() (string, error) { return readToken(cfg.Token) }
	default:
		if !printable(cfg.Token) {
			return nil, fmt.Errorf("control plane token holds a character that a header cannot carry")
		}
		h.token = func() (string, error) { return cfg.Token, nil }
	}
	return h, nil
}

// GetRequestMetadata returns the headers of one call. An unreadable token fails
// the call before anything is sent.
func (h *callHeaders) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	headers := maps.Clone(h.fixed)
	if h.token != nil {
		token, err := h.token()
		if err != nil {
			return nil, err
		}
		headers["authorization"] = "Bearer " + token
	}
	return headers, nil
}

// RequireTransportSecurity keeps the token from ever being sent in the clear.
func (h *callHeaders) RequireTransportSecurity() bool { return true }

// readToken reads a token file; white space around the token is dropped.
func readToken(path string) (string, error) {
	data, err := readFile(path, maxToken)
	if err != nil {
		return "", fmt.Errorf("control plane token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", fmt.Errorf("control plane token: %s is empty", path)
	}
	if !printable(token) {
		return "", fmt.Errorf("control plane token: %s holds a character that a header cannot carry", path)
	}
	return token, nil
}

// checkHeader refuses what gRPC cannot carry. Source: gRPC over HTTP/2,
// "Custom-Metadata".
func checkHeader(name, value string) error {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return fmt.Errorf("header name %q: want letters, digits, '-', '_' and '.'", name)
		}
	}
	if name == "" || strings.HasPrefix(name, "grpc-") || strings.HasSuffix(name, "-bin") {
		return fmt.Errorf("header name %q is reserved", name)
	}
	if !printable(value) {
		return fmt.Errorf("header %q: its value holds a character that a header cannot carry", name)
	}
	return nil
}

// printable reports whether s is printable ASCII.
func printable(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
