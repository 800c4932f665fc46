// Package authority shows and changes the root that the certificates of a mesh
// rest on, without a request that fails.
//
// # Rotation
//
// The Secret of the CA is the whole state; istiod-lite follows it as it stands. A
// rotation that was interrupted goes on from what the Secret holds:
//
//	trusting   the new CA is parked beside the old (next-*), and its root is among
//	           the roots to trust; all replicas, namespaces and nodes have to
//	           acknowledge it
//	switching  the new CA signs, the old root is still trusted; all nodes have to
//	           show certificates of the new one
//	dropping   the old root is trusted no more
//
// A node acknowledges by what its proxy holds: every certificate it shows came
// with the root, and the root is in the file by which it knows the control plane.
// Dropping is a step of its own that somebody asks for: connections that stand on
// a certificate of the old root end by it.
package authority
