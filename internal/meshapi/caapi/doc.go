// Package caapi is how a proxy asks for a certificate: the gRPC service
// istio.v1.auth.IstioCertificateService. It is generated from citadel.proto.
package caapi
