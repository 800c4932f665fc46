// Package config is what a waypoint was told about requests: one immutable
// picture of routes, policies and endpoints, compiled.
//
// The control plane sends three types of resources (internal/meshapi/waypointapi);
// the Apply functions of [Store] compile each, keep what it replaces when it is
// bad, and publish a new [Picture]. A request takes the picture once.
//
//	store.go    resources to pictures
//	service.go  how requests of a service are treated
//	streams.go  how connections are treated that are not HTTP
//	policies.go which policies apply
package config
