package event

import "net/netip"

// Pod is what the agent says of a pod in its answer to PathPods.
type Pod struct {
	Namespace      string       `json:"namespace"`
	Name           string       `json:"name"`
	UID            string       `json:"uid"`
	ServiceAccount string       `json:"serviceAccount"`
	ContainerID    string       `json:"containerID,omitempty"`
	Netns          string       `json:"netns"`   // path
	NetnsID        string       `json:"netnsID"` // device and inode
	IPs            []netip.Addr `json:"ips"`
	State          State        `json:"state"`
	Reason         string       `json:"reason"` // why it is in that state
}

// State is whether a pod is in the mesh.
type State string

// The states of a pod.
const (
	Enrolled  State = "enrolled"  // captured, and ztunnel serves it: seen, not only asked for
	Pending   State = "pending"   // captured, and ztunnel does not serve it: no traffic
	Releasing State = "releasing" // let go: connections that ztunnel carries may end
	Outside   State = "outside"   // not captured, and should not be
	Failed    State = "failed"    // not captured, and should be
	Fenced    State = "fenced"    // not captured, and should be: nothing of it passes
)
