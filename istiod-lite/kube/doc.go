// Package kube reads a cluster: objects in, events out. It is one of the two
// packages of the control plane that read the world.
//
// # How things flow
//
//	API server ──watch──► feed (one per kind: trims, drops what changed nothing)
//	                        └──► queue (newest state per object; what ends goes first)
//	                                └──► one goroutine ──events──► the receiver
//
// Nothing is told before every kind has been read once; then everything at once.
// After that an event is told as it comes, and those that pile up meanwhile
// together. Pods, endpoints and the like that go, or are about to, overtake
// everything else that waits.
//
// Kinds that CustomResourceDefinitions make are read as soon as those are there,
// and forgotten when they go. Of every object only what the model reads is kept,
// and it is kept once: the feed and the model share it.
//
// The package also asks the API server what memory cannot know: whether a token
// holds ([Client.Review]), which pods a node runs right now ([Client.PodsOn]), and
// who of several replicas may write ([Client.Lead]).
//
// # Ownership
//
// [Source.Run] owns every goroutine and returns when all have ended.
//
// # Not done here
//
// Writing objects: see keeper. Deciding what a caller may have: see ca.
package kube
