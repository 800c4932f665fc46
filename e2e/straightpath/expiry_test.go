package straightpath

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/ztunnel"
)

// The CA is away until the certificate of a pod has expired: tunnels that stand
// take no new streams, because nobody can say whom the pod trusts now; the old
// streams go on.
func TestNoCertificateOfOurOwn(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1", func(c *ztunnel.Config) { c.CA.SecretTTL = 3 * time.Second })
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	c := client.tunnel(m.forge(mustID(t, "cluster.local", "shop", "client"), time.Now().Add(time.Hour)), server)
	old, err := c.open(server.addr(80).String())
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	m.stopControlPlane()
	eventually(t, "new streams are refused", func() error {
		s, err := c.open(server.addr(80).String())
		if err == nil {
			s.Close()
			return errors.New("another stream was taken")
		}
		return nil
	})
	c.wantStatus(server.addr(80).String(), 503)
	n1.z.wantAccess(t, `direction="inbound"`, "has no valid certificate any more", "the CA has not renewed it in time")
	if _, err := old.Write([]byte("x")); err != nil {
		t.Errorf("the old stream broke: %v", err)
	}
	m.startControlPlane(m.address)
	eventually(t, "with a new certificate streams are taken again", func() error {
		s, err := c.open(server.addr(80).String())
		if err == nil {
			s.Close()
		}
		return err
	})
}

// A peer whose certificate has expired is told to come again, and gets in by a
// new connection with a new certificate while its old streams go on.
func TestExpiredPeerIsToldToComeAgain(t *testing.T) {
	m := newMesh(t)
	n1 := m.node("n1")
	client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
	server.echo(80)
	id := mustID(t, "cluster.local", "shop", "client")
	end := time.Now().Add(2 * time.Second)
	c := client.tunnel(m.forge(id, end), server)
	old, err := c.open(server.addr(80).String())
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	opened := len(n1.z.log.with("tunnel opened"))
	c.target.TLS = client.tunnel(m.forge(id, end.Add(time.Hour)), server).target.TLS // of the next connection
	eventually(t, "the pool comes again by a new connection", func() error {
		s, err := c.open(server.addr(80).String())
		if err != nil {
			return err
		}
		s.Close()
		if n := len(n1.z.log.with("tunnel opened")); n == opened {
			return fmt.Errorf("%d tunnels, as before", n)
		}
		return nil
	})
	if time.Now().Before(end.Truncate(time.Second)) {
		t.Error("there was a new connection before the certificate had expired")
	}
	if _, err := old.Write([]byte("x")); err != nil {
		t.Errorf("the old stream broke: %v", err)
	}
}
