package lab

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// Session is a client at work in a pod.
type Session = labapp.Session

// Begin starts a client in the pod and returns while it works.
func (p *Pod) Begin(ctx context.Context, req labapp.Request) (*Session, error) {
	s, err := labapp.Begin(ctx, p.control, req)
	if err != nil {
		return nil, fmt.Errorf("programs of %v: %w", p, err)
	}
	return s, nil
}

// Do runs a client in the pod to its end. The error says only that the client
// could not be run; how its work ended stands in the reply.
func (p *Pod) Do(ctx context.Context, req labapp.Request) (labapp.Reply, error) {
	r, err := labapp.Do(ctx, p.control, req)
	if err != nil {
		err = fmt.Errorf("programs of %v: %w", p, err)
	}
	return r, err
}

// Hello asks the HTTP server at dst once, from the pod. Unlike with Do an answer
// that did not come is an error.
func (p *Pod) Hello(ctx context.Context, dst netip.AddrPort) (labapp.Hello, error) {
	r, err := p.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: dst.String()})
	if err != nil {
		return labapp.Hello{}, err
	}
	if r.Error != "" {
		return labapp.Hello{}, fmt.Errorf("%v to %v: %s", p, dst, r.Error)
	}
	return r.Hellos[0], nil
}
