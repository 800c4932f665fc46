package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Lab is a mesh on this machine. [Up] makes it, [Lab.Close] removes it. One
// goroutine changes it; reading may happen from many.
type Lab struct {
	// Set by Up, then only read.
	cfg       Config
	dir       string
	lock      net.Listener
	state     *stateFile
	fabric    Namespace
	control   Namespace
	nodes     []*Node
	services  []*Service
	manifests Manifests

	// Owned by the caller's goroutine.
	// spaceLabels are labels that namespaces were given since, by namespace.
	spaceLabels map[string]map[string]string
	pods        []*Pod
	istiod      *Process

	reapers lifecycle.Group // one goroutine per process, until it ends
}

// Up builds the lab that cfg describes with the pods and services of [Mesh]. A
// lab that an earlier run has left under the same name is removed first. When
// Up fails, what it has built is removed again.
func Up(ctx context.Context, cfg Config) (*Lab, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := cfg.checkPrograms(); err != nil {
		return nil, err
	}
	lock, err := takeLock(ctx, cfg.Name)
	if err != nil {
		return nil, err
	}
	l := &Lab{
		cfg: cfg, dir: cfg.Dir, lock: lock,
		fabric:    Namespace{cfg.Name + "-fabric"},
		control:   Namespace{cfg.Name + "-control"},
		manifests: Manifests{filepath.Join(cfg.Dir, "config")},
	}
	if err := l.build(ctx); err != nil {
		return nil, errors.Join(err, l.Close(context.WithoutCancel(ctx)))
	}
	return l, nil
}

// build makes everything, in the order in which it depends on each other.
func (l *Lab) build(ctx context.Context) error {
	if err := l.prepareDir(ctx); err != nil {
		return err
	}
	l.cfg.Progress("namespaces, bridge and routes")
	if err := l.buildFabric(); err != nil {
		return err
	}
	for i := range l.cfg.Nodes {
		if err := l.addNode(i + 1); err != nil {
			return err
		}
	}
	if err := l.writeWorld(); err != nil {
		return err
	}
	if !l.cfg.NoMesh {
		if err := l.startMesh(ctx); err != nil {
			return err
		}
	}
	for _, spec := range meshPods() {
		l.cfg.Progress("pod " + spec.Namespace + "/" + spec.Name)
		if _, err := l.StartPod(ctx, spec); err != nil {
			return fmt.Errorf("pod %s/%s: %w", spec.Namespace, spec.Name, err)
		}
	}
	return nil
}

// prepareDir removes what an earlier lab has left and begins a new state file.
func (l *Lab) prepareDir(ctx context.Context) error {
	if _, err := ReadState(l.dir); !errors.Is(err, fs.ErrNotExist) {
		l.cfg.Progress("removing what an earlier run has left")
	}
	if _, err := clean(ctx, l.cfg.Name, l.dir); err != nil {
		return fmt.Errorf("remove what an earlier run has left: %w", err)
	}
	for _, dir := range []string{l.dir, l.manifests.Dir, l.istiodDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	var err error
	l.state, err = newStateFile(l.dir, l.cfg.Name)
	return err
}

// makeNamespace writes the name down and then makes the namespace.
func (l *Lab) makeNamespace(ns Namespace) error {
	err := l.state.update(func(s *State) {
		if !slices.Contains(s.Namespaces, ns.Name) {
			s.Namespaces = append(s.Namespaces, ns.Name)
		}
	})
	if err != nil {
		return err
	}
	return ns.create()
}

// removeNamespace removes the namespace and then its name.
func (l *Lab) removeNamespace(ns Namespace) error {
	if err := ns.remove(); err != nil {
		return err
	}
	return l.state.update(func(s *State) {
		s.Namespaces = slices.DeleteFunc(s.Namespaces, func(name string) bool { return name == ns.Name })
	})
}

// Close ends all processes and removes all that the lab has made. It may be
// called twice.
func (l *Lab) Close(ctx context.Context) error {
	if l.lock == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err := clean(ctx, l.cfg.Name, l.dir)
	l.reapers.Wait()
	err = errors.Join(err, l.lock.Close())
	l.lock = nil
	return err
}

// Keep leaves the lab standing when this process ends; a later [Clean] or [Up]
// removes it.
func (l *Lab) Keep() error {
	if err := l.state.update(func(s *State) { s.Kept = true }); err != nil {
		return err
	}
	return l.lock.Close()
}

// Dir is where the lab keeps its files.
func (l *Lab) Dir() string { return l.dir }

// Config is the configuration in force.
func (l *Lab) Config() Config { return l.cfg }

// Manifests is the directory that the control plane and the agents read.
func (l *Lab) Manifests() Manifests { return l.manifests }

// Fabric is the namespace of the wire between the nodes.
func (l *Lab) Fabric() Namespace { return l.fabric }

// Node returns node i, counted from 1.
func (l *Lab) Node(i int) *Node { return l.nodes[i-1] }

// Nodes returns all nodes.
func (l *Lab) Nodes() []*Node { return l.nodes }

// Pods returns the pods that run.
func (l *Lab) Pods() []*Pod { return l.pods }

// Istiod is the running control plane; nil when it is stopped.
func (l *Lab) Istiod() *Process { return l.istiod }

// Pod finds a pod by namespace and name. It panics when there is none: the names
// are written in the program.
func (l *Lab) Pod(namespace, name string) *Pod {
	for _, p := range l.pods {
		if p.Namespace == namespace && p.Name == name {
			return p
		}
	}
	panic("lab: no pod " + namespace + "/" + name)
}

// Service finds a service by namespace and name, and panics like Pod.
func (l *Lab) Service(namespace, name string) *Service {
	for _, s := range l.services {
		if s.Namespace == namespace && s.Name == name {
			return s
		}
	}
	panic("lab: no service " + namespace + "/" + name)
}

// takeLock makes sure that one process at a time works on the lab of a name. An
// abstract socket is gone with its process, whatever ends that.
func takeLock(ctx context.Context, name string) (net.Listener, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "unix", "@ambit-lab/"+name)
	if err != nil {
		holder := ""
		if s, err := ReadState(DefaultDir(name)); err == nil {
			holder = fmt.Sprintf(" (pid %d)", s.Owner.PID)
		}
		return nil, fmt.Errorf("%w %q%s: wait for it to end, or use another --name", ErrBusy, name, holder)
	}
	return ln, nil
}
