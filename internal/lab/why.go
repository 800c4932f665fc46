package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// whyLines is how many connections Why tells of, on each side.
const whyLines = 3

// Why says what became of the last connections from one pod to another, by the
// access logs of their nodes. Pods are given as namespace/name or address; the
// destination may be the address of a service, too.
func Why(state State, source, destination string) (string, error) {
	src, err := state.findPod(source)
	if err != nil {
		return "", err
	}
	dst, err := state.findPod(destination)
	if addr, noAddr := netip.ParseAddr(destination); err != nil && noAddr == nil {
		// A service: no program there, and so nothing arrives.
		dst, err = PodRecord{Name: destination, Address: addr.String()}, nil
	}
	if err != nil {
		return "", err
	}
	var out strings.Builder
	sides := []struct {
		pod       PodRecord
		direction string
		says      string
	}{{src, "outbound", "where it starts"}, {dst, "inbound", "where it arrives"}}
	if dst.Node == "" {
		sides = sides[:1]
	}
	for _, side := range sides {
		fmt.Fprintf(&out, "%s (%s, %s):\n", side.says, side.pod.Node, side.direction)
		lines, err := state.accessOf(side.pod.Node)
		if err != nil {
			return "", err
		}
		var told []string
		for _, l := range lines {
			if l.Direction == side.direction && l.between(src, dst) {
				told = append(told, l.tell())
			}
		}
		switch {
		case len(told) == 0 && !side.pod.Mesh:
			fmt.Fprintf(&out, "  %s/%s is not in the mesh: no ztunnel sees its connections\n", side.pod.Namespace, side.pod.Name)
		case len(told) == 0:
			fmt.Fprintf(&out, "  no connection from %s/%s to %s has ended here yet\n", src.Namespace, src.Name, strings.TrimPrefix(dst.Namespace+"/"+dst.Name, "/"))
		}
		for _, text := range told[max(0, len(told)-whyLines):] {
			fmt.Fprintln(&out, "  "+text)
		}
	}
	return out.String(), nil
}

// findPod finds a pod by namespace/name or address.
func (s State) findPod(what string) (PodRecord, error) {
	var names []string
	for _, p := range s.Pods {
		if what == p.Namespace+"/"+p.Name || what == p.Address {
			return p, nil
		}
		names = append(names, p.Namespace+"/"+p.Name)
	}
	return PodRecord{}, fmt.Errorf("no pod %q: there are %s", what, strings.Join(names, ", "))
}

// accessOf reads the access log of a node's ztunnel.
func (s State) accessOf(node string) ([]AccessLine, error) {
	for _, n := range s.Nodes {
		if n.Name != node {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(n.Dir, "ztunnel.log"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return parseAccess(raw)
	}
	return nil, fmt.Errorf("no node %q in the state file", node)
}

// between reports whether the connection went from src to dst.
func (a AccessLine) between(src, dst PodRecord) bool {
	from, err := netip.ParseAddr(src.Address)
	if err != nil || !a.From(from) {
		return false
	}
	for _, at := range []string{a.HBONEAddr, a.DstAddr} {
		if ap, err := netip.ParseAddrPort(at); err == nil && ap.Addr().String() == dst.Address {
			return true
		}
	}
	return false
}

// tell says in words what a line says in fields.
func (a AccessLine) tell() string {
	var parts []string
	to := a.DstAddr
	if a.HBONEAddr != "" {
		to = a.HBONEAddr
	}
	parts = append(parts, a.Time, "to "+to)
	if a.DstService != "" {
		parts = append(parts, "for "+a.DstService)
	}
	if a.Hop != "" {
		parts = append(parts, "hop "+a.Hop)
	}
	if a.SrcIdentity != "" {
		parts = append(parts, "as "+a.SrcIdentity)
	} else {
		parts = append(parts, "in plaintext")
	}
	if a.Policy != "" {
		parts = append(parts, "decided by "+a.Policy)
	}
	if a.Error != "" {
		parts = append(parts, fmt.Sprintf("FAILED at stage %s, fault of %s: %s", a.Stage, a.Fault, a.Error))
	} else {
		parts = append(parts, "ended well")
	}
	return strings.Join(parts, ", ")
}
