package admin

import (
	"net/http"
	"strings"

	"github.com/ambit-mesh/ambit/internal/telemetry"
)

// connectionList is the answer of /connections and /why.
type connectionList struct {
	Open   []telemetry.Entry `json:"open"`   // oldest first
	Recent []telemetry.Entry `json:"recent"` // newest first
}

// connections answers with the open and the lately ended connections.
func (s *Server) connections(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	pod, byPod := param(q, "pod")
	state, byState := param(q, "state")
	s.answerJSON(w, s.list(func(e *telemetry.Entry) bool {
		c := &e.Conn
		return (!byPod || c.Pod == pod || isPeer(&c.Source, pod) || isPeer(&c.Destination, pod)) &&
			(!byState || e.State() == state)
	}))
}

// why answers with what became of connections from src to dst.
func (s *Server) why(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	src, bySrc := param(q, "src")
	dst, byDst := param(q, "dst")
	if !bySrc && !byDst {
		http.Error(w, "want src= or dst=, or both: an address, a pod (name or namespace/name), or for dst a service's host name",
			http.StatusBadRequest)
		return
	}
	s.answerJSON(w, s.list(func(e *telemetry.Entry) bool {
		return (!bySrc || isPeer(&e.Conn.Source, src)) && (!byDst || isDestination(&e.Conn, dst))
	}))
}

// list returns the connections that want picks.
func (s *Server) list(want func(*telemetry.Entry) bool) connectionList {
	pick := func(all []telemetry.Entry) []telemetry.Entry {
		out := []telemetry.Entry{}
		for i := range all {
			if want(&all[i]) {
				out = append(out, all[i])
			}
		}
		return out
	}
	return connectionList{Open: pick(s.deps.Connections.Live()), Recent: pick(s.deps.Connections.Recent())}
}

// isPeer tells whether text names p: its address with or without port, its
// pod's name with or without namespace, or its identity.
func isPeer(p *telemetry.Peer, text string) bool {
	if p.Addr.IsValid() && (p.Addr.String() == text || p.Addr.Addr().String() == text) {
		return true
	}
	name := p.Workload.Name
	return name != "" && (name == text || p.Workload.Namespace+"/"+name == text) ||
		!p.Identity.IsZero() && p.Identity.String() == text
}

// isDestination tells whether text names where c goes: the next hop, what the
// client asked for, what was dialed, or the service.
func isDestination(c *telemetry.Conn, text string) bool {
	if isPeer(&c.Destination, text) || strings.EqualFold(c.Service.Host, text) && text != "" {
		return true
	}
	if c.Authority != "" && (c.Authority == text || strings.HasPrefix(c.Authority, text+":")) {
		return true
	}
	original, actual := c.OriginalDst, c.ActualDst
	return original.IsValid() && (original.String() == text || original.Addr().String() == text) ||
		actual.IsValid() && (actual.String() == text || actual.Addr().String() == text)
}
