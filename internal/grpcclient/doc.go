// Package grpcclient makes the gRPC connection to the control plane: TLS with
// roots that may change, and on each call the token of this node.
//
// # Ownership
//
// The caller of [Dial] closes the connection. Nothing runs beside it: the file
// of roots is read at each handshake and the token file at each call, so a
// change of either needs no watcher and no restart. [WatchRoots] is for those who
// hold something that depends on the roots.
//
// # Not done here
//
// The RPCs themselves: see xds and caclient.
package grpcclient
