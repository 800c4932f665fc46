// Package tls13 is the record layer of TLS 1.3 after the handshake: it opens
// and seals records where they lie, without a copy and without allocating.
//
// # Why it is here
//
// crypto/tls copies each byte once more in each direction, allocates at every
// record that is read and hands out one record at a time. A proxy that moves
// bulk reads and writes 64 records with one system call and wants them opened
// straight into its frame buffer. What that is worth stands in perf/README.md.
//
// # What crypto/tls still does
//
// The whole handshake, all verification, and every connection for which
// [KeyLog.Take] says no: another suite than AES-GCM, another version than TLS
// 1.3, FIPS mode. The traffic secrets come from its Config.KeyLogWriter, which
// here is memory: [Prepare] sets it, Take turns the secrets into keys and wipes
// them. The handshake must have read exactly up to its last record, and the
// server must have sent no session ticket, since both sides count records from
// zero; otherwise the first record fails to open.
//
// # Keys
//
// A half keeps the cipher, its nonce mask, and the secret of the keys that come
// after these (RFC 8446, section 7.2), so that the secret of the keys in use is
// nowhere. Wipe clears both. What crypto/tls and crypto/aes keep for themselves
// goes with the garbage.
//
// # Ownership
//
// One goroutine uses a [Reader], one at a time a [Writer]. The two meet only
// when the peer asks for a key update: the Reader then asks the Writer, which
// sends its own before its next record.
//
// # Not done here
//
// Reading and writing sockets, buffers, deadlines. Resumption, 0-RTT and
// authentication after the handshake: never.
package tls13
