package lab

import (
	"net/netip"
	"strings"
	"testing"
)

const accessSample = `{"level":"info","time":"2026-01-01T00:00:00.000000Z","scope":"app","message":"started"}
a line of a panic
{"level":"info","time":"2026-01-01T00:00:01.000000Z","scope":"access","message":"connection complete","src.addr":"10.77.1.2:40000","src.identity":"spiffe://cluster.local/ns/shop/sa/web","dst.addr":"10.77.2.3:15008","dst.hbone_addr":"10.77.2.3:8080","direction":"inbound","policy":"bank/only-tellers","hop":"tunnel"}
{"level":"error","time":"2026-01-01T00:00:02.000000Z","scope":"access","message":"connection complete","src.addr":"10.77.1.9:40000","dst.addr":"10.77.2.3:8080","direction":"inbound","error":"policy: denied","policy":"bank/no-web","stage":"policy","fault":"policy"}
{"level":"info","time":"2026-01-01T00:00:03.000000Z","scope":"access","message":"connection complete","src.addr":"10.77.1.2:40001","src.identity":"spiffe://cluster.local/ns/shop/sa/web","dst.addr":"10.96.0.7:80","direction":"outbound","error":"unknown waypoint: waypoint bank/waypoint.","stage":"route","fault":"control plane"}
{"level":"info","scope":"acc`

func TestParseAccess(t *testing.T) {
	lines, err := parseAccess([]byte(accessSample))
	if err != nil || len(lines) != 3 {
		t.Fatalf("parseAccess = %d lines, %v, want 3: other scopes, other text and a half line left out", len(lines), err)
	}
	app := netip.MustParseAddrPort("10.77.2.3:8080")
	if l := lines[0]; !l.To(app) || !l.From(netip.MustParseAddr("10.77.1.2")) || l.Hop != "tunnel" {
		t.Errorf("tunnelled: %+v", l)
	}
	if l := lines[1]; !l.To(app) || l.From(netip.MustParseAddr("10.77.1.2")) || l.Policy != "bank/no-web" {
		t.Errorf("plaintext: %+v", l)
	}
	if lines[0].To(netip.MustParseAddrPort("10.77.2.3:15008")) {
		t.Error("a tunnel's own address counts as where the connection goes")
	}
}

func FuzzParseAccess(f *testing.F) {
	f.Add([]byte(accessSample))
	f.Fuzz(func(t *testing.T, raw []byte) {
		lines, err := parseAccess(raw)
		if err == nil && len(lines) > strings.Count(string(raw), "\n") {
			t.Errorf("%d lines out of %q", len(lines), raw)
		}
		for _, l := range lines {
			if l.Scope != "access" {
				t.Errorf("line of scope %q", l.Scope)
			}
		}
	})
}

func TestAccessLineTells(t *testing.T) {
	lines, err := parseAccess([]byte(accessSample))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"2026-01-01T00:00:01.000000Z, to 10.77.2.3:8080, hop tunnel, as spiffe://cluster.local/ns/shop/sa/web, decided by bank/only-tellers, ended well",
		"2026-01-01T00:00:02.000000Z, to 10.77.2.3:8080, in plaintext, decided by bank/no-web, FAILED at stage policy, fault of policy: policy: denied",
	} {
		if got := lines[i].tell(); got != want {
			t.Errorf("tell = %q,\nwant   %q", got, want)
		}
	}
}
