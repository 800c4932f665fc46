package straightpath

import (
	"context"
	"testing"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/ztunnel"
)

// Callers say of themselves what they are, and are answered with what was
// reached. ENABLE_RESPONSE_BAGGAGE=false is the gate of both.
func TestBaggageGates(t *testing.T) {
	for _, open := range []bool{true, false} {
		name := map[bool]string{true: "open", false: "shut"}[open]
		m := newMesh(t)
		n1 := m.node("n1", func(c *ztunnel.Config) { c.Tunnel.WithoutResponseHints = !open })
		client, server := m.enrolled(n1, "client"), m.enrolled(n1, "server")
		server.echo(80)
		// An address that nobody knows, so that only its own words describe it.
		stranger := m.pod(nil, "stranger")
		answer := stranger.tunnel(n1.certificate(client.account), server).ask(server.addr(80).String(),
			hbone.Header{{Name: "baggage", Value: "k8s.deployment.name=by-its-own-words"}})

		t.Run("response baggage gate "+name, func(t *testing.T) {
			if got, want := answer.Get("baggage") != "", open; got != want {
				t.Errorf("the answer has baggage: %v (%q), want %v", got, answer.Get("baggage"), want)
			}
		})
		t.Run("incoming baggage gate "+name, func(t *testing.T) {
			n1.z.wantAccess(t, `direction="inbound"`, "src.addr="+stranger.ip.String(), "connection complete")
			want := 0.0
			if open {
				want = 1
			}
			if got := n1.z.metric(t, "istio_tcp_connections_opened_total", `source_workload="by-its-own-words"`); got != want {
				t.Errorf("%v connections are counted under the caller's own words, want %v", got, want)
			}
		})
	}
}

// ask opens a stream with a header, ends it, and returns the header of the answer.
func (c *tunnel) ask(authority string, header hbone.Header) hbone.Header {
	c.t.Helper()
	a, err := hbone.ParseAuthority(authority)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	s, err := c.pool.Open(ctx, c.target, hbone.Request{Authority: a, Header: header})
	if err != nil {
		c.t.Fatal(err)
	}
	defer s.Close()
	if err := s.CloseWrite(); err != nil {
		c.t.Error(err)
	}
	return s.Header()
}
