package ca

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"
)

const (
	tokenOne = "token-of-node-one-0123456789"
	tokenTwo = "token-of-node-two-0123456789"
)

// bearing is the context of a call with authorization headers.
func bearing(t *testing.T, headers ...string) context.Context {
	md := metadata.MD{}
	for _, h := range headers {
		md.Append("authorization", h)
	}
	return metadata.NewIncomingContext(t.Context(), md)
}

func tokenFile(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	put(t, dir, "tokens", text)
	return filepath.Join(dir, "tokens")
}

func TestNodeTokens(t *testing.T) {
	tokens, err := OpenNodeTokens(tokenFile(t, "# nodes\n\n"+tokenOne+" one\n  "+tokenTwo+"\ttwo \n"+tokenTwo+"x two\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		headers []string
		node    string // "" when refused
		want    string
	}{
		{"first node", []string{"Bearer " + tokenOne}, "one", ""},
		{"second node", []string{"Bearer " + tokenTwo}, "two", ""},
		{"second token of a node", []string{"Bearer " + tokenTwo + "x"}, "two", ""},
		{"scheme in lower case", []string{"bearer " + tokenOne}, "one", ""},
		{"no header", nil, "", "no authorization header"},
		{"two headers", []string{"Bearer " + tokenOne, "Bearer " + tokenTwo}, "", "several"},
		{"another scheme", []string{"Basic " + tokenOne}, "", "not a bearer token"},
		{"token alone", []string{tokenOne}, "", "not a bearer token"},
		{"empty token", []string{"Bearer "}, "", "not a bearer token"},
		{"unknown token", []string{"Bearer token-of-nobody-0123456789"}, "", "unknown node token"},
		{"part of a token", []string{"Bearer " + tokenOne[:20]}, "", "unknown node token"},
		{"more than a token", []string{"Bearer " + tokenOne + "y"}, "", "unknown node token"},
		{"name of a node", []string{"Bearer one"}, "", "unknown node token"},
		{"the comment sign", []string{"Bearer #"}, "", "unknown node token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			caller, err := tokens.Authenticate(bearing(t, tt.headers...))
			if tt.node == "" {
				wantError(t, err, tt.want)
				if caller != (Caller{}) {
					t.Errorf("refused and yet %+v", caller)
				}
				return
			}
			if err != nil || caller.Node != tt.node || !caller.Identity.IsZero() {
				t.Errorf("%+v, %v, want node %s", caller, err, tt.node)
			}
		})
	}
}

func TestNodeTokenFilesThatAreRefused(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"one field", "# x\n" + tokenOne + "\n", "tokens:2: 1 fields"},
		{"three fields", tokenOne + " one two\n", "tokens:1: 3 fields"},
		{"short token", "short one\n", "tokens:1: token of 5 characters"},
		{"name of a node with a slash", tokenOne + " one/two\n", `tokens:1: "one/two" is no name`},
		{"one token for two nodes", tokenOne + " one\n" + tokenOne + " two\n", "tokens:2: the token of node two stands in an earlier line"},
		{"a line without end", strings.Repeat("x", 100<<10), "token too long"},
		{"huge", strings.Repeat("#\n", maxTokenFile), "larger than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := OpenNodeTokens(tokenFile(t, tt.text))
			wantError(t, err, tt.want)
			if strings.Contains(err.Error(), tokenOne) {
				t.Errorf("the error tells a token: %v", err)
			}
		})
	}
	_, err := OpenNodeTokens(filepath.Join(t.TempDir(), "none"))
	wantError(t, err, "no such file")
}

func TestNodeTokensFollowTheirFile(t *testing.T) {
	path := tokenFile(t, tokenOne+" one\n")
	tokens, err := OpenNodeTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(why, token, node string) {
		t.Helper()
		caller, err := tokens.Authenticate(bearing(t, "Bearer "+token))
		if caller.Node != node || (err == nil) != (node != "") {
			t.Errorf("%s: %+v, %v, want node %q", why, caller, err, node)
		}
	}
	check("at first", tokenOne, "one")
	put(t, filepath.Dir(path), "tokens", tokenTwo+" two\n") // the same size
	check("a removed token", tokenOne, "")
	check("an added token", tokenTwo, "two")
	put(t, filepath.Dir(path), "tokens", "rubbish\n")
	check("a malformed file", tokenTwo, "")
	put(t, filepath.Dir(path), "tokens", tokenTwo+" two\n")
	check("a good one again", tokenTwo, "two")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	check("a file that all may read", tokenTwo, "")
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	check("closed again", tokenTwo, "two")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	check("no file", tokenTwo, "")
}

func TestFirstOf(t *testing.T) {
	one, err := OpenNodeTokens(tokenFile(t, tokenOne+" one\n"))
	if err != nil {
		t.Fatal(err)
	}
	two, err := OpenNodeTokens(tokenFile(t, tokenTwo+" two\n"))
	if err != nil {
		t.Fatal(err)
	}
	both := FirstOf{one, two}
	for token, node := range map[string]string{tokenOne: "one", tokenTwo: "two", "neither-of-the-two-tokens": ""} {
		if caller, err := both.Authenticate(bearing(t, "Bearer "+token)); caller.Node != node || (err == nil) != (node != "") {
			t.Errorf("%s: %+v, %v", token, caller, err)
		}
	}
	if _, err := (FirstOf{}).Authenticate(bearing(t, "Bearer "+tokenOne)); err == nil {
		t.Error("nobody to ask, and yet authenticated")
	}
}

// FuzzParseNodeTokens: whatever is taken has one node per line that is neither
// empty nor a comment.
func FuzzParseNodeTokens(f *testing.F) {
	f.Add([]byte("# x\n" + tokenOne + " one\n\n"))
	f.Add([]byte("a b\r\nc"))
	f.Fuzz(func(t *testing.T, data []byte) {
		nodes, err := parseNodeTokens("tokens", data)
		if err != nil {
			if nodes != nil {
				t.Error("nodes with an error")
			}
			return
		}
		lines := 0
		for line := range strings.SplitSeq(string(data), "\n") {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				lines++
			}
		}
		if lines != len(nodes) {
			t.Errorf("%d nodes of %d lines", len(nodes), lines)
		}
		for _, n := range nodes {
			if !validNodeName(n.node) {
				t.Errorf("node %q", n.node)
			}
		}
	})
}
