package istiodlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/ca"
	"github.com/ambit-mesh/ambit/istiod-lite/files"
	"github.com/ambit-mesh/ambit/istiod-lite/status"
)

// checkDirectory says what is missing of a world of files.
func (c Config) checkDirectory() error {
	for _, required := range []struct{ name, value string }{
		{"ConfigDir", c.ConfigDir}, {"CADir", c.CADir}, {"NodeTokens", c.NodeTokens},
	} {
		if required.value == "" {
			return fmt.Errorf("%s is required", required.name)
		}
	}
	info, err := os.Stat(c.ConfigDir)
	if err != nil {
		return fmt.Errorf("directory of manifests: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("directory of manifests: %s is a file", c.ConfigDir)
	}
	return nil
}

// inDirectory opens files. It starts nothing.
func inDirectory(cfg Config, w *world, deps Deps) (*surroundings, error) {
	tokens, err := ca.OpenNodeTokens(cfg.NodeTokens)
	if err != nil {
		return nil, err
	}
	authority, err := ca.Open(ca.Config{Dir: cfg.CADir, TrustDomain: cfg.Model.TrustDomain}, deps.Log)
	if err != nil {
		return nil, err
	}
	source := files.New(cfg.ConfigDir, deps.Log)
	w.live = func(ctx context.Context, node string) ([]*corev1.Pod, error) {
		if err := source.Refresh(ctx, w.apply); err != nil {
			return nil, err
		}
		return w.PodsOn(node), nil
	}
	return &surroundings{
		reads: cfg.ConfigDir, auth: tokens, authority: authority, source: source, place: source.Place,
		waits: func() error {
			if waiting := source.Report().Waiting; len(waiting) > 0 {
				return fmt.Errorf("refused files may hold policies, and it is not known what they said before; mend or remove %s", strings.Join(waiting, ", "))
			}
			return errors.New("the directory of manifests has not been read yet")
		},
		checks:   []status.Check{{Name: "node tokens", Fn: tokens.Check}},
		sections: []status.Section{{Name: "files", Fn: func() any { return source.Report() }}},
	}, nil
}
