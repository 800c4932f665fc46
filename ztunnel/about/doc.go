// Package about says what the proxy tells others of a workload: the header of a
// CONNECT and of its answer, and the facts in metrics and logs.
//
// The syntax of each header is in ztunnel/route. What a peer wrote is only ever
// used to describe it, never to decide anything.
package about
