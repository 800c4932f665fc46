package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/cni/event"
)

// Pod is one pod of the lab: a network namespace with the programs of labapp in
// it.
type Pod struct {
	// Set by StartPod, then only read.
	PodSpec
	UID     string
	Node    *Node
	NetNS   Namespace
	sandbox string // the container id that the CNI chain sees
	created time.Time
	control string // the socket of the programs

	// Owned by the lab's caller.
	Address   netip.Addr
	Added     time.Duration // how long CNI ADD took
	Programs  *Process
	meshLabel string
	labels    map[string]string // further ones
	annotated bool
	ready     bool
}

func (p *Pod) String() string { return p.Namespace + "/" + p.Name }

// At is the address of one of the pod's programs.
func (p *Pod) At(port uint16) netip.AddrPort { return netip.AddrPortFrom(p.Address, port) }

// Control is the socket on which the pod's programs take orders.
func (p *Pod) Control() string { return p.control }

// Principal is the SPIFFE ID of the pod.
func (p *Pod) Principal() string {
	return "spiffe://" + trustDomain + "/ns/" + p.Namespace + "/sa/" + p.ServiceAccount
}

// trustDomain is that of every lab: what the programs take when nobody says
// otherwise.
const trustDomain = "cluster.local"

// InMesh reports whether the pod is enrolled, as the kubelet's notes say.
func (p *Pod) InMesh() bool { return p.annotated }

// podNamespace is the network namespace of a pod in the lab of a name.
func podNamespace(lab string, spec PodSpec) Namespace {
	return Namespace{lab + "-" + spec.Namespace + "-" + spec.Name}
}

// wantsMesh is what the labels say.
func (p *Pod) wantsMesh() bool {
	switch p.meshLabel {
	case "ambient":
		return true
	case "none":
		return false
	}
	return meshNamespaces()[p.Namespace]
}

// StartPod does what scheduler, kubelet and runtime do for a new pod: the
// manifest, the namespace, CNI ADD, the programs, and then address and state in
// the manifest. When it fails, nothing of the pod is left.
func (l *Lab) StartPod(ctx context.Context, spec PodSpec) (*Pod, error) {
	node := l.Node(spec.Node)
	p := &Pod{
		PodSpec: spec, UID: newUID(), Node: node, NetNS: podNamespace(l.cfg.Name, spec),
		sandbox: randomHex(32), created: time.Now().Truncate(time.Second),
		control:   filepath.Join(node.Dir, spec.Namespace+"-"+spec.Name+".sock"),
		meshLabel: spec.MeshLabel,
	}
	l.pods = append(l.pods, p)
	if err := l.bringUp(ctx, p); err != nil {
		return nil, errors.Join(err, l.StopPod(context.WithoutCancel(ctx), p))
	}
	return p, l.recordPods()
}

// bringUp is the way of StartPod from the manifest to Ready.
func (l *Lab) bringUp(ctx context.Context, p *Pod) error {
	if err := l.WritePod(p); err != nil {
		return err
	}
	if err := l.makeNamespace(p.NetNS); err != nil {
		return err
	}
	begun := time.Now()
	addr, err := p.Node.chain.add(ctx, p)
	if err != nil {
		return fmt.Errorf("CNI ADD: %w", err)
	}
	p.Address, p.Added = addr, time.Since(begun)
	// ADD succeeded: the agent has confirmed that the pod is enrolled.
	p.annotated = p.wantsMesh() && !l.cfg.NoMesh
	if !p.Bare {
		if err := l.startPrograms(ctx, p); err != nil {
			return err
		}
	}
	p.ready = true
	return l.WritePod(p)
}

// startPrograms runs labapp in the pod and waits for its control socket.
func (l *Lab) startPrograms(ctx context.Context, p *Pod) error {
	proc, err := l.start(ctx, processSpec{
		name: p.Namespace + "-" + p.Name, ns: p.NetNS, dir: p.Node.Dir,
		path: l.cfg.App[0],
		args: append(slices.Clone(l.cfg.App[1:]), "--pod", p.String(), "--control", p.control),
	})
	if err != nil {
		return err
	}
	p.Programs = proc
	return waitReady(ctx, proc, func(context.Context) error {
		_, err := os.Stat(p.control)
		return err
	})
}

// StopPod does what happens when a pod is deleted: the programs end, CNI DEL,
// the namespace and the manifest go.
func (l *Lab) StopPod(ctx context.Context, p *Pod) error {
	var errs []error
	if p.Programs != nil {
		errs = append(errs, p.Programs.Stop())
	}
	if p.NetNS.exists() {
		errs = append(errs, p.Node.chain.del(ctx, p), l.removeNamespace(p.NetNS))
	}
	errs = append(errs, l.manifests.Delete(podFile(p)), os.RemoveAll(p.control))
	l.pods = slices.DeleteFunc(l.pods, func(other *Pod) bool { return other == p })
	return errors.Join(append(errs, l.recordPods())...)
}

// WritePod writes the manifest of a pod as it is now.
func (l *Lab) WritePod(p *Pod) error {
	return l.manifests.Apply(podFile(p), p.manifest(p.Node))
}

func podFile(p *Pod) string { return "pod-" + p.Namespace + "-" + p.Name }

// SetReady changes the readiness of a pod, as its kubelet would.
func (l *Lab) SetReady(p *Pod, ready bool) error {
	p.ready = ready
	return l.WritePod(p)
}

// SetServiceAccount makes the manifest of a running pod name another service
// account than the pod was made with: no cluster allows that, a sabotage does.
func (l *Lab) SetServiceAccount(p *Pod, name string) error {
	p.ServiceAccount = name
	return l.WritePod(p)
}

// Annotate writes the redirection annotation of a pod, whatever is true.
func (l *Lab) Annotate(p *Pod, enrolled bool) error {
	p.annotated = enrolled
	return l.WritePod(p)
}

// LeaveMesh takes a running pod out of the mesh by its label, waits until the
// agent says that it is, and then takes the annotation away.
func (l *Lab) LeaveMesh(ctx context.Context, p *Pod) error {
	p.meshLabel = "none"
	if err := l.WritePod(p); err != nil {
		return err
	}
	if err := l.waitAgent(ctx, p, event.Outside); err != nil {
		return err
	}
	p.annotated = false
	return errors.Join(l.WritePod(p), l.recordPods())
}

// JoinMesh brings a running pod back by its label: the agent enrols it, then the
// annotation says so.
func (l *Lab) JoinMesh(ctx context.Context, p *Pod) error {
	p.meshLabel = ""
	if err := l.WritePod(p); err != nil {
		return err
	}
	if err := l.waitAgent(ctx, p, event.Enrolled); err != nil {
		return err
	}
	p.annotated = true
	return errors.Join(l.WritePod(p), l.recordPods())
}

// recordPods writes the pods to the state file, for later commands.
func (l *Lab) recordPods() error {
	return l.state.update(func(s *State) {
		s.Pods = nil
		for _, p := range l.pods {
			s.Pods = append(s.Pods, PodRecord{
				Namespace: p.Namespace, Name: p.Name, UID: p.UID, Node: p.Node.Name,
				NetNS: p.NetNS.Name, Address: p.Address.String(), Control: p.control, Mesh: p.annotated,
			})
		}
	})
}

// newUID makes a random UUID. Source: RFC 9562, section 5.4.
func newUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	s := hex.EncodeToString(b[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}
