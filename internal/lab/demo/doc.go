// Package demo is what a lab shows: one line per promise of the mesh, with the
// evidence, and for each line a sabotage that turns it red.
//
// A [Line] asks ordinary programs in pods and compares what they saw with what
// the mesh says of it. A [Fault] breaks the mesh from outside: a manifest, a
// packet rule, a stopped process. A line that stays green under its fault shows
// nothing, so [RunFaults] runs each of them.
package demo
