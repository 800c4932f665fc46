package cluster

import (
	"context"
	"errors"
	"path/filepath"
)

// ControlPlane says where the programs of a control plane are that has no nodes.
type ControlPlane struct {
	Etcd, APIServer, Kubectl string
}

// ErrNotBuilt is in the error that programs are not in the cache.
var ErrNotBuilt = errors.New("etcd and kube-apiserver are not built yet; ambit lab up does that, in some minutes")

// FindControlPlane finds the programs of a control plane in the cache. Those that
// are not there it builds, or says so by [ErrNotBuilt].
func FindControlPlane(ctx context.Context, cfg Config, build bool) (ControlPlane, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return ControlPlane{}, err
	}
	dirs := map[string]string{}
	for _, g := range groups() {
		if g.name != groupEtcd && g.name != groupKubernetes {
			continue
		}
		dir, err := g.cached(cfg)
		if err != nil {
			return ControlPlane{}, err
		}
		switch {
		case g.complete(dir):
		case !build:
			return ControlPlane{}, ErrNotBuilt
		default:
			if dir, err = g.build(ctx, cfg); err != nil {
				return ControlPlane{}, err
			}
		}
		dirs[g.name] = dir
	}
	p := Programs{dirs: dirs}
	return ControlPlane{
		Etcd:      p.path(groupEtcd, "etcd"),
		APIServer: p.path(groupKubernetes, "kube-apiserver"),
		Kubectl:   p.Kubectl(),
	}, nil
}

// cached is the directory of a group's programs, built or not.
func (g group) cached(cfg Config) (string, error) {
	sum, err := g.fingerprint(cfg.Source)
	if err != nil {
		return "", err
	}
	return filepath.Join(cfg.Cache, g.name+"-"+sum), nil
}
