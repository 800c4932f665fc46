package policy

import (
	"net/netip"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
)

// ConnMatch is what one match of a policy asks of a connection, for who decides
// about more than connections with the same rules. It never changes.
type ConnMatch struct{ m match }

// CompileMatch prepares a match, leaving out what [Compile] leaves out.
func CompileMatch(m *securityapi.Match) ConnMatch { return ConnMatch{compileMatch(m)} }

// Empty reports whether nothing is asked for. In a policy such a match never
// holds.
func (c *ConnMatch) Empty() bool { return c.m.empty() }

// Holds reports whether the connection has all that is asked for.
func (c *ConnMatch) Holds(f *Facts) bool { return c.m.holds(&f.s) }

// Facts is a Request in the form that matching wants.
type Facts struct{ s subject }

// FactsOf prepares r for matching.
func FactsOf(r Request) Facts { return Facts{newSubject(r)} }

// Addresses is a list of address ranges.
type Addresses struct{ set prefixSet }

// CompileAddresses prepares ranges, leaving out what is none.
func CompileAddresses(in []*securityapi.Address) Addresses { return Addresses{compilePrefixes(in)} }

// Empty reports whether there is no range.
func (a *Addresses) Empty() bool { return a.set.empty() }

// Contains reports whether one of the ranges has the address.
func (a *Addresses) Contains(ip netip.Addr) bool { return a.set.contains(ip.Unmap()) }

// Callers are keys of the only callers that the match holds for, as
// [Facts.Callers] writes them; nil when it does not say who they are one by one.
// exactly tells single callers from namespaces.
func (c *ConnMatch) Callers() (keys []string, exactly bool) {
	m := &c.m
	switch {
	case m.principals.onlyExact():
		return m.principals.keys("p"), true
	case len(m.accounts) > 0:
		for _, a := range m.accounts {
			keys = append(keys, "a"+a.namespace+"/"+a.name)
		}
		return keys, true
	case m.namespaces.onlyExact():
		return m.namespaces.keys("n"), false
	}
	return nil, false
}

// Callers are the keys under which [ConnMatch.Callers] knows the caller; those of an
// unknown one are but its namespace.
func (f *Facts) Callers() []string {
	if !f.s.known {
		return []string{"n"}
	}
	a := f.s.account
	return []string{"p" + f.s.principal, "a" + a.namespace + "/" + a.name, "n" + a.namespace}
}

// onlyExact reports whether nothing but exact values can hit.
func (s *stringSet) onlyExact() bool {
	return !s.presence && len(s.prefixes)+len(s.suffixes) == 0 && len(s.few)+len(s.many) > 0
}

// keys are the exact values.
func (s *stringSet) keys(kind string) []string {
	var out []string
	for _, v := range s.few {
		out = append(out, kind+v)
	}
	for v := range s.many {
		out = append(out, kind+v)
	}
	return out
}
