package admin

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/workload"
)

// workloadDump is one workload.
type workloadDump struct {
	UID               string        `json:"uid"`
	WorkloadIPs       []string      `json:"workloadIps"`
	Waypoint          *gatewayDump  `json:"waypoint,omitempty"`
	NetworkGateway    *gatewayDump  `json:"networkGateway,omitempty"`
	Protocol          string        `json:"protocol"`
	Name              string        `json:"name"`
	Namespace         string        `json:"namespace"`
	ServiceAccount    string        `json:"serviceAccount"`
	WorkloadName      string        `json:"workloadName"`
	WorkloadType      string        `json:"workloadType"`
	CanonicalName     string        `json:"canonicalName"`
	CanonicalRevision string        `json:"canonicalRevision"`
	ClusterID         string        `json:"clusterId"`
	TrustDomain       string        `json:"trustDomain,omitempty"`
	Locality          *localityDump `json:"locality,omitempty"`
	Node              string        `json:"node"`
	Network           string        `json:"network,omitempty"`
	Status            string        `json:"status"`
	Hostname          string        `json:"hostname,omitempty"`
	Capacity          uint32        `json:"capacity"`
	NativeTunnel      bool          `json:"nativeTunnel,omitempty"`
	ApplicationTunnel *tunnelDump   `json:"applicationTunnel,omitempty"`
	Policies          []string      `json:"authorizationPolicies,omitempty"`
	Services          []string      `json:"services"`
}

// localityDump is a place.
type localityDump struct {
	Region  string `json:"region,omitempty"`
	Zone    string `json:"zone,omitempty"`
	Subzone string `json:"subzone,omitempty"`
}

// gatewayDump is where a waypoint or network gateway is.
type gatewayDump struct {
	Destination string `json:"destination"`
	Port        uint16 `json:"hboneMtlsPort"`
}

// tunnelDump is how an application wants its last hop.
type tunnelDump struct {
	Protocol string  `json:"protocol"`
	Port     *uint16 `json:"port,omitempty"`
}

// dumpWorkload is w for tools.
func dumpWorkload(w *workload.Workload) workloadDump {
	d := workloadDump{
		UID: w.UID, WorkloadIPs: []string{},
		Waypoint: dumpGateway(w.Waypoint), NetworkGateway: dumpGateway(w.NetworkGateway),
		Protocol: w.Protocol.String(),
		Name:     w.Name, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount,
		WorkloadName: w.WorkloadName, WorkloadType: w.Type.String(),
		CanonicalName: w.CanonicalName, CanonicalRevision: w.CanonicalRevision,
		ClusterID: w.ClusterID, TrustDomain: w.TrustDomain, Node: w.Node, Network: w.Network,
		Status: "Healthy", Hostname: w.Hostname, Capacity: w.Capacity,
		NativeTunnel: w.NativeTunnel, Policies: w.Policies,
		Services: []string{},
	}
	if !w.Healthy {
		d.Status = "Unhealthy"
	}
	for _, a := range w.Addresses {
		d.WorkloadIPs = append(d.WorkloadIPs, a.String())
	}
	if l := w.Locality; l != (workload.Locality{}) {
		d.Locality = &localityDump{Region: l.Region, Zone: l.Zone, Subzone: l.Subzone}
	}
	if t := w.AppTunnel; t != nil {
		d.ApplicationTunnel = &tunnelDump{Protocol: "NONE"}
		if t.Proxy {
			d.ApplicationTunnel.Protocol = "PROXY"
		}
		if t.Port != 0 {
			d.ApplicationTunnel.Port = &t.Port
		}
	}
	for key := range w.Services {
		d.Services = append(d.Services, key.String())
	}
	slices.Sort(d.Services)
	return d
}

// dumpGateway is g for tools, or nil.
func dumpGateway(g *workload.Gateway) *gatewayDump {
	if g == nil {
		return nil
	}
	d := &gatewayDump{Destination: g.Host.String(), Port: g.Port}
	if g.ByAddr() {
		d.Destination = g.Addr.Network + "/" + g.Addr.Addr.String()
	}
	return d
}

// serviceDump is one service.
type serviceDump struct {
	Name         string                  `json:"name"`
	Namespace    string                  `json:"namespace"`
	Hostname     string                  `json:"hostname"`
	VIPs         []string                `json:"vips"`
	CIDRVIPs     []string                `json:"cidrVips,omitempty"`
	Ports        map[uint16]uint16       `json:"ports"`
	LoadBalancer *balancerDump           `json:"loadBalancer,omitempty"`
	Waypoint     *gatewayDump            `json:"waypoint,omitempty"`
	Endpoints    map[string]endpointDump `json:"endpoints"`
	SANs         []string                `json:"subjectAltNames"`
	IPFamilies   string                  `json:"ipFamilies,omitempty"`
	Canonical    bool                    `json:"canonical,omitempty"`
	Visibility   string                  `json:"visibility,omitempty"`
}

// balancerDump is how endpoints are chosen.
type balancerDump struct {
	Mode               string   `json:"mode"`
	RoutingPreferences []string `json:"routingPreferences"`
	HealthPolicy       string   `json:"healthPolicy"`
}

// endpointDump is one workload as an endpoint.
type endpointDump struct {
	WorkloadUID string            `json:"workloadUid"`
	Service     string            `json:"service"`
	Address     string            `json:"address,omitempty"`
	Port        map[uint16]uint16 `json:"port"`
}

// dumpService is svc and the endpoints it may use, for tools.
func dumpService(snap *workload.Snapshot, svc *workload.Service) serviceDump {
	d := serviceDump{
		Name: svc.Name, Namespace: svc.Namespace, Hostname: svc.Hostname,
		VIPs: []string{}, Ports: dumpPorts(svc.Ports), Waypoint: dumpGateway(svc.Waypoint),
		Endpoints: map[string]endpointDump{}, SANs: []string{},
		IPFamilies: svc.Families.String(), Canonical: svc.Canonical,
		LoadBalancer: dumpBalancing(svc.Balancing),
	}
	for _, vip := range svc.VIPs {
		if vip.Prefix.IsSingleIP() {
			d.VIPs = append(d.VIPs, vip.Network+"/"+vip.Prefix.Addr().String())
		} else {
			d.CIDRVIPs = append(d.CIDRVIPs, vip.Network+"/"+vip.Prefix.String())
		}
	}
	for _, id := range svc.SANs {
		d.SANs = append(d.SANs, id.String())
	}
	if svc.NamespaceOnly {
		d.Visibility = "Namespace"
	}
	for _, ep := range snap.Endpoints(svc) {
		e := endpointDump{WorkloadUID: ep.Workload.UID, Service: svc.Key.String(), Port: dumpPorts(ep.Ports)}
		if len(ep.Workload.Addresses) > 0 {
			e.Address = ep.Workload.Network + "/" + ep.Workload.Addresses[0].String()
		}
		d.Endpoints[ep.Workload.UID] = e
	}
	return d
}

// dumpPorts is ports as a map that is never null.
func dumpPorts(ports workload.Ports) map[uint16]uint16 {
	out := make(map[uint16]uint16, len(ports))
	maps.Copy(out, ports)
	return out
}

// dumpBalancing is b for tools; nil when nothing is preferred.
func dumpBalancing(b workload.Balancing) *balancerDump {
	if b.Mode == workload.ModeStandard && len(b.Scopes) == 0 && !b.AllowUnhealthy {
		return nil
	}
	d := &balancerDump{Mode: b.Mode.String(), RoutingPreferences: []string{}, HealthPolicy: "OnlyHealthy"}
	for _, scope := range b.Scopes {
		d.RoutingPreferences = append(d.RoutingPreferences, scope.String())
	}
	if b.AllowUnhealthy {
		d.HealthPolicy = "AllowAll"
	}
	return d
}

// policyDump is one authorization policy: rules of clauses of matches.
type policyDump struct {
	Name      string          `json:"name"`
	Namespace string          `json:"namespace"`
	Scope     string          `json:"scope"`
	Action    string          `json:"action"`
	DryRun    bool            `json:"dryRun,omitempty"`
	Rules     [][][]matchDump `json:"rules"`
}

// matchDump is one comparison of a policy.
type matchDump struct {
	Namespaces          []stringDump  `json:"namespaces,omitempty"`
	NotNamespaces       []stringDump  `json:"notNamespaces,omitempty"`
	Principals          []stringDump  `json:"principals,omitempty"`
	NotPrincipals       []stringDump  `json:"notPrincipals,omitempty"`
	SourceIPs           []string      `json:"sourceIps,omitempty"`
	NotSourceIPs        []string      `json:"notSourceIps,omitempty"`
	DestinationIPs      []string      `json:"destinationIps,omitempty"`
	NotDestinationIPs   []string      `json:"notDestinationIps,omitempty"`
	DestinationPorts    []uint32      `json:"destinationPorts,omitempty"`
	NotDestinationPorts []uint32      `json:"notDestinationPorts,omitempty"`
	ServiceAccounts     []accountDump `json:"serviceAccounts,omitempty"`
	NotServiceAccounts  []accountDump `json:"notServiceAccounts,omitempty"`
}

// stringDump is one comparison of a text. These keys begin with capitals in
// the tools that exist.
type stringDump struct {
	Exact    string    `json:"Exact,omitempty"`
	Prefix   string    `json:"Prefix,omitempty"`
	Suffix   string    `json:"Suffix,omitempty"`
	Presence *struct{} `json:"Presence,omitempty"`
}

// accountDump names a service account.
type accountDump struct {
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
}

// dumpPolicy is p for tools, as the control plane sent it.
func dumpPolicy(p *policy.Policy) policyDump {
	src := p.Source()
	d := policyDump{
		Name: src.GetName(), Namespace: p.Namespace(), Scope: p.Scope().String(), Action: p.Action().String(),
		DryRun: p.DryRun(), Rules: [][][]matchDump{},
	}
	for _, r := range src.GetRules() {
		clauses := [][]matchDump{}
		for _, c := range r.GetClauses() {
			matches := []matchDump{}
			for _, m := range c.GetMatches() {
				matches = append(matches, dumpMatch(m))
			}
			clauses = append(clauses, matches)
		}
		d.Rules = append(d.Rules, clauses)
	}
	return d
}

// dumpMatch is m for tools.
func dumpMatch(m *securityapi.Match) matchDump {
	return matchDump{
		Namespaces: each(m.GetNamespaces(), dumpString), NotNamespaces: each(m.GetNotNamespaces(), dumpString),
		Principals: each(m.GetPrincipals(), dumpString), NotPrincipals: each(m.GetNotPrincipals(), dumpString),
		SourceIPs: each(m.GetSourceIps(), dumpPrefix), NotSourceIPs: each(m.GetNotSourceIps(), dumpPrefix),
		DestinationIPs: each(m.GetDestinationIps(), dumpPrefix), NotDestinationIPs: each(m.GetNotDestinationIps(), dumpPrefix),
		DestinationPorts: m.GetDestinationPorts(), NotDestinationPorts: m.GetNotDestinationPorts(),
		ServiceAccounts: each(m.GetServiceAccounts(), dumpAccount), NotServiceAccounts: each(m.GetNotServiceAccounts(), dumpAccount),
	}
}

// each applies dump to all of list; nil when there are none.
func each[A, B any](list []A, dump func(A) B) []B {
	var out []B
	for _, a := range list {
		out = append(out, dump(a))
	}
	return out
}

// dumpString is one comparison of a text.
func dumpString(m *securityapi.StringMatch) stringDump {
	d := stringDump{Exact: m.GetExact(), Prefix: m.GetPrefix(), Suffix: m.GetSuffix()}
	if m.GetPresence() != nil {
		d.Presence = &struct{}{}
	}
	return d
}

// dumpPrefix is a range of addresses as text; what is not one says so.
func dumpPrefix(a *securityapi.Address) string {
	ip, ok := netip.AddrFromSlice(a.GetAddress())
	if !ok || a.GetLength() > uint32(ip.BitLen()) {
		return "invalid"
	}
	return netip.PrefixFrom(ip, int(a.GetLength())).String()
}

// dumpAccount names a service account.
func dumpAccount(m *securityapi.ServiceAccountMatch) accountDump {
	return accountDump{Namespace: m.GetNamespace(), ServiceAccount: m.GetServiceAccount()}
}
