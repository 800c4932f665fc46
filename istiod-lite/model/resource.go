package model

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
)

// Type URLs of what proxies subscribe to.
const (
	AddressURL       = "type.googleapis.com/istio.workload.Address"
	AuthorizationURL = "type.googleapis.com/istio.security.Authorization"

	WaypointAuthorizationURL  = "type.googleapis.com/ambit.waypoint.v1.Authorization"
	WaypointAuthenticationURL = "type.googleapis.com/ambit.waypoint.v1.Authentication"
	WaypointProviderURL       = "type.googleapis.com/ambit.waypoint.v1.Provider"
	WaypointEndpointURL       = "type.googleapis.com/ambit.waypoint.v1.Endpoint"
	WaypointServiceURL        = "type.googleapis.com/ambit.waypoint.v1.Service"
)

// versionBytes of a hash make a version. 64 bits: two contents of one name would
// have to collide, by chance, for a change to be missed.
const versionBytes = 8

// workloadResource packs a workload that is served by waypoints.
func workloadResource(w *workloadapi.Workload, through []*workloadapi.GatewayAddress) *Resource {
	r := &Resource{
		Type:     TypeAddress,
		Name:     w.Uid,
		Services: slices.Sorted(maps.Keys(w.Services)),
		Node:     w.Node,
		Healthy:  w.Status == workloadapi.WorkloadStatus_HEALTHY,
	}
	var aliases []string
	if w.NetworkMode == workloadapi.NetworkMode_STANDARD { // others share their addresses
		for _, raw := range w.Addresses {
			if addr, ok := netip.AddrFromSlice(raw); ok {
				aliases = append(aliases, w.Network+"/"+addr.String())
			}
		}
	}
	r.Groups = throughGroups(through)
	r.Needs = []Need{{Type: TypeWaypointEndpoint, Name: w.Uid}}
	r.pack(AddressURL, aliases, &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: w}})
	return r
}

// serviceResource packs a service that is served by waypoints.
func serviceResource(s *workloadapi.Service, through []*workloadapi.GatewayAddress) *Resource {
	r := &Resource{Type: TypeAddress, Name: s.Namespace + "/" + s.Hostname, IsService: true}
	var aliases []string
	for _, a := range s.Addresses {
		addr, ok := netip.AddrFromSlice(a.Address)
		switch {
		case !ok:
		case a.Length == nil:
			aliases = append(aliases, a.Network+"/"+addr.String())
		default:
			aliases = append(aliases, fmt.Sprintf("%s/%v/%d", a.Network, addr, a.GetLength()))
		}
	}
	r.Groups = append(throughGroups(through), hostGroup(s.Hostname))
	r.Needs = []Need{{Name: r.Name}, {Type: TypeWaypointService, Name: r.Name}}
	r.pack(AddressURL, aliases, &workloadapi.Address{Type: &workloadapi.Address_Service{Service: s}})
	return r
}

// authorizationResource packs a policy.
func authorizationResource(a *securityapi.Authorization) *Resource {
	r := &Resource{Type: TypeAuthorization, Name: a.Namespace + "/" + a.Name}
	r.pack(AuthorizationURL, nil, a)
	return r
}

// waypointResource packs what only waypoints read. Its groups and needs are read off
// its content.
func waypointResource(t Type, url, name string, content proto.Message, groups []string, needs []Need) *Resource {
	r := &Resource{Type: t, Name: name, Groups: groups, Needs: needs}
	r.pack(url, nil, content)
	return r
}

// pack makes the wire form. The messages are built by this package from checked
// values, so that marshalling cannot go wrong.
func (r *Resource) pack(url string, aliases []string, m proto.Message) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("model: marshal %s: %v", r.Name, err))
	}
	sum := sha256.Sum256(raw)
	r.Wire = &discoveryv3.Resource{
		Name:     r.Name,
		Version:  hex.EncodeToString(sum[:versionBytes]),
		Aliases:  aliases,
		Resource: &anypb.Any{TypeUrl: url, Value: raw},
	}
}

// addressBytes is the address in 4 or 16 bytes.
func addressBytes(addr netip.Addr) []byte { return addr.Unmap().AsSlice() }
