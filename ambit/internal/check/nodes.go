package check

import (
	"fmt"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	corev1 "k8s.io/api/core/v1"
)

// Kernels. Source: the kernel's history of net/netfilter and net/ipv4.
const (
	// kernelNeeded has nftables NAT in tables of both families (inet), on which the
	// rules in pods rest.
	kernelNeeded = "5.2"

	// kernelWanted hands what waits in the accept queue to the next ztunnel when one
	// goes (net.ipv4.tcp_migrate_req).
	kernelWanted = "5.14"
)

// kubernetesNeeded is the oldest version whose tokens name the node and whose
// admission policies are stable.
const kubernetesNeeded = "1.30"

// kubernetes checks the version of the API server.
func kubernetes(w *World, _ time.Time) []Finding {
	if older(w.KubeVersion, kubernetesNeeded) {
		return []Finding{{
			Level: Error, Blocks: true, Where: "cluster", What: fmt.Sprintf("it runs Kubernetes %s", w.KubeVersion),
			Do: "upgrade it to " + kubernetesNeeded + " or later",
		}}
	}
	return nil
}

// nodes checks what nodes say of themselves.
func nodes(w *World, _ time.Time) (out []Finding) {
	for i := range w.Nodes {
		node := &w.Nodes[i]
		where, info := "node "+node.Name, node.Status.NodeInfo
		switch {
		case info.OperatingSystem != "linux":
			out = append(out, Finding{Level: Info, Where: where, What: "it runs " + info.OperatingSystem + ": its pods stay outside the mesh"})
			continue
		case info.Architecture != "amd64" && info.Architecture != "arm64":
			out = append(out, Finding{Level: Error, Where: where, What: "there are no images for its architecture " + info.Architecture, Do: "keep the mesh's pods off it, or build images: make images ARCHS=" + info.Architecture})
		}
		switch kernel := info.KernelVersion; {
		case older(kernel, kernelNeeded):
			out = append(out, Finding{Level: Error, Blocks: true, Where: where, What: fmt.Sprintf("kernel %s has no NAT in inet tables of nftables", kernel), Do: "upgrade its kernel to " + kernelNeeded + " or later"})
		case older(kernel, kernelWanted):
			out = append(out, Finding{Level: Warning, Where: where, What: fmt.Sprintf("kernel %s loses connections that wait to be accepted when ztunnel is replaced", kernel), Do: "upgrade its kernel to " + kernelWanted + " or later"})
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
				out = append(out, Finding{Level: Warning, Where: where, What: "it is not ready: " + c.Message, Do: "nothing can be said of its pods until it is"})
			}
		}
	}
	return out
}

// older tells whether version, as kernels and clusters write theirs, is older
// than limit. A version that cannot be read is not.
func older(version, limit string) bool {
	v, ok := leading(version)
	l, alsoOK := leading(limit)
	return ok && alsoOK && v.LessThan(l)
}

// leading reads the numbers that a version begins with.
func leading(text string) (*semver.Version, bool) {
	text = strings.TrimPrefix(text, "v")
	end := strings.IndexFunc(text, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end >= 0 {
		text = text[:end]
	}
	parts := strings.Split(strings.Trim(text, "."), ".")
	v, err := semver.NewVersion(strings.Join(parts[:min(len(parts), 3)], "."))
	return v, err == nil
}
