// Package oracle decides about connections by the letter of the authorization
// messages, slowly. For tests: what compiles policies is compared with it. It
// imports nothing of what it checks.
package oracle

import (
	"bytes"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
)

// Request is a connection in plain parts.
type Request struct {
	SourceIP       []byte // 4 or 16 bytes
	HasIdentity    bool
	TrustDomain    string
	Namespace      string
	ServiceAccount string
	DestinationIP  []byte
	Port           uint16
}

// Verdict is what follows from a set of policies.
type Verdict struct {
	Allowed   bool
	DeniedBy  map[string]bool // enforced deny policies that match, by name
	AllowedBy map[string]bool // enforced allow policies that match
	DryRun    map[string]bool // policies in dry-run mode that match
}

// Decide evaluates all policies: deny first, then allow if there is any.
func Decide(policies []*securityapi.Authorization, r Request) Verdict {
	v := Verdict{DeniedBy: map[string]bool{}, AllowedBy: map[string]bool{}, DryRun: map[string]bool{}}
	anyAllow := false
	for _, p := range policies {
		name := p.Namespace + "/" + p.Name
		allow := p.Action == securityapi.Action_ALLOW
		if allow && !p.DryRun {
			anyAllow = true
		}
		if FirstRule(p, r) < 0 {
			continue
		}
		if p.DryRun {
			v.DryRun[name] = true
		} else if allow {
			v.AllowedBy[name] = true
		} else {
			v.DeniedBy[name] = true
		}
	}
	v.Allowed = len(v.DeniedBy) == 0 && (!anyAllow || len(v.AllowedBy) > 0)
	return v
}

// FirstRule returns the index of the first rule of p that matches, or -1.
func FirstRule(p *securityapi.Authorization, r Request) int {
	for i, rule := range p.Rules {
		all := true
		for _, clause := range rule.GetClauses() {
			one := len(clause.GetMatches()) == 0
			for _, m := range clause.GetMatches() {
				if holds(m, r) {
					one = true
				}
			}
			if !one {
				all = false
			}
		}
		if all {
			return i
		}
	}
	return -1
}

// holds compares all six kinds of attribute, positive and negative.
func holds(m *securityapi.Match, r Request) bool {
	principal := r.TrustDomain + "/ns/" + r.Namespace + "/sa/" + r.ServiceAccount
	namespace := ""
	if r.HasIdentity {
		namespace = r.Namespace
	}
	c := &count{holds: true}
	c.strings(m.GetNamespaces(), namespace, true, false)
	c.strings(m.GetNotNamespaces(), namespace, true, true)
	c.strings(m.GetPrincipals(), principal, r.HasIdentity, false)
	c.strings(m.GetNotPrincipals(), principal, r.HasIdentity, true)
	c.addresses(m.GetSourceIps(), r.SourceIP, false)
	c.addresses(m.GetNotSourceIps(), r.SourceIP, true)
	c.addresses(m.GetDestinationIps(), r.DestinationIP, false)
	c.addresses(m.GetNotDestinationIps(), r.DestinationIP, true)
	c.ports(m.GetDestinationPorts(), r.Port, false)
	c.ports(m.GetNotDestinationPorts(), r.Port, true)
	c.accounts(m.GetServiceAccounts(), r, false)
	c.accounts(m.GetNotServiceAccounts(), r, true)
	return c.holds && c.asked > 0
}

// count is the state of one match while its lists are gone through.
type count struct {
	asked int  // comparisons that mean something
	holds bool // no list has spoken against it
}

// list takes the outcome of one list.
func (c *count) list(valid, hits int, negative bool) {
	c.asked += valid
	if valid > 0 && negative == (hits > 0) {
		c.holds = false
	}
}

func (c *count) strings(list []*securityapi.StringMatch, value string, known, negative bool) {
	valid, hits := 0, 0
	for _, s := range list {
		if s.GetMatchType() == nil {
			continue
		}
		valid++
		if known && equal(s, value) {
			hits++
		}
	}
	c.list(valid, hits, negative)
}

func (c *count) addresses(list []*securityapi.Address, ip []byte, negative bool) {
	valid, hits := 0, 0
	for _, a := range list {
		bytes := len(a.GetAddress())
		if (bytes != 4 && bytes != 16) || int64(a.GetLength()) > int64(8*bytes) {
			continue
		}
		valid++
		if within(ip, a.GetAddress(), int(a.GetLength())) {
			hits++
		}
	}
	c.list(valid, hits, negative)
}

func (c *count) ports(list []uint32, port uint16, negative bool) {
	hits := 0
	for _, p := range list {
		if p%65536 == uint32(port) {
			hits++
		}
	}
	c.list(len(list), hits, negative)
}

func (c *count) accounts(list []*securityapi.ServiceAccountMatch, r Request, negative bool) {
	hits := 0
	for _, a := range list {
		if r.HasIdentity && a.GetNamespace() == r.Namespace && a.GetServiceAccount() == r.ServiceAccount {
			hits++
		}
	}
	c.list(len(list), hits, negative)
}

// equal compares a string in the way that s says.
func equal(s *securityapi.StringMatch, value string) bool {
	switch t := s.GetMatchType().(type) {
	case *securityapi.StringMatch_Exact:
		return value == t.Exact
	case *securityapi.StringMatch_Prefix:
		return len(value) >= len(t.Prefix) && value[:len(t.Prefix)] == t.Prefix
	case *securityapi.StringMatch_Suffix:
		return len(value) >= len(t.Suffix) && value[len(value)-len(t.Suffix):] == t.Suffix
	case *securityapi.StringMatch_Presence:
		return value != ""
	}
	return false
}

// within compares the first bits of two addresses of one family.
func within(ip, network []byte, bits int) bool {
	if len(ip) != len(network) || !bytes.Equal(ip[:bits/8], network[:bits/8]) {
		return false
	}
	if rest := bits % 8; rest != 0 {
		shift := 8 - rest
		return ip[bits/8]>>shift == network[bits/8]>>shift
	}
	return true
}
