package zds

import (
	"context"
	"errors"
	"fmt"

	"github.com/ambit-mesh/ambit/internal/netns"
)

// Info is what the agent knows of a pod beside its uid. Comparable.
type Info struct {
	Name           string
	Namespace      string
	ServiceAccount string
}

// Pod is a pod as the agent hands it over.
type Pod struct {
	// UID is the Kubernetes uid. Required.
	UID string
	Info
	// NS is the pod's network namespace, borrowed. Nil means that the agent has
	// lost it: a snapshot then asks ztunnel to keep what it has.
	NS *netns.NS
}

// Handler is ztunnel's side of the conversation. Its methods are called one
// after the other, in the order of the messages. An error becomes the text of
// the answer; the conversation goes on.
type Handler interface {
	// Add takes a pod. ns belongs to the handler, whatever it returns. A pod that
	// is known with the same namespace is nothing new.
	Add(ctx context.Context, uid string, info Info, ns *netns.NS) error
	// Keep confirms, within a snapshot, a pod whose namespace the agent has lost.
	Keep(ctx context.Context, uid string) error
	// Del takes a pod away. An unknown uid is no error.
	Del(ctx context.Context, uid string) error
	// Snapshot says that the first list is complete: pods that are not in present
	// are gone.
	Snapshot(ctx context.Context, present map[string]bool) error
	// Disconnected says that the agent is away; what runs goes on. err is why.
	Disconnected(err error)
}

var (
	// ErrNoPeer is reported by [Server.Add] when no ztunnel is connected.
	ErrNoPeer = errors.New("no ztunnel is connected")

	// ErrProtocol is in the chain of every error that a peer caused by what it
	// sent.
	ErrProtocol = errors.New("zds protocol")
)

// AckError is what ztunnel answered to a message that it could not carry out.
type AckError struct {
	UID  string
	Text string
}

// Error returns ztunnel's own words.
func (e *AckError) Error() string { return fmt.Sprintf("ztunnel refused pod %s: %s", e.UID, e.Text) }
