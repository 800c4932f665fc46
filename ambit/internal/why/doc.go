// Package why says what became of connections between two pods of a cluster: are
// both in the mesh, who are they, how did the connection travel, which rule
// decided, at which stage and by whose fault did it end.
//
// Each node's ztunnel remembers its open connections and the last ones that have
// ended. Both are asked through the API server (see ambit/internal/kube), the one
// where the connection starts and the one where it arrives, and their words are
// put side by side. What labels ask of waypoints for the destination is said as
// well: a waypoint that is missing or not ready, and a pod that lets in nobody but
// one. Nothing is installed for it and no port is open to the pods.
package why
