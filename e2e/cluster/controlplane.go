package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// lockEvery is how often a process looks whether another has finished building.
const lockEvery = 200 * time.Millisecond

// ControlPlane says where the programs of a control plane are that has no nodes.
type ControlPlane struct {
	Etcd, APIServer, Kubectl string
}

// ErrNotBuilt is in the error that programs are not in the cache.
var ErrNotBuilt = errors.New("etcd and kube-apiserver are not built yet: try make e2e-programs, which takes some minutes once")

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
			if dir, err = g.buildAlone(ctx, cfg); err != nil {
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

// buildAlone makes the group's programs while no other process does so: tests of
// several packages begin at the same time.
func (g group) buildAlone(ctx context.Context, cfg Config) (string, error) {
	if err := os.MkdirAll(cfg.Cache, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(cfg.Cache, "."+g.name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close() // which unlocks
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return g.build(ctx, cfg)
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
		if err := lifecycle.Sleep(ctx, lockEvery); err != nil {
			return "", err
		}
	}
}

// cached is the directory of a group's programs, built or not.
func (g group) cached(cfg Config) (string, error) {
	sum, err := g.fingerprint(cfg.Source)
	if err != nil {
		return "", err
	}
	return filepath.Join(cfg.Cache, g.name+"-"+sum), nil
}
