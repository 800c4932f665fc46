// Package ca signs certificate requests of proven callers.
//
// # The path of a request
//
// [Service] asks its [Authenticator] who calls, takes the identity that the
// request names (or the caller's own), checks that a pod of that identity runs
// on the caller's node ([PodsOnNode]), reads the signing request, and has the
// [Authority] sign. What the request itself says about names is ignored: the
// signed identity is the one that was checked.
//
// # The directory
//
// An Authority lives in a directory of the `cacerts` layout. When it is empty a
// self-signed root is made in it. Its files are looked at again while [Authority.Run]
// runs, so that roots can be rotated without a restart:
//
//	ca-key.pem       the key that signs; never readable by others
//	ca-cert.pem      its certificate: the self-signed root, or an intermediate
//	cert-chain.pem   only for an intermediate: what leads from it towards a root
//	root-cert.pem    for an intermediate: the roots, given; else written: what to trust
//	extra-roots.pem  optional: further roots to trust, for a rotation
//
// # The Secret
//
// In a cluster the same values come by [Authority.Use], from the Secret cacerts or
// istio-ca-secret. An issuer under a root that nobody has been told of is not used
// at once: both roots are trusted for some minutes first.
//
// # Rotation
//
// Put the new root into extra-roots.pem; once every node has renewed and so
// trusts both, swap key and certificate and put the old root into
// extra-roots.pem; once every node has renewed again, remove it. A bad set of
// files is refused as a whole, and the last good one stays in force.
//
// # Not done here
//
// Talking to a cluster: what it says about tokens, pods and Secrets comes in
// through [Cluster], [PodsOnNode] and [Authority.Use].
package ca
