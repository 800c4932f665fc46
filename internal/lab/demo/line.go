package demo

import (
	"context"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab"
)

// lineTimeout bounds one line.
const lineTimeout = 25 * time.Second

// SecretTTL is how long certificates live in a lab that runs the lines, so that
// a renewal can be watched: it comes at half life.
const SecretTTL = 16 * time.Second

// Line is one promise.
type Line struct {
	// Name is short and stays the same: --json and the faults refer to it.
	Name string
	// Says is the promise in words.
	Says string
	// run shows it and returns the evidence, or what was seen instead.
	run func(ctx context.Context, l *lab.Lab) (evidence string, err error)
}

// Lines returns all lines, in the order in which the demo shows them.
func Lines() []Line {
	return []Line{
		{"cross-node", "pod to pod across nodes: identity proven, source address kept", crossNode},
		{"same-node", "pod to pod on one node: the same, and bytes stay in the kernel", sameNode},
		{"outside-to-mesh", "a client outside the mesh reaches a pod in it", outsideToMesh},
		{"mesh-to-outside", "a pod in the mesh reaches a server outside of it", meshToOutside},
		{"service-spread", "a service address is spread over its endpoints", serviceSpread},
		{"wire", "nothing can be read on the wire between the nodes", wire},
		{"allow", "an ALLOW rule lets in whom it names, and nobody else", allowRule},
		{"deny", "a DENY rule keeps out whom it names, and says so", denyRule},
		{"strict", "STRICT refuses plaintext", strict},
		{"live-cut", "a policy change cuts a live connection within 1 s", liveCut},
		{"half-close", "a client that ends first still gets its answer", halfClose},
		{"server-first", "a server that speaks first is heard", serverFirst},
		{"rotation", "a certificate is renewed under a running transfer, nothing is lost", rotation},
		{"istiod-away", "without the control plane traffic and new connections go on", istiodAway},
		{"ztunnel-killed", "ztunnel killed and started again: pods work within 2 s", ztunnelKilled},
		{"waypoint-rule", "a rule about a path allows and refuses at a waypoint, and is named", waypointRule},
		{"waypoint-canary", "a header goes to the new version, the rest 90 to 10", waypointCanary},
		{"waypoint-retry", "a request that fails is tried again, as its route says", waypointRetry},
		{"waypoint-timeout", "a request that takes longer than its route allows is given up", waypointTimeout},
		{"waypoint-outlier", "an endpoint that keeps failing is put out", waypointOutlier},
		{"waypoint-away", "without its waypoint a service is refused, not reached around it", waypointAway},
		{"waypoint-open", "where its namespace asks for that, a service is reached around a waypoint that is missing", waypointOpen},
		{"waypoint-shares", "two waypoints share the connections to a service by weight", waypointShares},
		{"waypoint-only", "a pod behind a waypoint is not reached by its own address", waypointOnly},
		{"leave-mesh", "a pod that leaves the mesh keeps no rule", leaveMesh},
	}
}

// InteropLines returns what is shown with another ztunnel in the place of one of
// ours: only what can be seen from programs and from the fields that all
// ztunnels write.
func InteropLines() []Line {
	return []Line{
		{"forth", "node 1 to node 2: identity proven, source address kept", forth},
		{"back", "node 2 to node 1: the same", back},
		{"deny", "a DENY rule keeps out whom it names, and says so", denyRule},
		{"half-close", "a client that ends first still gets its answer", halfClose},
		{"live-cut", "a policy change cuts a live connection within 1 s", liveCutByNamespace},
	}
}

// lineNamed finds a line; the names stand in this package.
func lineNamed(name string) Line {
	for _, l := range Lines() {
		if l.Name == name {
			return l
		}
	}
	panic("demo: no line " + name)
}
