package waypoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/waypoint/config"
	"github.com/ambit-mesh/ambit/waypoint/extauth"
	"github.com/ambit-mesh/ambit/waypoint/filter"
	"github.com/ambit-mesh/ambit/waypoint/jwt"
	"github.com/ambit-mesh/ambit/waypoint/message"
	"github.com/ambit-mesh/ambit/waypoint/upstream"
)

// proof is what is known of who has sent a request, for who decides about it again.
type proof struct {
	http     bool
	asked    message.Request
	tokens   *jwt.Result
	approved []string
}

// proof is what is known now.
func (f *flight) proof() proof { return proof{f.req != nil, f.asked, f.tokens, f.approved} }

// authorizeService asks the policies that are attached to the service.
func (f *flight) authorizeService(ctx context.Context) *filter.Answer {
	return f.permit(ctx, netip.AddrPortFrom(f.c.target.near, f.c.target.port), f.picture.ServiceRules(f.rules))
}

// authorize asks the policies of the workload that the request goes to.
func (f *flight) authorize(ctx context.Context, e *upstream.Endpoint) *filter.Answer {
	if e == nil {
		return nil
	}
	return f.permit(ctx, e.App, f.picture.WorkloadRules(f.rules, e.Workload))
}

// subject is what policies decide about, on its way to dest.
func (f *flight) subject(dest netip.AddrPort) *filter.Subject {
	if f.req == nil {
		return f.c.subject(dest, nil, nil, f.approved)
	}
	return f.c.subject(dest, &f.asked, f.tokens, f.approved)
}

// permit has a request pass rules, in this order: providers are asked, tokens must
// be good, and policies decide. Providers come before tokens because they bring
// some: a session becomes a token there.
func (f *flight) permit(ctx context.Context, dest netip.AddrPort, rules *config.Rules) *filter.Answer {
	if len(rules.Missing) > 0 {
		f.rec.Reason = fmt.Sprintf("policy that applies is missing: %v", rules.Missing)
		return &filter.Answer{Status: 503, Body: "policy is missing", Flag: "NC", Details: "rbac_policy_missing"}
	}
	fresh, refused := f.check(ctx, rules)
	for rules.Policies.AsksAnybody() {
		asks := rules.Policies.Asks(f.subject(dest))
		if len(asks) == 0 {
			break
		}
		for _, ask := range asks {
			if a := f.ask(ctx, ask, dest); a != nil {
				return a
			}
		}
		var again bool
		again, refused = f.check(ctx, rules)
		fresh = fresh || again
	}
	if refused != nil {
		f.rec.Reason = "token refused: " + refused.Text
		return unauthenticated(refused)
	}
	if a := f.decide(dest, rules.Policies); a != nil {
		return a
	}
	if fresh && f.tokens != nil {
		f.own()
		f.tokens.Apply(f.req)
	}
	return nil
}

// check looks at the tokens that rules are about, unless that was done. fresh
// reports whether it was done now.
func (f *flight) check(ctx context.Context, rules *config.Rules) (fresh bool, refused *jwt.Refused) {
	if f.req == nil || f.tokens.Covers(rules.Tokens) {
		return false, nil
	}
	f.tokens, refused = jwt.Check(ctx, rules.Tokens, &f.asked, f.w.keys, f.rec.Start)
	return true, refused
}

// own makes the fields of the request ones that policies do not see.
func (f *flight) own() { f.req.Fields = slices.Clone(f.req.Fields) }

// unauthenticated is the answer to a bad token. Source: RFC 6750, section 3.
func unauthenticated(r *jwt.Refused) *filter.Answer {
	challenge := `Bearer error="invalid_token"`
	if r.Status == 403 {
		challenge = `Bearer error="insufficient_scope"`
	}
	return &filter.Answer{
		Status: r.Status, Body: r.Text, Flag: "DENY", Details: "jwt_authn_access_denied",
		Fields: message.Fields{{Name: "www-authenticate", Value: challenge}},
	}
}

// decide asks one set of policies.
func (f *flight) decide(dest netip.AddrPort, set *filter.Set) *filter.Answer {
	if set == nil {
		return nil
	}
	v := filter.Authorize(f.subject(dest), set)
	if v.Policy != "" || !v.Allowed {
		f.rec.Policy, f.rec.Reason = v.Policy, v.Reason
	}
	for _, n := range v.Noted {
		action, _, _ := strings.Cut(n, " ")
		f.w.counts.noted.WithLabelValues(action).Inc()
	}
	f.rec.Noted = append(f.rec.Noted, v.Noted...)
	if v.Allowed {
		return nil
	}
	return denied()
}

// denied is how a refusal by policy looks to clients, which learn no names.
func denied() *filter.Answer {
	return &filter.Answer{Status: 403, Body: "RBAC: access denied", Flag: "DENY", Details: "rbac_access_denied"}
}

// maxInCheck is the most of a body that a provider is shown, in bytes, whatever it
// wants to see: our choice, as it is held in memory.
const maxInCheck = 1 << 20

// ask asks the provider of a policy. nil: it approves.
func (f *flight) ask(ctx context.Context, ask filter.Ask, dest netip.AddrPort) *filter.Answer {
	by := fmt.Sprintf("%s[%d], provider %q", ask.Policy, ask.Rule, ask.Provider)
	refuse := func(status int, why string) *filter.Answer {
		f.rec.Policy, f.rec.Reason = ask.Policy, "denied by "+by+": "+why
		return &filter.Answer{Status: status, Body: "", Flag: "UAEX", Details: "ext_authz_error"}
	}
	p := f.picture.Provider(ask.Provider)
	if p == nil {
		return refuse(403, "it is not known here")
	}
	q := &extauth.Query{
		ID: f.rec.RequestID, Time: f.rec.Start,
		Source:      extauth.Peer{Addr: f.c.addr, Principal: f.c.id.String()},
		Destination: extauth.Peer{Addr: dest, Principal: f.w.cfg.identity().String()},
	}
	if f.req != nil {
		q.Request = &f.asked
		if b := p.GetBody(); b != nil {
			var a *filter.Answer
			if q.Body, q.Partial, a = f.peek(ctx, min(int(b.GetMaxBytes()), maxInCheck), b.GetPartial()); a != nil {
				f.rec.Policy, f.rec.Reason = ask.Policy, "denied by "+by+": "+a.Details
				return a
			}
		}
	}
	d, err := f.w.providers.Ask(ctx, p, q)
	switch {
	case err != nil && p.GetFailOpen() && !errors.Is(err, extauth.ErrBroken) && ctx.Err() == nil:
		f.rec.Noted = append(f.rec.Noted, "custom not asked, by "+by+" which fails open: "+err.Error())
		f.w.counts.noted.WithLabelValues("custom").Inc()
	case err != nil:
		return refuse(cmp.Or(int(p.GetStatusOnError()), 403), err.Error())
	case !d.Allowed:
		f.rec.Policy, f.rec.Reason = ask.Policy, "denied by "+by
		return &filter.Answer{Status: d.Status, Fields: d.Fields, Body: d.Body, Flag: "UAEX", Details: "ext_authz_denied"}
	default:
		f.change(d)
	}
	f.approved = append(slices.Clip(f.approved), ask.Provider)
	return nil
}

// change makes the changes that a provider has decided. Policies that come later see
// them, and the tokens among them are looked at.
func (f *flight) change(d *extauth.Decision) {
	if !d.Answer.Empty() {
		f.onAnswer = append(f.onAnswer, d.Answer)
	}
	if f.req == nil || d.Request.Empty() {
		return
	}
	f.own()
	d.Request.Apply(&f.req.Fields)
	f.asked.Fields = slices.Clone(f.asked.Fields)
	d.Request.Apply(&f.asked.Fields)
	f.tokens = nil
}

// tellClient writes who calls, where the users want applications to know. What the
// client has written is gone already.
func (f *flight) tellClient(e *upstream.Endpoint) {
	tell := f.rules != nil && f.rules.TellClient
	if f.c.target.uid != "" {
		known := f.picture.Endpoint(e.Workload.UID)
		tell = known != nil && known.TellClient
	}
	if tell {
		f.own()
		f.req.Fields.Set("x-forwarded-client-cert", "By="+f.w.cfg.identity().String()+";URI="+f.c.id.String())
	}
}

// stillAllowed asks the policies again, as they are now, about a request that
// lives. Nobody can be asked and no token be read again: who has approved and what
// was good counts, as long as the rule that said so applies.
func (f *flight) stillAllowed(p *config.Picture, x *life) error {
	var svc *config.Service
	if f.rules != nil {
		svc = p.Service(f.rules.Key)
		if svc == nil {
			return &policy.RevokedError{Verdict: policy.Verdict{Reason: "the service is no longer bound to this waypoint"}}
		}
	}
	ofService, ofWorkload := p.ServiceRules(svc), p.WorkloadRules(svc, x.to)
	if len(ofService.Missing)+len(ofWorkload.Missing) > 0 {
		return nil // it may be on its way; new requests wait for it
	}
	for _, rules := range []*config.Rules{ofService, ofWorkload} {
		var req *message.Request
		if x.proof.http {
			req = &x.proof.asked
		}
		tokens := x.proof.tokens
		if !tokens.StillBy(rules.Tokens) {
			tokens = nil
		}
		if v := filter.Authorize(f.c.subject(x.dest, req, tokens, x.proof.approved), rules.Policies); !v.Allowed {
			return &policy.RevokedError{Verdict: policy.Verdict{Policy: v.Policy, Reason: v.Reason}}
		}
	}
	return nil
}
