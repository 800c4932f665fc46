// Package securityapi is who may talk to whom: the resources of type
// istio.security.Authorization, as they go over delta xDS. It is generated from
// authorization.proto; field numbers are those of the ambient ecosystem.
package securityapi
