package ca

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// minToken is the shortest node token, in bytes. Our choice: what nobody
	// guesses over a network.
	minToken = 16

	// maxTokenFile is the largest file of node tokens, in bytes. Our choice: some
	// ten thousand nodes.
	maxTokenFile = 1 << 20

	// maxNodeName is the longest name of a node. Source: RFC 1123 subdomains as
	// Kubernetes takes them.
	maxNodeName = 253
)

// NodeTokens authenticates callers by a file with one line "token node" per
// node; empty lines and those that begin with # are skipped. A node may have
// several tokens, a token only one node.
//
// The file is read again when it has changed. While it is absent, malformed or
// open to others nobody is authenticated. It may be used by many goroutines.
type NodeTokens struct {
	path string

	// mu guards the fields below.
	mu    sync.Mutex
	seen  fileVersion
	nodes []nodeToken
	err   error // why nodes is empty
}

// nodeToken is one line. Tokens are kept and compared by their digest, so that
// neither length nor content shows in the time a comparison takes.
type nodeToken struct {
	digest [sha256.Size]byte
	node   string
}

var _ Authenticator = (*NodeTokens)(nil)

// OpenNodeTokens reads the file at path. A bad file is an error here; later it
// is one of Authenticate.
func OpenNodeTokens(path string) (*NodeTokens, error) {
	t := &NodeTokens{path: path}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reloadLocked()
	return t, t.err
}

// Authenticate implements [Authenticator] by the bearer token of the call.
func (t *NodeTokens) Authenticate(ctx context.Context) (Caller, error) {
	token, err := Bearer(ctx)
	if err != nil {
		return Caller{}, err
	}
	t.mu.Lock()
	t.reloadLocked()
	nodes, err := t.nodes, t.err
	t.mu.Unlock()
	if err != nil {
		return Caller{}, fmt.Errorf("%w: %w", ErrUndecided, err)
	}
	digest := sha256.Sum256([]byte(token))
	found := -1
	for i := range nodes { // all of them, whichever matches
		if subtle.ConstantTimeCompare(digest[:], nodes[i].digest[:]) == 1 {
			found = i
		}
	}
	if found < 0 {
		return Caller{}, errors.New("unknown node token")
	}
	return Caller{Node: nodes[found].node, Name: "node " + nodes[found].node}, nil
}

// Check says why nobody can be authenticated; nil when nodes can.
func (t *NodeTokens) Check() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reloadLocked()
	return t.err
}

// reloadLocked reads the file when it is another than the one read last. The
// caller holds t.mu.
func (t *NodeTokens) reloadLocked() {
	info, err := os.Stat(t.path)
	if err != nil {
		t.seen, t.nodes, t.err = fileVersion{}, nil, fmt.Errorf("node tokens: %w", err)
		return
	}
	if version := versionOf(info); version != t.seen || time.Since(info.ModTime()) < settleTime {
		data, err := readSecret(t.path, maxTokenFile)
		if err == nil {
			t.nodes, err = parseNodeTokens(t.path, data)
		}
		t.seen, t.err = version, err
		if err != nil {
			t.nodes, t.err = nil, fmt.Errorf("node tokens: %w", err)
		}
	}
}

// parseNodeTokens reads lines "token node". Errors name file and line and never
// hold a token.
func parseNodeTokens(path string, data []byte) ([]nodeToken, error) {
	var nodes []nodeToken
	known := map[[sha256.Size]byte]bool{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) != 2 {
			return nil, fmt.Errorf("%s:%d: %d fields, want \"token node\"", path, n, len(fields))
		}
		token, node := fields[0], fields[1]
		if len(token) < minToken {
			return nil, fmt.Errorf("%s:%d: token of %d characters, want at least %d", path, n, len(token), minToken)
		}
		if !validNodeName(node) {
			return nil, fmt.Errorf("%s:%d: %q is no name of a node: want letters, digits, '-' and '.'", path, n, node)
		}
		digest := sha256.Sum256([]byte(token))
		if known[digest] {
			return nil, fmt.Errorf("%s:%d: the token of node %s stands in an earlier line too", path, n, node)
		}
		known[digest] = true
		nodes = append(nodes, nodeToken{digest, node})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return nodes, nil
}

// validNodeName reports whether s can name a node.
func validNodeName(s string) bool {
	if s == "" || len(s) > maxNodeName {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return true
}
