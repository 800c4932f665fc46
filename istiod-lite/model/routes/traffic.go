//lint:file-ignore SA1019 old names of fields are still written, and are understood.

package routes

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// Destination is what comes of a DestinationRule.
type Destination struct {
	Traffic *waypointapi.Traffic
	Ports   map[uint32]*waypointapi.Traffic
	Subsets []*waypointapi.Subset
	// Problems are fields that cannot be done; Notes are old names that are
	// understood.
	Problems, Notes []Problem
}

// Rule translates a DestinationRule. What a subset says comes before what the rule says
// of a port, and that before what it says of the whole service.
func Rule(r *networking.DestinationRule) Destination {
	t := &trafficConverter{namespace: r.Namespace}
	d := Destination{}
	all := r.Spec.GetTrafficPolicy()
	d.Traffic = t.policy("spec.trafficPolicy", all, nil)
	d.Ports = t.ports("spec.trafficPolicy", all, func(uint32) *waypointapi.Traffic { return d.Traffic })
	for i, s := range r.Spec.GetSubsets() {
		path := fmt.Sprintf("spec.subsets[%d].trafficPolicy", i)
		sub := &waypointapi.Subset{Name: s.GetName(), Labels: s.GetLabels(), Ports: map[uint32]*waypointapi.Traffic{}}
		sub.Traffic = t.policy(path, s.GetTrafficPolicy(), d.Traffic)
		again := &trafficConverter{namespace: r.Namespace} // what is wrong was said above
		for number, base := range d.Ports {
			sub.Ports[number] = again.policy(path, s.GetTrafficPolicy(), base)
		}
		maps.Copy(sub.Ports, t.ports(path, s.GetTrafficPolicy(), func(number uint32) *waypointapi.Traffic { return cmp.Or(sub.Ports[number], sub.Traffic) }))
		d.Subsets = append(d.Subsets, sub)
	}
	d.Problems, d.Notes = t.problems, t.notes
	return d
}

// ports translates what a policy says of single ports; base is what it leaves unsaid.
func (t *trafficConverter) ports(path string, p *api.TrafficPolicy, base func(number uint32) *waypointapi.Traffic) map[uint32]*waypointapi.Traffic {
	out := map[uint32]*waypointapi.Traffic{}
	for _, s := range p.GetPortLevelSettings() {
		number := s.GetPort().GetNumber()
		out[number] = t.policy(fmt.Sprintf("%s.portLevelSettings[%d]", path, number), &api.TrafficPolicy{
			LoadBalancer: s.GetLoadBalancer(), ConnectionPool: s.GetConnectionPool(), OutlierDetection: s.GetOutlierDetection(), Tls: s.GetTls(),
		}, base(number))
	}
	return out
}

// trafficConverter collects what is found on the way.
type trafficConverter struct {
	namespace       string // of the rule
	problems, notes []Problem
}

// problem notes a field that cannot be done.
func (t *trafficConverter) problem(path, format string, args ...any) {
	t.problems = append(t.problems, Problem{Path: path, Text: fmt.Sprintf(format, args...)})
}

// note says, once, what a field means here.
func (t *trafficConverter) note(path, text string) {
	if n := (Problem{Path: path, Text: text}); !slices.Contains(t.notes, n) {
		t.notes = append(t.notes, n)
	}
}

// policy translates a traffic policy. What it does not say is taken from base.
func (t *trafficConverter) policy(path string, p *api.TrafficPolicy, base *waypointapi.Traffic) *waypointapi.Traffic {
	if p == nil {
		return base
	}
	out := &waypointapi.Traffic{
		Balancer: base.GetBalancer(), Outlier: base.GetOutlier(), Limits: base.GetLimits(), UpgradeToHttp2: base.GetUpgradeToHttp2(), Tls: base.GetTls(),
		ProxyProtocol: base.GetProxyProtocol(),
	}
	if p.GetLoadBalancer() != nil {
		out.Balancer = t.balancer(path+".loadBalancer", p.GetLoadBalancer())
	}
	if p.GetOutlierDetection() != nil {
		out.Outlier = t.outlier(path+".outlierDetection", p.GetOutlierDetection())
	}
	if c := p.GetConnectionPool(); c != nil {
		out.Limits = &waypointapi.Limits{
			Connections: atLeastZero(c.GetTcp().GetMaxConnections()), ConnectTimeout: c.GetTcp().GetConnectTimeout(),
			Requests: atLeastZero(c.GetHttp().GetHttp2MaxRequests()), Pending: atLeastZero(c.GetHttp().GetHttp1MaxPendingRequests()),
			RequestsPerConnection: atLeastZero(c.GetHttp().GetMaxRequestsPerConnection()), IdleTimeout: c.GetHttp().GetIdleTimeout(),
			Retries: atLeastZero(c.GetHttp().GetMaxRetries()), MaxDuration: c.GetTcp().GetMaxConnectionDuration(),
		}
		if out.Limits.Connections > 0 || out.Limits.Requests > 0 || out.Limits.Pending > 0 || out.Limits.Retries > 0 {
			t.note(path+".connectionPool", "limits are those of each instance of a waypoint")
		}
		out.UpgradeToHttp2 = c.GetHttp().GetH2UpgradePolicy() == api.ConnectionPoolSettings_HTTPSettings_UPGRADE
		if d := c.GetTcp().GetMaxConnectionDuration(); d != nil && d.AsDuration() < time.Millisecond {
			t.problem(path+".connectionPool.tcp.maxConnectionDuration", "want at least 1ms: it is not followed")
			out.Limits.MaxDuration = nil
		}
	}
	if p.GetTls() != nil {
		out.Tls = t.tls(path+".tls", p.GetTls())
	}
	if p.GetTunnel() != nil {
		t.problem(path+".tunnel", "is not supported")
	}
	if v := p.GetProxyProtocol(); v != nil {
		t.note(path+".proxyProtocol", "is for endpoints that have no tunnel: those in the mesh see the address of the client by theirs")
		out.ProxyProtocol = waypointapi.ProxyProtocol_PROXY_V1
		if v.GetVersion() == api.TrafficPolicy_ProxyProtocol_V2 {
			out.ProxyProtocol = waypointapi.ProxyProtocol_PROXY_V2
		}
	}
	if l := out.Balancer.GetLocality(); l != nil && len(l.Distribute) == 0 && out.Outlier == nil {
		t.note(path+".loadBalancer.localityLbSetting", "takes effect only with outlierDetection, without which nobody knows when to go elsewhere")
	}
	return out
}

// atLeastZero is a number that users may write as negative.
func atLeastZero(n int32) uint32 { return uint32(max(0, n)) }

// balancer translates the choice of endpoints.
func (t *trafficConverter) balancer(path string, l *api.LoadBalancerSettings) *waypointapi.Balancer {
	out := &waypointapi.Balancer{}
	switch k := l.GetLbPolicy().(type) {
	case *api.LoadBalancerSettings_Simple:
		switch k.Simple {
		case api.LoadBalancerSettings_RANDOM:
			out.Kind = waypointapi.Balancer_RANDOM
		case api.LoadBalancerSettings_ROUND_ROBIN:
			out.Kind = waypointapi.Balancer_ROUND_ROBIN
		case api.LoadBalancerSettings_PASSTHROUGH:
			t.problem(path+".simple", "PASSTHROUGH is not supported: what clients ask a waypoint for is the address of the service, and no endpoint has it; least request is used")
		}
	case *api.LoadBalancerSettings_ConsistentHash:
		out.Kind, out.Hash = waypointapi.Balancer_CONSISTENT_HASH, t.hash(path+".consistentHash", k.ConsistentHash)
	}
	if l.GetWarmup() != nil || l.GetWarmupDurationSecs() != nil {
		t.problem(path+".warmup", "is not supported: new endpoints get as many requests as others")
	}
	out.Locality = t.locality(path+".localityLbSetting", l.GetLocalityLbSetting())
	return out
}

// hash translates what equal requests have in common.
func (t *trafficConverter) hash(path string, h *api.LoadBalancerSettings_ConsistentHashLB) *waypointapi.HashKey {
	switch k := h.GetHashKey().(type) {
	case *api.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		return &waypointapi.HashKey{Kind: &waypointapi.HashKey_Header{Header: k.HttpHeaderName}}
	case *api.LoadBalancerSettings_ConsistentHashLB_HttpQueryParameterName:
		return &waypointapi.HashKey{Kind: &waypointapi.HashKey_Query{Query: k.HttpQueryParameterName}}
	case *api.LoadBalancerSettings_ConsistentHashLB_UseSourceIp:
		return &waypointapi.HashKey{Kind: &waypointapi.HashKey_SourceIp{SourceIp: true}}
	case *api.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		if k.HttpCookie.GetTtl() != nil {
			t.problem(path+".httpCookie.ttl", "cookies are not made, only read")
		}
		return &waypointapi.HashKey{Kind: &waypointapi.HashKey_Cookie{Cookie: &waypointapi.Cookie{Name: k.HttpCookie.GetName()}}}
	}
	t.problem(path, "want a header, query parameter, cookie or the source address")
	return nil
}

// outlier translates when endpoints are put out.
func (t *trafficConverter) outlier(path string, o *api.OutlierDetection) *waypointapi.Outlier {
	out := &waypointapi.Outlier{
		Consecutive_5Xx: 5, Interval: o.GetInterval(), BaseEjection: o.GetBaseEjectionTime(),
		MaxEjectionPercent: atLeastZero(o.GetMaxEjectionPercent()), ConsecutiveGateway: o.GetConsecutiveGatewayErrors().GetValue(),
	}
	if o.GetConsecutive_5XxErrors() != nil {
		out.Consecutive_5Xx = o.GetConsecutive_5XxErrors().GetValue()
	}
	if n := o.GetConsecutiveErrors(); n > 0 {
		out.Consecutive_5Xx = uint32(n)
		t.note(path+".consecutiveErrors", "is the old name of consecutive5xxErrors, as which it is taken")
	}
	switch {
	case o.GetSplitExternalLocalOriginErrors():
		out.ConsecutiveLocal = wrapperspb.UInt32(5)
		if n := o.GetConsecutiveLocalOriginFailures(); n != nil {
			out.ConsecutiveLocal = n
		}
	case o.GetConsecutiveLocalOriginFailures() != nil:
		t.note(path+".consecutiveLocalOriginFailures", "takes effect only with splitExternalLocalOriginErrors")
	}
	if len(o.GetOutlierDetectionHttpErrorCodes()) > 0 {
		t.problem(path+".outlierDetectionHttpErrorCodes", "is not supported: answers of 5xx count")
	}
	return out
}
