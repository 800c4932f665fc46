// Package identity says who is speaking: SPIFFE IDs, certificates, trust, and
// the TLS settings that check them.
//
// # What is proven, and by what
//
// A peer is who the one SPIFFE URI of its leaf certificate says, once three
// things hold: the TLS handshake has proven that the peer owns the key of that
// leaf, the leaf leads to one of our roots with the extended key usage of its
// role, and it is valid now. All of it happens in one place, VerifyConnection of
// [ServerTLS] and [ClientTLS]; [PeerOf] reads the result. Nothing else that a
// peer presents (further certificates, names in the subject, DNS names, SNI,
// headers) takes part.
//
// # Where our own certificates come from
//
// A [Manager] holds one [Certificate] per [ID]. It asks a [Fetcher] on demand
// and ahead of use, renews at half life, and keeps serving the old one until it
// expires when the CA is away.
//
// # Ownership
//
// ID, Certificate and Peer are values that never change and may be shared by
// any number of goroutines. [Manager.Run] owns all goroutines of a Manager.
//
// # Not done here
//
// Talking to a CA (see caclient), authorization (see policy), revocation lists.
package identity
