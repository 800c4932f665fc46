//go:build race

package scenario

// raceDetector: the programs of the labs are built with it too, so that what
// `go test -race` has compiled is used again.
const raceDetector = true
