package sockowner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/internal/netns"
)

const (
	// kubeletsKept is how long a list of the kubelet's processes is used.
	kubeletsKept = 30 * time.Second

	// kubeletsAgain is how soon the list is made again when none of them holds the
	// socket: a kubelet may have started just now.
	kubeletsAgain = time.Second
)

// HostConfig tunes a [Host]. The zero HostConfig is ready for use on a node.
type HostConfig struct {
	// Names are those of the kubelet's process. Nil means [KubeletNames].
	Names []string

	// Proc is where the node's processes are. Empty means /proc.
	Proc string

	// Root is where the node's files are, as /proc/1/root in a container that sees
	// the node's processes. Empty means our own.
	Root string

	// Cgroups is where the node's cgroup v2 is. Empty means below Root
	// /sys/fs/cgroup/unified where that is there, as beside cgroup v1, and else
	// /sys/fs/cgroup.
	Cgroups string

	// AnySocket takes every process of the node for the kubelet, as the existing
	// ambient mesh does: for nodes whose kubelet cannot be told.
	AnySocket bool
}

// KubeletNames returns the names that the kubelet's process has in the known
// distributions: a program of its own, or a part of k3s or MicroK8s.
func KubeletNames() []string {
	return []string{"kubelet", "k3s", "k3s-server", "k3s-agent", "kubelite"}
}

// Host finds sockets in the network namespace of this process, and tells the
// kubelet's from others. A socket is the kubelet's when
//
//   - the process that made it was in the kubelet's cgroup, where the node has
//     cgroup v2 and the kubelet a cgroup that it shares with no pod, or
//   - the kubelet has it open.
//
// The kubelet is a process of our user, by one of its names, and in no pod's
// cgroup: a pod on the node's network may call its process what it likes. To see
// what the kubelet has open takes CAP_SYS_PTRACE.
type Host struct {
	cfg HostConfig

	// mu guards the fields below.
	mu       sync.Mutex
	kubelets []process
	listed   time.Time
}

// NewHost makes a Host. It looks at nothing yet.
func NewHost(cfg HostConfig) *Host {
	if cfg.Names == nil {
		cfg.Names = KubeletNames()
	}
	cfg.Proc = cmp.Or(cfg.Proc, "/proc")
	if cfg.Cgroups == "" {
		beside := filepath.Join("/", cfg.Root, "sys/fs/cgroup/unified")
		cfg.Cgroups = filepath.Dir(beside)
		if _, err := os.Stat(beside); err == nil {
			cfg.Cgroups = beside
		}
	}
	return &Host{cfg: cfg}
}

// Lookup is the [Lookup] of a node. It takes well below a millisecond: the kernel
// is asked for one socket, and only if there is one the kubelet is looked at.
func (h *Host) Lookup(_ context.Context, client, server netip.AddrPort) (Owner, error) {
	node, err := netns.Current()
	if err != nil {
		return Owner{}, err
	}
	defer node.Close()
	s, found, err := node.Socket(client, server)
	if err != nil || !found {
		return Owner{}, err
	}
	if h.cfg.AnySocket {
		return Owner{Found: true, Kubelet: true}, nil
	}
	kubelet, err := h.isKubelets(s)
	return Owner{Found: true, Kubelet: kubelet}, err
}

// Means is what a ztunnel is handed. The error says why a ztunnel could do nothing
// with it: then nothing is handed over.
func (h *Host) Means(context.Context) (Means, error) {
	m := Means{Any: h.cfg.AnySocket}
	if !m.Any {
		var err error
		if m.Cgroups, err = h.cgroups(); err != nil {
			return Means{}, err
		}
	}
	node, err := netns.Current()
	if err != nil {
		return Means{}, err
	}
	defer node.Close()
	m.Sockets, err = node.OpenDiag()
	return m, err
}

// cgroups lists those of the kubelets.
func (h *Host) cgroups() ([]uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.listLocked(kubeletsAgain); err != nil {
		return nil, err
	}
	var all []uint64
	for _, p := range h.kubelets {
		if p.cgroup != 0 && !slices.Contains(all, p.cgroup) && len(all) < maxCgroups {
			all = append(all, p.cgroup)
		}
	}
	switch {
	case len(h.kubelets) == 0:
		return nil, h.noKubelet()
	case len(all) == 0:
		return nil, errNoCgroup
	}
	return all, nil
}

// errNoCgroup is why only the agent can tell the kubelet's sockets.
var errNoCgroup = errors.New("the kubelet has no cgroup v2 that it shares with no pod")

// noKubelet is why no socket is the kubelet's.
func (h *Host) noKubelet() error {
	return fmt.Errorf("no process of the node is a kubelet (looked in %s for %q outside of pods): is %[1]s that of the node?", h.cfg.Proc, h.cfg.Names)
}

// isKubelets says whether s is a socket of the kubelet.
func (h *Host) isKubelets(s netns.Socket) (bool, error) {
	if s.Inode == 0 && s.Cgroup == 0 {
		return false, nil // closed; nobody holds it any more
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		if err := h.listLocked(kubeletsKept); err != nil {
			return false, err
		}
		made := h.listed
		if yes, err := h.oneOfLocked(s); yes {
			return true, nil
		} else if time.Since(made) < kubeletsAgain {
			return false, err
		}
		if err := h.listLocked(kubeletsAgain); err != nil {
			return false, err
		}
	}
}

// listLocked lists the kubelets unless that was done less than maxAge ago. The
// caller holds h.mu.
func (h *Host) listLocked(maxAge time.Duration) error {
	if !h.listed.IsZero() && time.Since(h.listed) < maxAge {
		return nil
	}
	kubelets, err := findKubelets(h.cfg.Proc, h.cfg.Cgroups, h.cfg.Names)
	if err != nil {
		return err
	}
	h.kubelets, h.listed = kubelets, time.Now()
	return nil
}

// oneOfLocked says whether one of the kubelets has or made s. The error says why
// a kubelet could not be looked at. The caller holds h.mu.
func (h *Host) oneOfLocked(s netns.Socket) (yes bool, err error) {
	if len(h.kubelets) == 0 {
		return false, h.noKubelet()
	}
	for _, p := range h.kubelets {
		if startOf(filepath.Join(h.cfg.Proc, strconv.Itoa(p.pid))) != p.start {
			continue // it has ended, and another may have its number
		}
		if s.Cgroup != 0 && s.Cgroup == p.cgroup {
			return true, nil
		}
		if s.Inode == 0 {
			continue
		}
		has, why := p.holds(h.cfg.Proc, s.Inode)
		if has {
			return true, nil
		}
		if errors.Is(why, os.ErrPermission) {
			why = fmt.Errorf("%w; needs CAP_SYS_PTRACE", why)
		}
		err = errors.Join(err, why)
	}
	return false, err
}
