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
