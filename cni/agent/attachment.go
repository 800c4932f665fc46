package agent

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/zds"
)

// record is what is remembered of a pod across restarts.
type record struct {
	Key            event.Attachment `json:"key"`
	Network        string           `json:"network,omitempty"`
	UID            string           `json:"uid"`
	Namespace      string           `json:"namespace"`
	Name           string           `json:"name"`
	ServiceAccount string           `json:"serviceAccount"`
	Netns          string           `json:"netns"`
	NetnsID        netns.ID         `json:"netnsID"`
	IPs            []netip.Addr     `json:"ips"`

	// Captured says that rules are, or should be, in the pod; Redirect is how.
	Captured bool            `json:"captured"`
	Redirect redirect.Config `json:"redirect,omitzero"`

	// FencedInside says that a fence is, or should be, inside the pod.
	FencedInside bool `json:"fencedInside,omitempty"`
}

// serving says whether the pod is captured and not being let go.
func (r record) serving() bool { return r.Captured && !r.Redirect.Releasing }

// attachment is a pod on this node: one namespace, kept open.
type attachment struct {
	// Set when it is made, then only read.
	ns   *netns.NS
	name string // namespace/name of the pod

	// busy is held by whoever changes the pod, and is waited for with a context:
	// a change takes as long as ztunnel needs to answer. It is taken before
	// Agent.mu.
	busy chan struct{}

	// Guarded by Agent.mu; changed only by the holder of busy.
	rec      record
	acked    bool      // ztunnel has taken the pod
	healthy  bool      // rules, listeners and proxy were all there when last looked at
	gone     bool      // forgotten; nothing may be done to it
	wanted   bool      // it belongs to the mesh
	open     bool      // its namespace prefers it outside of the mesh to fenced
	reason   string    // why it is as it is
	since    time.Time // from when it has not been as it should be; zero when it is
	released time.Time // when its release began; zero when it is not being let go
	fence    fence
	seen     *Pod // what the source said when it was last made what it should be; nil: look again

	// Changed and read by the holder of busy.
	heard     bool      // the source has known of the pod without being asked anew
	mark      Mark      // what was last reported
	marked    time.Time // and when
	complaint string    // what was last logged about it
}

// newAttachment makes an attachment that the caller holds.
func newAttachment(ns *netns.NS, rec record) *attachment {
	a := &attachment{ns: ns, name: rec.String(), rec: rec, busy: make(chan struct{}, 1)}
	a.busy <- struct{}{}
	return a
}

// lock takes the right to change the pod, or gives up with ctx.
func (a *attachment) lock(ctx context.Context) error {
	select {
	case a.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// unlock gives it back.
func (a *attachment) unlock() { <-a.busy }

// String names the pod, and may be asked without holding anything.
func (a *attachment) String() string { return a.name }

// pod is the record as ztunnel gets it.
func (r record) pod(ns *netns.NS) zds.Pod {
	return zds.Pod{UID: r.UID, Info: zds.Info{Name: r.Name, Namespace: r.Namespace, ServiceAccount: r.ServiceAccount}, NS: ns}
}

// String names the pod.
func (r record) String() string { return r.Namespace + "/" + r.Name }

// stateLocked is what people are told. The caller holds Agent.mu.
func (a *attachment) stateLocked() event.State {
	switch {
	case a.fence.up():
		return event.Fenced
	case a.rec.serving() && a.acked && a.healthy:
		return event.Enrolled
	case a.rec.serving():
		return event.Pending
	case a.rec.Captured:
		return event.Releasing
	case a.wanted:
		return event.Failed
	}
	return event.Outside
}

// describeLocked is the pod for people. The caller holds Agent.mu.
func (a *attachment) describeLocked() event.Pod {
	return event.Pod{
		Namespace: a.rec.Namespace, Name: a.rec.Name, UID: a.rec.UID, ServiceAccount: a.rec.ServiceAccount,
		ContainerID: a.rec.Key.ContainerID, Netns: a.rec.Netns, NetnsID: a.rec.NetnsID.String(),
		IPs: slices.Clone(a.rec.IPs), State: a.stateLocked(), Reason: a.reason,
	}
}
