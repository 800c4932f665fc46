// Package model translates objects into resources: what users and Kubernetes
// write into what proxies read. It is pure: no I/O, no clock, no goroutine.
//
// # How things flow
//
// A source (a directory, a cluster) tells of each object that came, changed or
// went as an [Event]. [Model.Apply] finds out which resources depend on it,
// derives those anew and returns the ones that differ as [Change]s: workloads
// and services of type istio.workload.Address, policies of type
// istio.security.Authorization, and conditions, which are what the author of an
// object should know. All of them are values that a test can print.
//
//	pod.go, endpointslice.go,  objects to workloads
//	entry.go
//	service.go, entry.go       objects to services
//	authorization.go           AuthorizationPolicy to Authorization
//	peerauth.go                PeerAuthentication to Authorization
//	requests.go                HTTPRoute and bindings to what waypoints do
//	requests_policy.go         AuthorizationPolicy to what waypoints enforce
//	attach.go                  what routes and policies are attached to
//	waypoint.go                labels to waypoints, those that cannot be used included
//	depend.go                  which objects must be derived anew after an event
//	need.go                    which resources a waypoint needs
//	proxy.go                   whose proxy a pod is
//	validate.go                what is wrong with an object, and at which field
//
// # Ownership
//
// One goroutine uses a Model at a time. Objects that were handed in are not
// changed by anyone afterwards; resources that were handed out neither.
//
// # Not done here
//
// Reading files or clusters, sending resources, deciding about connections.
package model
