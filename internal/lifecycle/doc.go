// Package lifecycle says who waits for whom: goroutine groups, back-off between
// tries, and the order of shutdown.
//
// `go` statements belong here, and elsewhere only where the same function waits
// for the end of what it starts.
package lifecycle
