// Package members says who is in the mesh of a cluster: what labels want, what
// the agents have marked, and what the proxies serve, side by side.
package members
