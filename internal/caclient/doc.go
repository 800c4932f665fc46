// Package caclient asks the CA for a certificate before the old one ends.
//
// It makes a key, sends a signing request over the certificate RPC, and checks
// that the answer is what was asked for. When to ask is decided by
// identity.Manager; the connection is made by grpcclient.
package caclient
