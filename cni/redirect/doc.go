// Package redirect says which traffic of a pod meets the proxy: traffic rules as
// data; then applied, verified, removed.
//
// # What is written
//
// Per pod one nftables table of family inet, named by [TableName], that holds
// all rules and nothing else; and, for the answers of applications to addresses
// that the proxy only borrowed, a rule and a route that lead them back to it:
//
//	mark 0x111/0xfff  ->  table 100  ->  local, dev lo
//
// The table is replaced in one transaction, so that there is no moment without
// rules; it is read back and compared, and so is every later [Verify]. [Read]
// renders what the kernel holds as text that does not depend on how it was
// written; golden files hold such texts.
//
// # The path of a packet
//
//	application, outgoing      nat-output      -> 15001, original destination kept
//	network, plaintext         nat-prerouting  -> 15006
//	network, tunnel            port 15008 is where the proxy listens; left alone
//	proxy to application       mark-prerouting remembers the mark in conntrack
//	application to proxy       mark-output     puts it back on the answer; table 100
//
//	proxy to network           zone-output keeps it out of conntrack, tunnels excepted
//
//	a first packet past these  guard-input and guard-output drop it
//
// Only TCP is captured, and DNS where asked for. No program of the host is
// called.
//
// # Not done here
//
// Deciding which pods are captured, and how: see cni/agent.
package redirect
