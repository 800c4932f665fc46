// Package peer holds the yardsticks that are measured beside a mesh: plain
// proxies, which carry bytes and know nobody, VPNs, which encrypt and route, and
// Envoy in the place of a waypoint.
//
// # What each is
//
//	haproxy, nginx          two hops of TCP, one on each node, as a mesh has them
//	haproxy-tls, nginx-tls  the same with mutual TLS 1.3 between the two
//	wireguard-go            WireGuard in a program, over a TUN device
//	wireguard               WireGuard in the kernel
//	envoy                   tunnels in and out as a waypoint has them, with the
//	                        waypoint's certificate; named by the caller
//
// The proxies are taken from where the system keeps them, with their default
// settings; [Proxy.Find] says what is missing and how to get it.
//
// # Not done here
//
// Starting them in a lab and measuring: see the package scenario.
package peer
