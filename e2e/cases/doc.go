// Package cases is what ambit promises on Kubernetes, a case each, on a real cluster.
//
// # What a case is
//
// A function that gets an [Env]: a cluster with ambit installed, and a namespace of its
// own. It returns its evidence in one line, or an error. [Run] runs cases one after
// the other, prints a line for each, and keeps of one that failed what is needed to
// find out why.
//
// # What "0 failed" means
//
// [Env.Load] sends 200 requests per second out of a pod, half of them on new
// connections, and tries nothing again. [Env.Stream] sends bytes over one connection,
// and both ends count and sum them. [Env.Talks] holds gRPC conversations of three
// seconds, each message of which is answered; what a server has not taken at all gRPC
// sends again by itself.
//
// # What "never outside the mesh" means
//
// [Env.Watch] captures on every interface of every node from before the case's first
// pod starts, and searches for the marker that each request and each answer carries.
// It fails when a marker passes in the clear, and when frames were lost. The case
// "planted leak" passes only when such a leak is found.
//
// # Programs in pods
//
// All are command labapp. They are asked by their control socket in the pod's file
// system, not by the API server or by the network: what is being tested is not needed
// for testing it.
package cases
