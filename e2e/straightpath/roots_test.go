package straightpath

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/istiod-lite/ca"
)

// The root of the mesh is replaced by another, without a time in which both are
// trusted: certificates are renewed at once, what rests on the old root is cut,
// and new connections rest on the new one.
func TestRemovedRootCutsWhatRestsOnIt(t *testing.T) {
	m := newMesh(t)
	n1, n2 := m.node("n1"), m.node("n2")
	client, server := m.enrolled(n1, "client"), m.enrolled(n2, "server")
	server.echo(80)
	live := client.connect(server.addr(80))
	live.wantEcho("before")

	other := t.TempDir()
	if _, err := ca.Open(ca.Config{Dir: other, TrustDomain: "cluster.local"}, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca-key.pem", "ca-cert.pem"} {
		if err := os.Rename(filepath.Join(other, name), filepath.Join(m.caDir, name)); err != nil {
			t.Fatal(err)
		}
	}

	live.wantReset()
	eventually(t, "one side says why", func() error { // whichever renewed first
		if len(n1.z.log.access("not trusted any more"))+len(n2.z.log.access("not trusted any more")) == 0 {
			return errors.New("no such access log line")
		}
		return nil
	})
	eventually(t, "a new connection rests on the new root", func() error {
		c, err := client.tryConnect(server.addr(80))
		if err != nil {
			return err
		}
		c.Close()
		return nil
	})
}
