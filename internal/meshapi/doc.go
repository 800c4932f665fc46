// Package meshapi holds what goes over the wire between the parts of the mesh:
// our own .proto files for workloads, authorization, waypoints, certificates and ZDS, and
// what is generated from them.
//
//	workloadapi   who is where (delta xDS, istio.workload.Address)
//	securityapi   may they talk (delta xDS, istio.security.Authorization)
//	waypointapi   what a waypoint does with requests (delta xDS, ambit.waypoint.v1)
//	caapi         certificates (gRPC, istio.v1.auth)
//	zdsapi        pods handed from the CNI agent to ztunnel (unix socket)
//
// The xDS transport itself comes from the envoy API module.
package meshapi

//go:generate ./generate.sh
