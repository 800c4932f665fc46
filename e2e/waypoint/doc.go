// Package waypoint tests a waypoint as a whole: with a real control plane that
// reads a directory, real tunnels on both sides, and real applications, all on
// loopback.
//
// The tunnels of clients and endpoints are those of internal/hbone without the
// node proxy around them; what node proxies do with waypoints is in e2e/demo.
package waypoint
