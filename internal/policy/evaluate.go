package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/internal/identity"
)

// Request is what is decided about: one connection that wants to come in.
type Request struct {
	// SourceIP is the TCP peer; behind a waypoint that is the waypoint.
	SourceIP netip.Addr
	// Peer is who the peer has proven to be. The zero ID means plaintext.
	Peer identity.ID
	// Destination is where the connection will really go: an address of the
	// pod, and the port after service ports were resolved.
	Destination netip.AddrPort
}

// Applicable is what applies to a subject now.
type Applicable struct {
	// Policies that apply, each once.
	Policies []*Policy
	// Missing are names ("namespace/name") of policies that should apply and
	// are not here.
	Missing []string
	// Known is false when the workload itself is not known.
	Known bool
}

// equal reports whether the same would be decided by both about any request.
func (a Applicable) equal(b Applicable) bool {
	return a.Known == b.Known && slices.Equal(a.Policies, b.Policies) && slices.Equal(a.Missing, b.Missing)
}

// Verdict is the outcome and who made it.
type Verdict struct {
	// Allowed is false unless everything needed to say yes was here.
	Allowed bool
	// Policy is the name ("namespace/name") of the policy that decided, or ""
	// when none did by itself.
	Policy string
	// Rule is the index of the rule of Policy that matched, or -1.
	Rule int
	// Reason is a sentence for people.
	Reason string
	// Missing are policies that had to be known to say yes.
	Missing []string
	// DryRun lists what policies in dry-run mode would have done, one entry
	// "deny by namespace/name[rule]" or "allow by namespace/name[rule]" for
	// each that matches, and "deny: no dry-run allow policy matches" when the
	// only allow policies are in dry-run mode and none matches.
	DryRun []string
}

// undecided reports whether waiting could turn v into a yes.
func (v Verdict) undecided(known bool) bool {
	return !v.Allowed && (!known || len(v.Missing) > 0)
}

// Evaluate decides r. It is pure.
//
// Deny comes first: a match of an enforced deny policy refuses. Then a missing
// policy or an unknown workload refuses, because what is not here could have
// said no. Without an enforced allow policy everything else may pass; with
// some, only what one of them matches. Policies in dry-run mode are only
// reported, and a dry-run allow policy does not make others necessary.
func Evaluate(ap Applicable, r Request) Verdict {
	s := newSubject(r)
	v := Verdict{Rule: -1, DryRun: dryRun(ap.Policies, &s)}
	for _, p := range ap.Policies {
		if p.dryRun || p.action != Deny {
			continue
		}
		if i := p.match(&s); i >= 0 {
			v.Policy, v.Rule = p.Name(), i
			v.Reason = "explicitly denied by: " + v.Policy
			return v
		}
	}
	if !ap.Known {
		v.Reason = "the workload is not known"
		return v
	}
	if len(ap.Missing) > 0 {
		v.Missing = ap.Missing
		v.Reason = "policy that applies is missing: " + strings.Join(ap.Missing, ", ")
		return v
	}
	enforced := 0
	for _, p := range ap.Policies {
		if p.dryRun || p.action != Allow {
			continue
		}
		enforced++
		if i := p.match(&s); i >= 0 {
			v.Allowed, v.Policy, v.Rule = true, p.Name(), i
			v.Reason = "allowed by: " + v.Policy
			return v
		}
	}
	if enforced > 0 {
		v.Reason = "allow policies exist, but none allowed: " + allowNames(ap.Policies, enforced)
		return v
	}
	v.Allowed, v.Reason = true, "no allow policies"
	return v
}

// maxNames is how many policies a reason names, so that a log line stays one
// that can be read.
const maxNames = 3

// allowNames names the first of the enforced allow policies, and says how many
// more of their number there are.
func allowNames(policies []*Policy, number int) string {
	var names []string
	for _, p := range policies {
		if !p.dryRun && p.action == Allow && len(names) < maxNames {
			names = append(names, p.Name())
		}
	}
	text := strings.Join(names, ", ")
	if more := number - len(names); more > 0 {
		text += " and " + strconv.Itoa(more) + " more"
	}
	return text
}

// dryRun says what the policies that are only observed would have done.
func dryRun(policies []*Policy, s *subject) []string {
	var out []string
	enforcedAllow, observedAllow, allowed := false, false, false
	for _, p := range policies {
		if !p.dryRun {
			enforcedAllow = enforcedAllow || p.action == Allow
			continue
		}
		i := p.match(s)
		if p.action == Allow {
			observedAllow = true
			allowed = allowed || i >= 0
		}
		if i >= 0 {
			out = append(out, fmt.Sprintf("%s by %s[%d]", strings.ToLower(p.action.String()), p.Name(), i))
		}
	}
	if observedAllow && !enforcedAllow && !allowed {
		out = append(out, "deny: no dry-run allow policy matches")
	}
	return out
}
