// Package about says what proxies tell each other of a workload: the header of a
// CONNECT and of its answer, and the facts in metrics and logs.
//
//	syntax.go   what stands in a header, written and read
//	headers.go  the header of a CONNECT and of its answer
//	facts.go    what records say
//
// What a peer wrote is only ever used to describe it, never to decide anything.
package about
