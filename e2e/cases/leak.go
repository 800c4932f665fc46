package cases

import (
	"context"
	"errors"
	"fmt"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/netns"
)

// Leak is a capture in every node that searches for a marker.
type Leak struct {
	nodes []watched
}

// watched is the capture in one node.
type watched struct {
	name    string
	ns      *netns.NS
	capture *lab.Capture
}

// Watch begins to search all that passes any interface of any node for the marker.
// Pods' own interfaces are in their own namespaces; their other ends are on the node.
func (e *Env) Watch(ctx context.Context, marker string) (*Leak, error) {
	l := &Leak{}
	e.leaks = append(e.leaks, l)
	for _, n := range e.Cluster.Nodes() {
		if err := l.add(ctx, n.Name, marker, n.NetNS); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// add watches one more node.
func (l *Leak) add(ctx context.Context, name, marker string, open func() (*netns.NS, error)) error {
	ns, err := open()
	if err != nil {
		return err
	}
	capture, err := lab.StartCapture(ctx, ns, "", []byte(marker))
	if err != nil {
		return errors.Join(err, ns.Close())
	}
	l.nodes = append(l.nodes, watched{name, ns, capture})
	return nil
}

// Stop ends the captures and says what they have seen. Twice is once.
func (l *Leak) Stop() (lab.Captured, error) {
	var all lab.Captured
	var errs []error
	for _, w := range l.nodes {
		got, err := w.capture.Stop()
		if err != nil {
			errs = append(errs, fmt.Errorf("capture on %s: %w", w.name, err))
		}
		errs = append(errs, w.ns.Close())
		all.Frames, all.Bytes, all.Hits = all.Frames+got.Frames, all.Bytes+got.Bytes, all.Hits+got.Hits
		if all.First == nil {
			all.First = got.First
		}
	}
	l.nodes = nil
	return all, errors.Join(errs...)
}

// Clean ends the captures and makes sure that the marker was never seen, among frames
// that were seen.
func (l *Leak) Clean() (lab.Captured, error) {
	got, err := l.Stop()
	switch {
	case err != nil:
		return got, err
	case got.Hits > 0:
		return got, fmt.Errorf("plaintext of the mesh was on the wire %d times, first from %v to %v", got.Hits, got.First.Src, got.First.Dst)
	case got.Frames == 0:
		return got, errors.New("the capture has seen no frame at all")
	}
	return got, nil
}
