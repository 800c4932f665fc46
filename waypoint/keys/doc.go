// Package keys fetches the key sets of issuers of tokens, for package jwt.
//
// # Who fetches, and why
//
// The waypoint does, not the control plane. Whoever may write a
// RequestAuthentication chooses an address that somebody will connect to. Done by the
// control plane, that would be a request out of the most trusted place of the mesh,
// for everybody who may write in any namespace; done by the waypoint it comes from
// the network and the policies of the namespace that asked for it, where its author
// can start pods anyhow. An issuer that is a service of the mesh is reached the way
// requests are, through its tunnel and with its identity proven.
//
// # What is not connected to
//
// Addresses of loopback and of the link, multicast, unspecified ones, and those where
// clouds serve metadata ([Forbidden]), unless [Config.Also] has them. The address is
// looked at when it is connected to, behind names and redirects alike.
//
// # How fresh
//
// Sets are fetched as soon as a rule names them, and again before anybody notices
// their age ([refresh]). When that fails the last good set stays in force. A token
// that names a key which is not there has the set fetched at once, at most every
// [Config.Again].
//
//	store.go  which sets are wanted, and what is known of them
//	fetch.go  one look at a server
//	guard.go  addresses
package keys
