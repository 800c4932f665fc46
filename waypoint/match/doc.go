// Package match says which route a request takes: rules compiled once, matched
// per request. It is pure.
//
// [Compile] turns a table of routes into a [Table]. Each match of each route is
// an entry with a rank: the order in which entries win. A look-up finds the
// entry of the best rank that holds, by index: exact paths and prefixes in maps,
// and inside a path the values of a header that entries ask for. What is left to
// compare one by one are regular expressions and matches that ask for neither a
// path nor a header.
//
//	text.go    comparisons of one string
//	entry.go   one match of a route, and its rank
//	table.go   the index
//	streams.go routes of connections, by the server name of TLS
//	pattern.go paths of policies, in segments
//
// Rank, where routes are not in order: exact path, then longest prefix, then
// regular expression; then a method, the number of headers, the number of query
// parameters; then the order of the table. Source: Gateway API, HTTPRouteRule. Where a
// match brings a precedence of its own, as those of gRPC do, it stands in place of the path.
package match
