package agent

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// MarkAnnotation tells the control plane, and people, that a pod is in the mesh.
const MarkAnnotation = "ambient.istio.io/redirection"

// Mark is its value.
type Mark string

// The values of Mark.
const (
	Unmarked Mark = ""        // not in the mesh: no annotation
	Marked   Mark = "enabled" // captured, and ztunnel serves it
	Waiting  Mark = "pending" // captured, and no ztunnel has served it yet
)

// Reporter says what became of pods. Its methods only remember, and come back at
// once.
type Reporter interface {
	Mark(uid, namespace, name string, value Mark)
	Event(uid, namespace, name, reason, message string)
}

// silent reports to nobody.
type silent struct{}

func (silent) Mark(string, string, string, Mark)            {}
func (silent) Event(string, string, string, string, string) {}

// Sandbox is where a pod lives, by the container runtime's word.
type Sandbox struct {
	ID    string
	Netns string // path of its network namespace on the node
	IPs   []netip.Addr
}

// Runtime knows the pods that run already, by the uids that their kubelet gave them.
type Runtime interface {
	Sandbox(ctx context.Context, uid string) (Sandbox, error)
}

// HostRoot is where the node's files are. Empty means that they are our own.
type HostRoot string

// maxLinks is how many symbolic links a path may lead through. Source:
// path_resolution(7).
const maxLinks = 40

// Resolve returns the path by which we reach the node's path. Symbolic links lead
// to where they lead on the node: /var/run is one on many.
func (h HostRoot) Resolve(path string) (string, error) {
	if h == "" {
		return path, nil
	}
	done, rest := "/", strings.Split(filepath.Clean(path), "/")
	for links := 0; len(rest) > 0; {
		next := filepath.Join(done, rest[0])
		rest = rest[1:]
		if next == "/" { // our way there may be a link: /proc/1/root
			done = next
			continue
		}
		if strings.HasPrefix(next, "/proc/") {
			// Links of a process are no paths; the kernel follows them.
			return filepath.Join(append([]string{string(h), next}, rest...)...), nil
		}
		target, err := os.Readlink(filepath.Join(string(h), next))
		if err != nil { // no link, or not there: its user will see
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", &os.PathError{Op: "resolve", Path: path, Err: os.ErrInvalid}
		}
		if filepath.IsAbs(target) {
			done = "/"
		}
		rest = append(strings.Split(filepath.Clean(target), "/"), rest...)
	}
	return filepath.Join(string(h), done), nil
}
