// Package workloadapi is who is where: the resources of type istio.workload.Address, as
// they go over delta xDS. It is generated from workload.proto; field numbers are those
// of the ambient ecosystem.
package workloadapi
