// Package labapp is what runs in a pod of the lab: ordinary programs that know
// nothing of a mesh.
//
// Servers stand on fixed ports of every address of the pod. Clients are started
// by requests on a Unix socket, one connection each: a line of JSON goes in,
// lines of JSON come out, the last one is the result. Closing the socket ends
// the client.
package labapp
