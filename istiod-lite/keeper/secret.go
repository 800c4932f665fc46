package keeper

import (
	"context"
	"maps"
	"sync"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// The Secrets of a CA, in the order in which they count. Source: the layout of the
// ambient ecosystem, so that another control plane goes on under the same root.
const (
	givenSecret = "cacerts"
	ownSecret   = "istio-ca-secret"
)

// secrets follows the Secrets of the CA and puts the one that counts in force.
type secrets struct {
	namespace string
	deps      Deps
	log       *zap.Logger

	// mu guards the fields below.
	mu     sync.Mutex
	values map[string]map[string][]byte // by name; nil: there is none
	heard  map[string]bool              // names that were read
	inUse  string
	last   map[string][]byte // of our own Secret: put back when somebody deletes it
	look   chan struct{}     // a note that something changed
}

// newSecrets knows of none yet.
func newSecrets(namespace string, deps Deps) *secrets {
	return &secrets{
		namespace: namespace, deps: deps, log: deps.Log,
		values: map[string]map[string][]byte{}, heard: map[string]bool{}, look: make(chan struct{}, 1),
	}
}

// run follows both Secrets until ctx ends.
func (s *secrets) run(ctx context.Context) {
	var parts lifecycle.Group
	defer parts.Wait()
	for _, name := range []string{givenSecret, ownSecret} {
		parts.Go(ctx, "keeper-"+name, func(ctx context.Context) {
			s.deps.Client.FollowSecret(ctx, s.namespace, name, func(values map[string][]byte) { s.note(name, values) })
		})
	}
}

// note takes the values of one Secret in, and puts in force those that count.
func (s *secrets) note(name string, values map[string][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard[name] = true
	if values == nil {
		delete(s.values, name)
	} else {
		s.values[name] = values
	}
	defer func() {
		select {
		case s.look <- struct{}{}:
		default:
		}
	}()
	if !s.heard[givenSecret] || !s.heard[ownSecret] {
		return
	}
	for _, name := range []string{givenSecret, ownSecret} {
		values := s.values[name]
		if values == nil {
			continue
		}
		if s.inUse != "" && s.inUse != name {
			s.log.Warn("another Secret is the CA's now", zap.String("before", s.inUse), zap.String("now", name))
		}
		s.inUse = name
		if err := s.deps.Authority.Use(s.where(name), values); err == nil && name == ownSecret {
			s.last = maps.Clone(values)
		}
		return
	}
}

// where is how people call a Secret.
func (s *secrets) where(name string) string { return s.namespace + "/" + name }

// missing reports whether there is none, and what a new one should hold; nothing
// when that is to be made.
func (s *secrets) missing() (values map[string][]byte, missing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.heard[givenSecret] && s.heard[ownSecret] && s.values[givenSecret] == nil && s.values[ownSecret] == nil
}

// keep makes a Secret when there is none. The leader runs it. When two do so at a
// time the API server takes the first, and both go on with that one.
func (s *secrets) keep(ctx context.Context) {
	var backoff lifecycle.Backoff
	for {
		values, missing := s.missing()
		if missing {
			err := s.create(ctx, values)
			if err != nil && ctx.Err() == nil {
				s.log.Error("the CA's Secret could not be made", zap.String("secret", s.where(ownSecret)), zap.Error(err))
			}
			if lifecycle.Sleep(ctx, backoff.Next()) != nil { // until we hear of it
				return
			}
			continue
		}
		backoff.Reset()
		select {
		case <-ctx.Done():
			return
		case <-s.look:
		}
	}
}

// create makes our own Secret, of the values that it had if it had any.
func (s *secrets) create(ctx context.Context, values map[string][]byte) error {
	if values == nil {
		var err error
		if values, err = s.deps.Authority.MakeRoot(); err != nil {
			return err
		}
	}
	made, err := s.deps.Client.CreateSecret(ctx, s.namespace, ownSecret, values)
	if made {
		s.log.Info("the CA's Secret was not there: made", zap.String("secret", s.where(ownSecret)))
	}
	return err
}
