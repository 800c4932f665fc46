package ca

import (
	"context"
	"errors"
	"slices"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/ambit-mesh/ambit/internal/identity"
)

// Caller is who has made a call, as proven.
type Caller struct {
	// Node is the node whose pods it may ask for; empty when it speaks for none.
	Node string
	// Identity is its own; zero when its proof names a node only.
	Identity identity.ID
	// Pod is the name of the pod that its proof was made for; empty when it names a
	// node only.
	Pod string
	// Name is how log lines call it.
	Name string
}

// Authenticator finds out who makes a gRPC call. The error says why it could
// not; it is for our log, never for the caller. It is the seam where the tokens
// of a cluster come in.
type Authenticator interface {
	Authenticate(ctx context.Context) (Caller, error)
}

// ErrUndecided is in the error of an [Authenticator] that cannot tell, now, whether
// a proof holds: it refuses new calls, but says nothing against old ones.
var ErrUndecided = errors.New("cannot tell who calls")

// FirstOf asks each Authenticator in turn and returns the first Caller that one
// has proven.
type FirstOf []Authenticator

// Authenticate implements [Authenticator].
func (f FirstOf) Authenticate(ctx context.Context) (Caller, error) {
	errs := []error{}
	for _, a := range f {
		caller, err := a.Authenticate(ctx)
		if err == nil {
			return caller, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return Caller{}, errors.New("there is no way to prove who one is")
	}
	return Caller{}, errors.Join(errs...)
}

// Pod is what node authorization looks at.
type Pod struct {
	Name, Namespace, ServiceAccount string
	// Node is where it runs; empty when it is not scheduled.
	Node string
	// Phase is that of its status: Pending, Running, Succeeded, Failed, Unknown.
	Phase string
	// UID tells it from others that had the name.
	UID string
}

// PodsOnNode tells which pods a node runs.
type PodsOnNode interface {
	// PodsOnNode returns the pods of node. With fresh it reads the source itself
	// (the directory, the API server), for what it keeps in memory may be late;
	// without, it only reads memory.
	PodsOnNode(ctx context.Context, node string, fresh bool) ([]Pod, error)
}

// entitles reports whether p lets its node ask for id.
func (p Pod) entitles(node string, id identity.ID) bool {
	return p.Node == node &&
		p.Namespace == id.Namespace && p.ServiceAccount == id.ServiceAccount &&
		!slices.Contains([]string{"Failed", "Succeeded"}, p.Phase)
}

// Bearer returns the token of a gRPC call's one authorization header.
func Bearer(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) == 0 {
		return "", errors.New("no authorization header")
	}
	if len(values) > 1 {
		return "", errors.New("several authorization headers")
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", errors.New("authorization header is not a bearer token")
	}
	return token, nil
}
