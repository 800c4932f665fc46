// Package routes translates what users write about requests into the routes that
// waypoints match: one function per kind of object. It is pure.
//
// What cannot be done is said in [Result.Problems], never left out in silence: a
// rule that is not understood answers 500 in place of doing something else.
package routes
