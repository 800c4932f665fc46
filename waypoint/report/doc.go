// Package report says what happened to a request: one line in the access log,
// and the standard metrics.
//
// A [Record] is filled while the request is served and closed once. Labels hold
// nothing that a client can choose freely: no address, no path, no header.
//
//	record.go  what is known of a request
//	metrics.go series, resolved once per set of labels
//	access.go  the line
package report
