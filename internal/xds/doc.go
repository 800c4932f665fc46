// Package xds keeps the picture fresh: delta xDS subscription, acks, back-off.
//
// A [Client] holds one stream to the control plane and subscribes to all
// resources of each [Subscription]. What arrives is given to the subscription's
// Apply function; what Apply rejects is named in the answer, and everything
// else counts as held.
//
// # When the stream ends
//
// The client connects again, at first after 10 ms and never later than after
// 15 s, and tells the control plane which versions it holds, so that only
// differences come. Nothing is forgotten meanwhile.
//
// # Ownership
//
// [Client.Run] owns the stream and calls Apply and the hooks of [Events] from
// one goroutine. Keepalive and TLS are those of the connection that is passed
// in.
//
// # Not done here
//
// The state-of-the-world variant, and subscribing to single names.
//
// Source: the xDS protocol, "Incremental xDS" (delta aggregated discovery).
package xds
