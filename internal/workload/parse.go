package workload

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
)

// parseWorkload checks a workload as the control plane sent it. An error names
// the field.
func parseWorkload(m *workloadapi.Workload) (*Workload, error) {
	if m.GetUid() == "" {
		return nil, fmt.Errorf("uid is empty")
	}
	w := &Workload{
		Names: Names{
			UID:            m.GetUid(),
			Name:           m.GetName(),
			Namespace:      m.GetNamespace(),
			ServiceAccount: orDefault(m.GetServiceAccount(), DefaultServiceAccount),
			TrustDomain:    orDefault(m.GetTrustDomain(), DefaultTrustDomain),
		},
		Location: Location{
			Network:   m.GetNetwork(),
			Hostname:  m.GetHostname(),
			Node:      m.GetNode(),
			ClusterID: orDefault(m.GetClusterId(), DefaultClusterID),
			Locality: Locality{
				Region:  m.GetLocality().GetRegion(),
				Zone:    m.GetLocality().GetZone(),
				Subzone: m.GetLocality().GetSubzone(),
			},
		},
		Owner: Owner{
			CanonicalName:     m.GetCanonicalName(),
			CanonicalRevision: m.GetCanonicalRevision(),
			WorkloadName:      m.GetWorkloadName(),
		},
	}
	w.Identity = identityOf(w.TrustDomain, w.Namespace, w.ServiceAccount)
	for i, raw := range m.GetAddresses() {
		a, err := parseAddr(raw)
		if err != nil {
			return nil, fmt.Errorf("addresses[%d]: %w", i, err)
		}
		if !w.HasAddress(a) {
			w.Addresses = append(w.Addresses, a)
		}
	}
	if err := parseEnums(w, m); err != nil {
		return nil, err
	}
	if err := parseReach(w, m); err != nil {
		return nil, err
	}
	return w, parseRole(w, m)
}

// identityOf returns the zero ID when the names cannot make one; nobody is then
// accepted as the workload.
func identityOf(trustDomain, namespace, serviceAccount string) identity.ID {
	id, err := identity.NewID(trustDomain, namespace, serviceAccount)
	if err != nil {
		return identity.ID{}
	}
	return id
}

// parseEnums refuses numbers that have no meaning here: guessing one could open
// what was meant to be closed.
func parseEnums(w *Workload, m *workloadapi.Workload) error {
	switch p := m.GetTunnelProtocol(); p {
	case workloadapi.TunnelProtocol_NONE:
		w.Protocol = ProtocolTCP
	case workloadapi.TunnelProtocol_HBONE:
		w.Protocol = ProtocolHBONE
	case workloadapi.TunnelProtocol_LEGACY_ISTIO_MTLS:
		return fmt.Errorf("tunnel_protocol: LEGACY_ISTIO_MTLS is not supported")
	default:
		return fmt.Errorf("tunnel_protocol: %d is not known", p)
	}
	switch t := m.GetWorkloadType(); t {
	case workloadapi.WorkloadType_DEPLOYMENT:
		w.Type = TypeDeployment
	case workloadapi.WorkloadType_CRONJOB:
		w.Type = TypeCronJob
	case workloadapi.WorkloadType_POD:
		w.Type = TypePod
	case workloadapi.WorkloadType_JOB:
		w.Type = TypeJob
	default:
		return fmt.Errorf("workload_type: %d is not known", t)
	}
	switch s := m.GetStatus(); s {
	case workloadapi.WorkloadStatus_HEALTHY:
		w.Healthy = true
	case workloadapi.WorkloadStatus_UNHEALTHY:
	default:
		return fmt.Errorf("status: %d is not known", s)
	}
	switch n := m.GetNetworkMode(); n {
	case workloadapi.NetworkMode_STANDARD:
	case workloadapi.NetworkMode_HOST_NETWORK:
		w.HostNetwork = true
	default:
		return fmt.Errorf("network_mode: %d is not known", n)
	}
	return nil
}

// parseReach reads tunnels and gateways.
func parseReach(w *Workload, m *workloadapi.Workload) (err error) {
	w.NativeTunnel = m.GetNativeTunnel()
	if w.Waypoint, err = parseGateway(m.GetWaypoint()); err != nil {
		return fmt.Errorf("waypoint: %w", err)
	}
	if w.NetworkGateway, err = parseGateway(m.GetNetworkGateway()); err != nil {
		return fmt.Errorf("network_gateway: %w", err)
	}
	t := m.GetApplicationTunnel()
	if t == nil {
		return nil
	}
	tunnel := &AppTunnel{}
	switch p := t.GetProtocol(); p {
	case workloadapi.ApplicationTunnel_NONE:
	case workloadapi.ApplicationTunnel_PROXY:
		tunnel.Proxy = true
	default:
		return fmt.Errorf("application_tunnel.protocol: %d is not known", p)
	}
	if tunnel.Port, err = parsePort(t.GetPort()); err != nil {
		return fmt.Errorf("application_tunnel.port: %w", err)
	}
	w.AppTunnel = tunnel
	return nil
}

// parseRole reads membership, policies and weight.
func parseRole(w *Workload, m *workloadapi.Workload) error {
	w.Capacity = 1
	if c := m.GetCapacity(); c != nil {
		w.Capacity = c.GetValue()
	}
	w.Policies = slices.Clone(m.GetAuthorizationPolicies())
	w.Services = make(map[Key]Ports, len(m.GetServices()))
	for name, list := range m.GetServices() {
		k, ok := ParseKey(name)
		if !ok {
			return fmt.Errorf("services: key %q is not namespace/hostname", name)
		}
		ports, err := parsePorts(list.GetPorts())
		if err != nil {
			return fmt.Errorf("services[%q]: %w", name, err)
		}
		w.Services[k] = ports
	}
	return nil
}

// parseService checks a service as the control plane sent it. An error names
// the field.
func parseService(m *workloadapi.Service) (*Service, error) {
	svc := &Service{
		Key:       Key{Namespace: m.GetNamespace(), Hostname: m.GetHostname()},
		Name:      m.GetName(),
		Canonical: m.GetCanonical(),
		// Values other than NAMESPACE, known or not, mean public.
		NamespaceOnly: m.GetVisibility() == workloadapi.Service_NAMESPACE,
	}
	if _, ok := ParseKey(svc.Key.String()); !ok {
		return nil, fmt.Errorf("namespace %q and hostname %q do not make a key", svc.Namespace, svc.Hostname)
	}
	for i, a := range m.GetAddresses() {
		v, err := parseVIP(a)
		if err != nil {
			return nil, fmt.Errorf("addresses[%d]: %w", i, err)
		}
		if !slices.Contains(svc.VIPs, v) {
			svc.VIPs = append(svc.VIPs, v)
		}
	}
	var err error
	if svc.Ports, err = parsePorts(m.GetPorts()); err != nil {
		return nil, err
	}
	for _, san := range m.GetSubjectAltNames() {
		if id, err := identity.ParseID(san); err == nil {
			svc.SANs = append(svc.SANs, id)
		}
	}
	if svc.Balancing, err = parseBalancing(m.GetLoadBalancing()); err != nil {
		return nil, fmt.Errorf("load_balancing: %w", err)
	}
	switch f := m.GetIpFamilies(); f {
	case workloadapi.IPFamilies_AUTOMATIC:
	case workloadapi.IPFamilies_IPV4_ONLY:
		svc.Families = FamiliesIPv4
	case workloadapi.IPFamilies_IPV6_ONLY:
		svc.Families = FamiliesIPv6
	case workloadapi.IPFamilies_DUAL:
		svc.Families = FamiliesDual
	default:
		return nil, fmt.Errorf("ip_families: %d is not known", f)
	}
	return svc, parseWaypoints(svc, m)
}

// parseWaypoints reads the single waypoint and the weighted ones.
func parseWaypoints(svc *Service, m *workloadapi.Service) (err error) {
	if svc.Waypoint, err = parseGateway(m.GetWaypoint()); err != nil {
		return fmt.Errorf("waypoint: %w", err)
	}
	for i, ww := range m.GetWeightedWaypoints() {
		g, err := parseGateway(ww.GetDestination())
		if err != nil {
			return fmt.Errorf("weighted_waypoints[%d]: %w", i, err)
		}
		if g == nil {
			return fmt.Errorf("weighted_waypoints[%d]: destination is missing", i)
		}
		svc.Weighted = append(svc.Weighted, WeightedGateway{Gateway: *g, Weight: ww.GetWeight()})
	}
	return nil
}

func parseBalancing(m *workloadapi.LoadBalancing) (Balancing, error) {
	var b Balancing
	switch mode := m.GetMode(); mode {
	case workloadapi.LoadBalancing_UNSPECIFIED_MODE:
	case workloadapi.LoadBalancing_STRICT:
		b.Mode = ModeStrict
	case workloadapi.LoadBalancing_FAILOVER:
		b.Mode = ModeFailover
	case workloadapi.LoadBalancing_PASSTHROUGH:
		b.Mode = ModePassthrough
	default:
		return b, fmt.Errorf("mode: %d is not known", mode)
	}
	switch h := m.GetHealthPolicy(); h {
	case workloadapi.LoadBalancing_ONLY_HEALTHY:
	case workloadapi.LoadBalancing_ALLOW_ALL:
		b.AllowUnhealthy = true
	default:
		return b, fmt.Errorf("health_policy: %d is not known", h)
	}
	for i, s := range m.GetRoutingPreference() {
		if s < workloadapi.LoadBalancing_REGION || s > workloadapi.LoadBalancing_NETWORK {
			return b, fmt.Errorf("routing_preference[%d]: %d is not known", i, s)
		}
		b.Scopes = append(b.Scopes, Scope(s))
	}
	return b, nil
}

// parseGateway returns nil for an absent gateway.
func parseGateway(m *workloadapi.GatewayAddress) (*Gateway, error) {
	if m == nil {
		return nil, nil
	}
	g := &Gateway{Port: HBONEPort}
	switch d := m.GetDestination().(type) {
	case *workloadapi.GatewayAddress_Hostname:
		g.Host = Key{Namespace: d.Hostname.GetNamespace(), Hostname: d.Hostname.GetHostname()}
		if g.Host.Hostname == "" {
			return nil, fmt.Errorf("hostname is empty")
		}
	case *workloadapi.GatewayAddress_Address:
		a, err := parseAddr(d.Address.GetAddress())
		if err != nil {
			return nil, fmt.Errorf("address: %w", err)
		}
		g.Addr = NetworkAddr{Network: d.Address.GetNetwork(), Addr: a}
	default:
		return nil, fmt.Errorf("destination is missing")
	}
	if m.GetHboneMtlsPort() != 0 {
		port, err := parsePort(m.GetHboneMtlsPort())
		if err != nil {
			return nil, fmt.Errorf("hbone_mtls_port: %w", err)
		}
		g.Port = port
	}
	return g, nil
}

func parseVIP(m *workloadapi.NetworkAddress) (VIP, error) {
	a, err := parseAddr(m.GetAddress())
	if err != nil {
		return VIP{}, err
	}
	bits := a.BitLen()
	if m.Length != nil {
		raw := len(m.GetAddress()) * 8
		// A mapped IPv4 address counts its bits from the start of 16 bytes.
		n := int64(m.GetLength()) - int64(raw-bits)
		if n < 0 || n > int64(bits) {
			return VIP{}, fmt.Errorf("length: a prefix of %v cannot have %d bits", a, m.GetLength())
		}
		bits = int(n)
	}
	return VIP{Network: m.GetNetwork(), Prefix: netip.PrefixFrom(a, bits).Masked()}, nil
}

// parseAddr reads 4 or 16 bytes. IPv4 in IPv6 becomes IPv4.
func parseAddr(raw []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.Addr{}, fmt.Errorf("an address of %d bytes, want 4 or 16", len(raw))
	}
	return a.Unmap(), nil
}

func parsePort(p uint32) (uint16, error) {
	if p > math.MaxUint16 {
		return 0, fmt.Errorf("%d is not a port", p)
	}
	return uint16(p), nil
}

func parsePorts(list []*workloadapi.Port) (Ports, error) {
	out := make(Ports, len(list))
	for i, p := range list {
		from, err := parsePort(p.GetServicePort())
		if err != nil {
			return nil, fmt.Errorf("ports[%d].service_port: %w", i, err)
		}
		to, err := parsePort(p.GetTargetPort())
		if err != nil {
			return nil, fmt.Errorf("ports[%d].target_port: %w", i, err)
		}
		out[from] = to
	}
	return out, nil
}

func orDefault(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}
