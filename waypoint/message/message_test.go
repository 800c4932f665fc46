package message

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Of a path there is one form, and a second reading where servers differ.
func TestParseTarget(t *testing.T) {
	tests := []struct{ name, raw, path, alt string }{
		{"plain", "/api/orders/7", "/api/orders/7", ""},
		{"slash at the end stays", "/api/", "/api/", ""},
		{"encoded letter", "/%61dmin", "/admin", ""},
		{"encoded dots", "/a/%2e%2E/admin", "/admin", ""},
		{"dot segments", "/a/./b/../c", "/a/c", ""},
		{"dots at the end", "/a/b/..", "/a/", ""},
		{"slashes in a row", "//admin///x", "/admin/x", ""},
		{"encoding in upper case", "/caf%c3%a9", "/caf%C3%A9", ""},
		{"dots in a name", "/a..b/.c/...", "/a..b/.c/...", ""},
		{"encoded slash", "/a%2fadmin", "/a%2Fadmin", "/a/admin"},
		{"encoded backslash", "/a%5Cadmin", "/a%5Cadmin", "/a/admin"},
		{"slash encoded twice", "/a%252fadmin", "/a%252fadmin", "/a/admin"},
		{"parameter", "/admin;x=1/y", "/admin;x=1/y", "/admin/y"},
		{"encoded semicolon", "/admin%3bx", "/admin%3Bx", "/admin"},
		{"encoded percent", "/100%25", "/100%25", "/100%"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseTarget(tt.raw + "?q=//../%2f")
			if err != nil || got.Path != tt.path || got.AltPath != tt.alt || got.Query != "q=//../%2f" {
				t.Errorf("ParseTarget(%q) = %+v, %v; want path %q, other reading %q", tt.raw, got, err, tt.path, tt.alt)
			}
		})
	}
}

// What servers read in more than two ways, or nobody sends, is refused.
func TestAmbiguousTargetsAreRefused(t *testing.T) {
	for _, raw := range []string{
		"", "admin", `/a\..\admin`, "/a#/../admin", "/a?b#c", "/%", "/%4", "/%zz", "/%00", "/a%0d%0aX:y", "/a\x00", "/\x7f", "/caf\xc3\xa9", "/a b", "/a\tb",
		"/../admin", "/a/../../admin", "/%2e%2e/admin", "/a//../admin", "/a%2f..%2fadmin", "/a/..%2fadmin", "/a/..;/admin", "/a/..;x=y/admin", "/a/%2e%2e;/admin",
		"/a/%252e%252e/admin", "/a%5c..%5cadmin", "/a%252f..%252fadmin", "/a/.;/b", "/a?\x01",
	} {
		if got, err := ParseTarget(raw); err == nil {
			t.Errorf("ParseTarget(%q) = %+v, want an error", raw, got)
		}
	}
}

func TestCanonicalHost(t *testing.T) {
	tests := []struct{ in, host, port string }{
		{"Shop.Example.COM:8080", "shop.example.com", "8080"},
		{"shop.", "shop", ""},
		{"10.0.0.1:80", "10.0.0.1", "80"},
		{"[2001:DB8::0:1]:80", "2001:db8::1", "80"},
		{"[::1]", "::1", ""},
		{"my_service", "my_service", ""},
	}
	for _, tt := range tests {
		host, port, err := CanonicalHost(tt.in)
		if err != nil || host != tt.host || port != tt.port {
			t.Errorf("CanonicalHost(%q) = %q, %q, %v; want %q, %q", tt.in, host, port, err, tt.host, tt.port)
		}
	}
	for _, bad := range []string{"", ".", "a..b", "a b", "a/b", "a@b", "a:b", "a:", "a:0", "a:65536", "a:80:80", "[::1", "[1.2.3.4]", "[::1]x", "[fe80::1%eth0]", "a\x00b", "ä", "::1", strings.Repeat("a", 254)} {
		if host, _, err := CanonicalHost(bad); err == nil {
			t.Errorf("CanonicalHost(%q) = %q, want an error", bad, host)
		}
	}
}

// The canonical form is its own canonical form, is a path for everybody, and
// holds no segment that goes up in either reading.
func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"/a/../b", "/%2e%2e;/x", "/a%252fb", "//a;b/c?d", "/%c3%a9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := ParseTarget(raw)
		if err != nil || got.Path == "*" {
			return
		}
		again, err := ParseTarget(got.String())
		if err != nil || again != got {
			t.Fatalf("ParseTarget(%q) = %+v, which is read as %+v, %v", raw, got, again, err)
		}
		for _, path := range []string{got.Path, got.AltPath} {
			parts := strings.Split(path, "/")
			if slices.Contains(parts, "..") || slices.Contains(parts, ".") || strings.Contains(path, "//") || strings.ContainsAny(path, "\\\x00\r\n #") {
				t.Fatalf("ParseTarget(%q) = %+v", raw, got)
			}
		}
		u, err := url.ParseRequestURI(got.String())
		if err != nil {
			t.Fatalf("ParseTarget(%q) = %+v, which others refuse: %v", raw, got, err)
		}
		for s := range strings.SplitSeq(u.Path, "/") { // decoded, as applications see it
			if s == ".." || s == "." {
				t.Fatalf("ParseTarget(%q) = %+v, which others decode to %q", raw, got, u.Path)
			}
		}
	})
}

// A path in canonical form costs nothing.
func TestPlainTargetAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { ParseTarget("/api/orders/7?x=y") }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestFields(t *testing.T) {
	f := Fields{{"A", "1"}, {"b", "2"}, {"a", "3"}}
	if got := slices.Collect(f.Values("a")); !slices.Equal(got, []string{"1", "3"}) {
		t.Errorf("values %q", got)
	}
	f.Set("A", "4")
	if len(f) != 2 || f.Get("a") != "4" || f.Get("B") != "2" {
		t.Errorf("after Set: %v", f)
	}
	f.Del("B")
	if f.Has("b") || len(f) != 1 {
		t.Errorf("after Del: %v", f)
	}
	for _, name := range hopByHop {
		if !HopByHop(strings.ToUpper(name)) {
			t.Errorf("%s is sent on", name)
		}
	}
}
