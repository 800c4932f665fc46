package identity

import (
	"crypto/tls"
	"testing"
	"time"
)

func TestPeerOfWantsACompleteHandshake(t *testing.T) {
	ca := newCA(t, "root")
	web := mustID(t, "spiffe://td/ns/shop/sa/web")
	ours := ca.certify(t, web, time.Minute, time.Hour)
	for name, cs := range map[string]tls.ConnectionState{
		"not complete":   {PeerCertificates: ours.Chain},
		"no certificate": {HandshakeComplete: true},
		"a CA":           {HandshakeComplete: true, PeerCertificates: ours.Roots},
	} {
		if peer, err := PeerOf(&cs); err == nil || !peer.ID.IsZero() {
			t.Errorf("%s: %+v, %v, want an error", name, peer, err)
		}
	}
}

// A root is replaced in three steps, as the existing meshes do it: trust both,
// sign with the new one, trust only the new one. Traffic goes on throughout; in
// the end a live connection that still rests on the old root is found.
func TestRootRotation(t *testing.T) {
	before, after := newCA(t, "root"), newCA(t, "root") // of the same name, the hard case
	web, cart := mustID(t, "spiffe://td/ns/shop/sa/web"), mustID(t, "spiffe://td/ns/shop/sa/cart")
	type node struct{ web, cart *Certificate }
	steps := []struct {
		name string
		node node
	}{
		{"old root alone", node{before.certify(t, web, time.Minute, time.Hour), before.certify(t, cart, time.Minute, time.Hour)}},
		{"web trusts both", node{before.certify(t, web, time.Minute, time.Hour, after), before.certify(t, cart, time.Minute, time.Hour)}},
		{"all trust both", node{before.certify(t, web, time.Minute, time.Hour, after), before.certify(t, cart, time.Minute, time.Hour, after)}},
		{"web is signed by the new root", node{after.certify(t, web, time.Minute, time.Hour, before), before.certify(t, cart, time.Minute, time.Hour, after)}},
		{"all are signed by the new root", node{after.certify(t, web, time.Minute, time.Hour, before), after.certify(t, cart, time.Minute, time.Hour, before)}},
		{"new root alone", node{after.certify(t, web, time.Minute, time.Hour), after.certify(t, cart, time.Minute, time.Hour)}},
	}
	var live []Peer // cart as web sees it, a connection made in each step
	for _, step := range steps {
		s, c := handshake(t, ServerTLS(step.node.web), ClientTLS(step.node.cart, []ID{web}))
		if s.err != nil || c.err != nil {
			t.Fatalf("%s: server %v, client %v", step.name, s.err, c.err)
		}
		peer, err := PeerOf(&s.state)
		if err != nil {
			t.Fatal(err)
		}
		live = append(live, peer)
	}
	for i, peer := range live {
		if err := peer.TrustedBy(steps[4].node.web, time.Now()); err != nil {
			t.Errorf("connection of %q, while both are trusted: %v", steps[i].name, err)
		}
		err := peer.TrustedBy(steps[5].node.web, time.Now())
		if resting := i <= 3; (err != nil) != resting {
			t.Errorf("connection of %q, after the old root was removed: %v, want lost: %v", steps[i].name, err, resting)
		}
	}
	late := time.Now().Add(2 * time.Hour)
	if err := live[5].TrustedBy(steps[5].node.web, late); err != nil {
		t.Errorf("mere expiry of the peer's leaf: %v, want still trusted", err)
	}
	if err := live[0].TrustedBy(steps[5].node.web, late); err == nil {
		t.Error("an expired leaf of a removed root is trusted")
	}
}
