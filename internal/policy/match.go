package policy

import (
	"net/netip"
	"slices"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
)

// subject is a Request in the form that matching wants: what a rule can ask for
// is made once per request.
type subject struct {
	source    netip.Addr // unmapped
	dest      netip.Addr // unmapped
	port      uint16
	known     bool    // the peer has an identity
	principal string  // without spiffe://; "" when not known
	account   account // zero when not known
}

// account is a service account without its trust domain.
type account struct{ namespace, name string }

// newSubject prepares r for matching.
func newSubject(r Request) subject {
	s := subject{
		source: r.SourceIP.Unmap(),
		dest:   r.Destination.Addr().Unmap(),
		port:   r.Destination.Port(),
	}
	if r.Peer != (identity.ID{}) {
		s.known = true
		s.principal = r.Peer.Principal()
		s.account = account{r.Peer.Namespace, r.Peer.ServiceAccount}
	}
	return s
}

// rule matches when all its clauses match.
type rule []clause

// clause matches when any of its matches does. A clause that was sent without
// matches is true and not kept; one whose matches were all empty is kept
// without any and is never true.
type clause []match

// match holds when each of its attributes does: the positive list is empty or
// has a hit, and the negative list has none.
type match struct {
	namespaces, notNamespaces stringSet
	principals, notPrincipals stringSet
	sources, notSources       prefixSet
	dests, notDests           prefixSet
	ports, notPorts           []uint16 // sorted
	accounts, notAccounts     []account
}

// compileRule keeps of r what can make a difference.
func compileRule(r *securityapi.Rule) rule {
	out := rule{}
	for _, c := range r.GetClauses() {
		if len(c.GetMatches()) == 0 {
			continue
		}
		compiled := clause{}
		for _, m := range c.GetMatches() {
			if cm := compileMatch(m); !cm.empty() {
				compiled = append(compiled, cm)
			}
		}
		out = append(out, compiled)
	}
	return out
}

// compileMatch drops comparisons that cannot be understood.
func compileMatch(m *securityapi.Match) match {
	return match{
		namespaces:    compileStrings(m.GetNamespaces()),
		notNamespaces: compileStrings(m.GetNotNamespaces()),
		principals:    compileStrings(m.GetPrincipals()),
		notPrincipals: compileStrings(m.GetNotPrincipals()),
		sources:       compilePrefixes(m.GetSourceIps()),
		notSources:    compilePrefixes(m.GetNotSourceIps()),
		dests:         compilePrefixes(m.GetDestinationIps()),
		notDests:      compilePrefixes(m.GetNotDestinationIps()),
		ports:         compilePorts(m.GetDestinationPorts()),
		notPorts:      compilePorts(m.GetNotDestinationPorts()),
		accounts:      compileAccounts(m.GetServiceAccounts()),
		notAccounts:   compileAccounts(m.GetNotServiceAccounts()),
	}
}

// empty reports whether nothing was asked for; such a match never holds.
func (m *match) empty() bool {
	return m.namespaces.empty() && m.notNamespaces.empty() &&
		m.principals.empty() && m.notPrincipals.empty() &&
		m.sources.empty() && m.notSources.empty() &&
		m.dests.empty() && m.notDests.empty() &&
		len(m.ports) == 0 && len(m.notPorts) == 0 &&
		len(m.accounts) == 0 && len(m.notAccounts) == 0
}

func (r rule) matches(s *subject) bool {
	for _, c := range r {
		if !c.matches(s) {
			return false
		}
	}
	return true
}

func (c clause) matches(s *subject) bool {
	for i := range c {
		if c[i].holds(s) {
			return true
		}
	}
	return false
}

// holds compares the cheap attributes first.
func (m *match) holds(s *subject) bool {
	return m.holdsPorts(s.port) && m.holdsAddresses(s) && m.holdsPeer(s)
}

func (m *match) holdsPorts(port uint16) bool {
	if len(m.ports) > 0 && !containsPort(m.ports, port) {
		return false
	}
	return !containsPort(m.notPorts, port)
}

func (m *match) holdsAddresses(s *subject) bool {
	switch {
	case !m.sources.empty() && !m.sources.contains(s.source):
	case !m.dests.empty() && !m.dests.contains(s.dest):
	case m.notSources.contains(s.source):
	case m.notDests.contains(s.dest):
	default:
		return true
	}
	return false
}

// holdsPeer compares who calls. Without an identity principals and accounts
// never hit, and the namespace is "".
func (m *match) holdsPeer(s *subject) bool {
	switch {
	case len(m.accounts) > 0 && !(s.known && slices.Contains(m.accounts, s.account)):
	case s.known && slices.Contains(m.notAccounts, s.account):
	case !m.namespaces.empty() && !m.namespaces.contains(s.account.namespace):
	case !m.principals.empty() && !(s.known && m.principals.contains(s.principal)):
	case m.notNamespaces.contains(s.account.namespace):
	case s.known && m.notPrincipals.contains(s.principal):
	default:
		return true
	}
	return false
}
