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
	seen  lab.Captured // of captures that have ended
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

// drop ends the capture on one node; what it has seen counts.
func (l *Leak) drop(name string) error {
	var rest []watched
	for _, w := range l.nodes {
		if w.name != name {
			rest = append(rest, w)
			continue
		}
		got, err := w.capture.Stop()
		if err := errors.Join(err, w.ns.Close()); err != nil {
			return fmt.Errorf("capture on %s: %w", name, err)
		}
		l.count(got)
	}
	l.nodes = rest
	return nil
}

// count adds what one capture has seen.
func (l *Leak) count(got lab.Captured) {
	l.seen.Frames, l.seen.Bytes, l.seen.Hits = l.seen.Frames+got.Frames, l.seen.Bytes+got.Bytes, l.seen.Hits+got.Hits
	if l.seen.First == nil {
		l.seen.First = got.First
	}
}

// Stop ends the captures and says what they have seen. Twice is once.
func (l *Leak) Stop() (lab.Captured, error) {
	var errs []error
	for _, w := range l.nodes {
		got, err := w.capture.Stop()
		if err != nil {
			errs = append(errs, fmt.Errorf("capture on %s: %w", w.name, err))
		}
		errs = append(errs, w.ns.Close())
		l.count(got)
	}
	l.nodes = nil
	return l.seen, errors.Join(errs...)
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
