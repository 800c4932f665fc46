//go:build race

package labtest

// Race reports whether the test runs under the race detector.
const Race = true
