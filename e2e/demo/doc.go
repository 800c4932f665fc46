// Package demo runs `ambit demo` for real: as a person would, with the programs
// that `make build` makes. It needs root.
//
// Under `go test -race` the programs are built with the race detector too, and a
// report of any of them fails the test.
package demo
