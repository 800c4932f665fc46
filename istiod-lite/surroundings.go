package istiodlite

import (
	"context"

	"github.com/ambit-mesh/ambit/istiod-lite/ca"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
	"github.com/ambit-mesh/ambit/istiod-lite/status"
)

// surroundings are what a control plane has to do with, and what differs between
// a directory and a cluster.
type surroundings struct {
	reads     string // for people
	auth      ca.Authenticator
	authority *ca.Authority
	source    source
	// waits says why there is no first picture yet.
	waits func() error

	// For people; all may be empty.
	checks   []status.Check
	sections []status.Section
	place    func(model.Key) string

	// parts run beside the others, by name.
	parts map[string]func(context.Context) error
}

// source tells of objects.
type source interface {
	// Run tells fn of all objects, and of every difference after that, until ctx
	// ends.
	Run(ctx context.Context, fn func([]model.Event)) error
}
