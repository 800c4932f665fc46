// Package conformance runs the conformance suite of the Gateway API against a mesh
// that stands. It is a module of its own, so that what the suite and its echo
// servers need is no part of ambit. Run it with make conformance.
package conformance
