// Package extauth asks providers whether requests may pass: external authorization,
// as CUSTOM policies want it.
//
// A provider is a service of the mesh. It is asked over gRPC with Envoy's protocol
// (envoy.service.auth.v3), or over HTTP: with the head of the request, answered with
// 200 for yes. [Clients.Ask] does either and returns a [Decision]: yes, with changes
// to the request and to its answer; no, with the answer; or an error, for which the
// caller looks at the provider's settings.
//
//	clients.go  who is asked, and the connections to them
//	grpc.go     envoy.service.auth.v3
//	http.go     a request that stands for the other one
//	change.go   what providers may change
//
// It decides nothing by itself, and opens nothing: a provider that does not answer is
// an error.
package extauth
