// Package check looks at a cluster and says what is wrong for a mesh, or would
// be: what, where, and what to do about it.
//
// # How it flows
//
// [Gather] reads the cluster into a [World], a value. The checks are functions
// of a World and the time, a file each, and return [Finding]s; they ask nobody.
// [Run] runs them all. Before an installation those that look at running parts
// find nothing to look at.
//
// # Levels
//
// An [Error] breaks traffic, or will when the installation goes on. A [Warning]
// is safe today. An [Info] is what happens when something else is done, such as
// taking a further namespace into the mesh.
package check
