package identity

import (
	"strings"
	"testing"
)

func TestParseID(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     ID // zero: refused
	}{
		{"the one form", "spiffe://cluster.local/ns/shop/sa/web", ID{"cluster.local", "shop", "web"}},
		{"dots in a service account", "spiffe://td/ns/shop/sa/a.b.c", ID{"td", "shop", "a.b.c"}},
		{"case of namespace is kept", "spiffe://td/ns/Shop/sa/Web", ID{"td", "Shop", "Web"}},
		{"empty", "", ID{}},
		{"no scheme", "cluster.local/ns/shop/sa/web", ID{}},
		{"another scheme", "https://cluster.local/ns/shop/sa/web", ID{}},
		{"scheme in capitals", "SPIFFE://cluster.local/ns/shop/sa/web", ID{}},
		{"trust domain in capitals", "spiffe://Cluster.local/ns/shop/sa/web", ID{}},
		{"no trust domain", "spiffe:///ns/shop/sa/web", ID{}},
		{"trust domain only", "spiffe://cluster.local", ID{}},
		{"port", "spiffe://cluster.local:80/ns/shop/sa/web", ID{}},
		{"user", "spiffe://me@cluster.local/ns/shop/sa/web", ID{}},
		{"query", "spiffe://cluster.local/ns/shop/sa/web?x", ID{}},
		{"fragment", "spiffe://cluster.local/ns/shop/sa/web#x", ID{}},
		{"one segment too few", "spiffe://td/ns/shop/sa", ID{}},
		{"one segment too many", "spiffe://td/ns/shop/sa/web/x", ID{}},
		{"trailing slash", "spiffe://td/ns/shop/sa/web/", ID{}},
		{"empty namespace", "spiffe://td/ns//sa/web", ID{}},
		{"dots as a segment", "spiffe://td/ns/../sa/web", ID{}},
		{"escaped slash", "spiffe://td/ns/a%2Fb/sa/web", ID{}},
		{"keys swapped", "spiffe://td/sa/web/ns/shop", ID{}},
		{"key in capitals", "spiffe://td/NS/shop/sa/web", ID{}},
		{"NUL byte", "spiffe://td/ns/shop/sa/web\x00", ID{}},
		{"leading space", " spiffe://td/ns/shop/sa/web", ID{}},
		{"not ASCII", "spiffe://td/ns/shop/sa/wéb", ID{}},
		{"wildcard", "spiffe://td/ns/*/sa/web", ID{}},
		{"longer than 2048 bytes", "spiffe://td/ns/shop/sa/" + strings.Repeat("x", 2048), ID{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseID(tt.in)
			if got != tt.want || (err == nil) != (tt.want != ID{}) {
				t.Errorf("ParseID(%q) = %+v, %v, want %+v", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestNewIDChecksEachPart(t *testing.T) {
	if id, err := NewID("td", "shop", "web"); err != nil || id.String() != "spiffe://td/ns/shop/sa/web" {
		t.Errorf("NewID = %v, %v", id, err)
	}
	for _, part := range [][3]string{
		{"", "shop", "web"}, {"td", "", "web"}, {"td", "shop", ""}, {"td/ns/x/sa", "shop", "web"},
		{"td", "shop/sa/web", "x"}, {"td", "shop", "web/x"}, {"TD", "shop", "web"}, {"td", "..", "web"},
	} {
		if id, err := NewID(part[0], part[1], part[2]); err == nil {
			t.Errorf("NewID(%q) = %v, want an error", part, id)
		}
	}
}

func TestZeroIDIsNobody(t *testing.T) {
	var id ID
	if !id.IsZero() || id.String() != "" || id.Principal() != "" {
		t.Errorf("zero ID: IsZero %v, String %q, Principal %q", id.IsZero(), id, id.Principal())
	}
	if got := id.Append(nil); len(got) != 0 {
		t.Errorf("zero ID appends %q", got)
	}
	if got := (ID{"td", "shop", "web"}).Principal(); got != "td/ns/shop/sa/web" {
		t.Errorf("Principal = %q", got)
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("spiffe://cluster.local/ns/shop/sa/web")
	f.Add("spiffe://td/ns/a.b/sa/c_d-e")
	f.Add("spiffe://td/ns//sa/")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			if !id.IsZero() {
				t.Errorf("ParseID(%q) = %+v with an error", s, id)
			}
			return
		}
		if id.String() != s {
			t.Errorf("ParseID(%q) writes itself as %q", s, id)
		}
		if got := string(id.Append([]byte("before "))); got != "before "+s {
			t.Errorf("ParseID(%q) appends %q", s, got)
		}
		if again, err := NewID(id.TrustDomain, id.Namespace, id.ServiceAccount); err != nil || again != id {
			t.Errorf("NewID of the parts of %q = %v, %v", s, again, err)
		}
	})
}
