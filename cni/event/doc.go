// Package event is what the CNI plugin asks the agent of its node: JSON over
// HTTP on a Unix socket.
//
//	POST /cmdadd    enrol a pod if it should be in the mesh, before it starts
//	POST /cmddel    forget an attachment; answers 200 also when there was none
//	POST /cmdcheck  are the rules of the pod still what they should be
//	POST /gc        forget every attachment that is not listed
//	GET  /status    can the agent enrol pods now
//	GET  /pods      what the agent knows, for people: a list of [Pod]
//
// The path and body of /cmdadd are those of the ambient ecosystem; fields beyond
// them are ours, and an agent that does not know them ignores them. 200 means
// done; with any other status the body is a sentence for the operator.
package event

import "net"

// Socket is the name of the socket in the agent's run directory.
const Socket = "pluginevent.sock"

// RunDir is where the agent's sockets are when nobody says otherwise.
const RunDir = "/var/run/ambit-cni"

// Paths of the requests.
const (
	PathAdd    = "/cmdadd"
	PathDel    = "/cmddel"
	PathCheck  = "/cmdcheck"
	PathGC     = "/gc"
	PathStatus = "/status"
	PathPods   = "/pods"
)

// IPConfig is one address of the pod, as the plugins before ours gave it.
type IPConfig struct {
	// Interface is the index in the result's list of interfaces, nil for none.
	Interface *int
	Address   net.IPNet
	Gateway   net.IP
}

// Add asks to enrol a pod; Check is the same question about one that was.
type Add struct {
	Netns        string     // path of the pod's network namespace
	PodName      string     // name of the Kubernetes pod
	PodNamespace string     // and its namespace
	IPs          []IPConfig // what the plugins before ours gave it

	ContainerID string `json:",omitempty"` // of the sandbox: with IfName the key of the attachment
	IfName      string `json:",omitempty"`
	PodUID      string `json:",omitempty"` // when the runtime says it
	Network     string `json:",omitempty"` // name of the network configuration
}

// Del tells that an attachment is gone, or going.
type Del struct {
	ContainerID  string
	IfName       string
	Netns        string // empty when the namespace is gone already
	PodName      string
	PodNamespace string
}

// Attachment is the key of what one ADD made.
type Attachment struct {
	ContainerID string
	IfName      string
}

// GC lists the attachments of one network that are still valid. Those of other
// networks are not meant.
type GC struct {
	Network string `json:",omitempty"`
	Valid   []Attachment
}
