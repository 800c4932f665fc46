package model

import (
	"cmp"
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/emptypb"
	api "istio.io/api/security/v1beta1"
	security "istio.io/client-go/pkg/apis/security/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
)

// Names of policies made from PeerAuthentications. The underscore cannot stand
// in names of objects, so they never meet one.
const (
	staticStrictName = "istio_converted_static_strict"
	convertedPrefix  = "converted_peer_authentication_"
)

// kindStaticStrict is the kind of the one policy that has no object.
const kindStaticStrict Kind = "static strict policy"

// staticStrict is the policy that workloads name when every port is STRICT. It
// is there as soon as anybody has written a PeerAuthentication.
func (m *Model) staticStrict() []*Resource {
	for _, s := range m.spaces {
		if len(s.peers) > 0 {
			return []*Resource{authorizationResource(&securityapi.Authorization{
				Name:      staticStrictName,
				Namespace: m.cfg.RootNamespace,
				Scope:     securityapi.Scope_WORKLOAD_SELECTOR,
				Action:    securityapi.Action_DENY,
				Rules:     []*securityapi.Rule{{Clauses: []*securityapi.Clause{{Matches: []*securityapi.Match{{NotPrincipals: anyone()}}}}}},
			})}
		}
	}
	return nil
}

// anyone matches every caller with a proven identity.
func anyone() []*securityapi.StringMatch {
	return []*securityapi.StringMatch{{MatchType: &securityapi.StringMatch_Presence{Presence: &emptypb.Empty{}}}}
}

// fromPeerAuthentication is the policy of one that treats some ports in another
// way than the rest. All others are expressed by [Model.staticStrict] or by
// nothing.
func (m *Model) fromPeerAuthentication(p *security.PeerAuthentication) ([]*Resource, []Condition) {
	var conditions []Condition
	switch {
	case len(selectorOf(p)) == 0:
		if len(p.Spec.PortLevelMtls) > 0 {
			conditions = append(conditions, Condition{
				Type: ConditionZtunnel, True: true, Reason: ReasonUnsupported,
				Message: "portLevelMtls counts only with a selector: it has no effect here",
			})
		}
		return nil, conditions
	case p.Namespace == m.cfg.RootNamespace:
		return nil, []Condition{{
			Type: ConditionZtunnel, Reason: ReasonUnsupported,
			Message: "a selector has no effect in the root namespace " + m.cfg.RootNamespace + ": put the policy into the namespace of the workloads",
		}}
	}
	ports := m.exceptions(p)
	if len(ports.ports) == 0 {
		return nil, nil
	}
	return []*Resource{authorizationResource(&securityapi.Authorization{
		Name:      convertedPrefix + p.Name,
		Namespace: p.Namespace,
		Scope:     securityapi.Scope_WORKLOAD_SELECTOR,
		Action:    securityapi.Action_DENY,
		Rules:     ports.rules(),
	})}, nil
}

// exceptions are the ports of a PeerAuthentication that differ from its base.
type exceptions struct {
	strict bool // the base: what holds for all other ports
	ports  []uint32
}

// exceptions finds the ports whose mode is not that of the rest, sorted.
func (m *Model) exceptions(p *security.PeerAuthentication) exceptions {
	mode := p.Spec.GetMtls().GetMode()
	e := exceptions{strict: mode == api.PeerAuthentication_MutualTLS_STRICT}
	inherited := mode == api.PeerAuthentication_MutualTLS_UNSET
	if inherited {
		e.strict = m.namespaceStrict(p.Namespace)
	}
	for port, mtls := range p.Spec.PortLevelMtls {
		differs := false
		switch mtls.GetMode() {
		case api.PeerAuthentication_MutualTLS_STRICT:
			differs = !e.strict
		case api.PeerAuthentication_MutualTLS_PERMISSIVE:
			differs = e.strict
		case api.PeerAuthentication_MutualTLS_DISABLE:
			differs = e.strict && !inherited // DISABLE does not undo what others made strict
		}
		if differs {
			e.ports = append(e.ports, port)
		}
	}
	slices.Sort(e.ports)
	return e
}

// rules deny callers without identity: on the listed ports when the base is not
// strict, on all but the listed ports when it is.
func (e exceptions) rules() []*securityapi.Rule {
	if !e.strict {
		var rules []*securityapi.Rule
		for _, port := range e.ports {
			match := &securityapi.Match{NotPrincipals: anyone(), DestinationPorts: []uint32{port}}
			rules = append(rules, &securityapi.Rule{Clauses: []*securityapi.Clause{{Matches: []*securityapi.Match{match}}}})
		}
		return rules
	}
	clauses := []*securityapi.Clause{{Matches: []*securityapi.Match{{NotPrincipals: anyone()}}}}
	for _, port := range e.ports {
		clauses = append(clauses, &securityapi.Clause{Matches: []*securityapi.Match{{NotDestinationPorts: []uint32{port}}}})
	}
	return []*securityapi.Rule{{Clauses: clauses}}
}

// peerPolicyFor is the name of the policy that expresses the mode of a workload:
// that of its own PeerAuthentication, else of the namespace's, else of the
// mesh's. Empty when plaintext is welcome.
func (m *Model) peerPolicyFor(namespace string, labels map[string]string) string {
	static := m.cfg.RootNamespace + "/" + staticStrictName
	own := m.ownPeerAuthentication(namespace, labels)
	if own == nil {
		if m.namespaceStrict(namespace) {
			return static
		}
		return ""
	}
	e := m.exceptions(own)
	switch {
	case len(e.ports) > 0:
		return own.Namespace + "/" + convertedPrefix + own.Name
	case e.strict:
		return static
	}
	return ""
}

// ownPeerAuthentication is the oldest one that selects the workload. The root
// namespace has none of that kind.
func (m *Model) ownPeerAuthentication(namespace string, labels map[string]string) *security.PeerAuthentication {
	if namespace == m.cfg.RootNamespace {
		return nil
	}
	return m.oldest(namespace, func(p *security.PeerAuthentication) bool {
		return len(selectorOf(p)) > 0 && selects(selectorOf(p), labels)
	})
}

// namespaceStrict is the mode of a namespace, inherited from the mesh if unset.
func (m *Model) namespaceStrict(namespace string) bool {
	for _, level := range []string{namespace, m.cfg.RootNamespace} {
		p := m.oldest(level, func(p *security.PeerAuthentication) bool { return len(selectorOf(p)) == 0 })
		if mode := modeOf(p); mode != api.PeerAuthentication_MutualTLS_UNSET {
			return mode == api.PeerAuthentication_MutualTLS_STRICT
		}
	}
	return false
}

// oldest is the oldest PeerAuthentication of a namespace that fits; of one age
// the first by name.
func (m *Model) oldest(namespace string, fits func(*security.PeerAuthentication) bool) *security.PeerAuthentication {
	s := m.spaces[namespace]
	if s == nil || len(s.peers) == 0 {
		return nil
	}
	candidates := slices.DeleteFunc(slices.Collect(maps.Values(s.peers)), func(p *security.PeerAuthentication) bool { return !fits(p) })
	if len(candidates) == 0 {
		return nil
	}
	return slices.MinFunc(candidates, func(a, b *security.PeerAuthentication) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
}

// selectorOf are the labels that a PeerAuthentication asks for.
func selectorOf(p *security.PeerAuthentication) map[string]string {
	return p.Spec.GetSelector().GetMatchLabels()
}

// modeOf is the mode for all ports; unset if there is no PeerAuthentication.
func modeOf(p *security.PeerAuthentication) api.PeerAuthentication_MutualTLS_Mode {
	if p == nil {
		return api.PeerAuthentication_MutualTLS_UNSET
	}
	return p.Spec.GetMtls().GetMode()
}
