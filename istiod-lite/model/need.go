package model

import (
	"net/url"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
)

// Need is what a waypoint that has a resource must have as well, to use it: one
// resource by its name, or all that belong to a group. It is comparable.
type Need struct {
	Type Type   // zero: Name is a group
	Name string // in which OwnNamespace stands for the namespace of the waypoint

	// Bound is true when the need is only there where the resource is bound to the
	// waypoint: of a service to which its routes lead it uses the endpoints, and not
	// that service's routes in turn.
	Bound bool
}

// OwnNamespace stands in names of needs for the namespace of the waypoint. A colon
// cannot stand in names of objects.
const OwnNamespace = ":own"

// ThroughGroup is the group of what is bound to a waypoint: services and workloads
// to which traffic goes through it. service is the resource name of the waypoint's
// own service.
func ThroughGroup(service string) string { return "through:" + service }

// throughGroups are the groups of what is served by waypoints.
func throughGroups(through []*workloadapi.GatewayAddress) []string {
	var groups []string
	for _, a := range through {
		groups = append(groups, ThroughGroup(a.GetHostname().GetNamespace()+"/"+a.GetHostname().GetHostname()))
	}
	return groups
}

// hostGroup is the group of the services with a host name, whatever their namespace.
func hostGroup(host string) string { return "host:" + host }

// rulesGroup is the group of the policies and authentications of a whole namespace;
// those of the mesh are of the namespace "".
func rulesGroup(namespace string) string { return "rules:" + namespace }

// rulesOf is the group of a policy or authentication; none when it is attached by
// name or selects workloads, as then others name it.
func rulesOf(namespace string, scope securityapi.Scope, attached bool) []string {
	switch {
	case attached || scope == securityapi.Scope_WORKLOAD_SELECTOR:
		return nil
	case scope == securityapi.Scope_GLOBAL:
		return []string{rulesGroup("")}
	}
	return []string{rulesGroup(namespace)}
}

// rulesNeeded are policies and authentications by name, and those of a namespace and
// of the mesh.
func rulesNeeded(namespace string, policies, authentications []string, bound bool) []Need {
	needs := []Need{{Name: rulesGroup(""), Bound: bound}, {Name: rulesGroup(namespace), Bound: bound}}
	for _, name := range policies {
		needs = append(needs, Need{Type: TypeWaypointAuthorization, Name: name, Bound: bound})
	}
	for _, name := range authentications {
		needs = append(needs, Need{Type: TypeWaypointAuthentication, Name: name, Bound: bound})
	}
	return needs
}

// needsOfService is what a waypoint needs for a service that is bound to it: what its
// routes lead to, and what decides about its requests.
func needsOfService(s *waypointapi.Service) []Need {
	needs := rulesNeeded(s.Namespace, slices.Concat(s.Policies, s.Canary.GetPolicies()), slices.Concat(s.Authentications, s.Canary.GetAuthentications()), true)
	seen := map[string]bool{}
	add := func(b *waypointapi.Backend) {
		if name := b.GetService(); name != "" && !seen[name] {
			seen[name] = true
			needs = append(needs, Need{Type: TypeAddress, Name: name, Bound: true})
		}
	}
	mirrors := func(filters []*waypointapi.Filter) {
		for _, f := range filters {
			add(f.GetMirror().GetBackend())
		}
	}
	for _, t := range s.Tables {
		for _, r := range t.Routes {
			mirrors(r.Filters)
			for _, b := range r.Backends {
				add(b)
				mirrors(b.Filters)
			}
		}
	}
	for _, t := range s.Streams {
		for _, r := range t.Routes {
			for _, b := range r.Backends {
				add(b)
			}
		}
	}
	return needs
}

// needsOfPolicy is who a policy asks.
func needsOfPolicy(a *waypointapi.Authorization) []Need {
	if a.Provider == "" {
		return nil
	}
	return []Need{{Type: TypeWaypointProvider, Name: a.Provider}}
}

// needsOfTokens are the services of the mesh from which keys are fetched. Where a
// discovery document leads to another host, that one is not known before.
func (m *Model) needsOfTokens(a *waypointapi.Authentication) []Need {
	var needs []Need
	for _, r := range a.Rules {
		from := r.GetUri()
		if r.GetDiscover() {
			from = r.GetIssuer()
		}
		if u, err := url.Parse(from); err == nil && u.Hostname() != "" {
			needs = append(needs, m.needsOfHost(u.Hostname())...)
		}
	}
	return needs
}

// needsOfHost are the services that a name means, as waypoints read it: of a
// namespace where one stands before a slash, and otherwise as pods write names.
func (m *Model) needsOfHost(name string) []Need {
	namespace, host, named := strings.Cut(name, "/")
	if !named {
		host = name
	}
	hosts := []string{host}
	switch strings.Count(host, ".") {
	case 0:
		hosts = append(hosts, host+"."+OwnNamespace+".svc."+m.cfg.ClusterDomain)
	case 1:
		hosts = append(hosts, host+".svc."+m.cfg.ClusterDomain)
	case 2:
		if strings.HasSuffix(host, ".svc") {
			hosts = append(hosts, host+"."+m.cfg.ClusterDomain)
		}
	}
	var needs []Need
	for _, h := range hosts {
		if named {
			needs = append(needs, Need{Type: TypeAddress, Name: namespace + "/" + h})
		} else {
			needs = append(needs, Need{Name: hostGroup(h)})
		}
	}
	return needs
}
