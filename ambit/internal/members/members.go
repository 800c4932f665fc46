package members

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/ambit-mesh/ambit/ambit/internal/check"
	"github.com/ambit-mesh/ambit/ambit/internal/install"
	"github.com/ambit-mesh/ambit/ambit/internal/proxies"
)

// State is what a pod is to the mesh.
type State string

const (
	Enrolled State = "enrolled" // captured, and a proxy serves it
	Pending  State = "pending"  // captured, and no proxy serves it yet: no traffic
	Outside  State = "outside"  // not captured, and should not be
	Failed   State = "failed"   // should be in the mesh, and is not
	Leaving  State = "leaving"  // captured, and should not be
)

// Member is a pod.
type Member struct {
	Namespace   string     `json:"namespace"`
	Name        string     `json:"name"`
	Address     string     `json:"address"`
	Node        string     `json:"node"`
	State       State      `json:"state"`
	Reason      string     `json:"reason,omitempty"` // why it is in that state, when that is not plain
	Identity    string     `json:"identity,omitempty"`
	Certificate *time.Time `json:"certificateEnds,omitempty"` // when what proves it ends; nil: none, or not known
	Proxy       string     `json:"proxy,omitempty"`           // pod of the proxy that serves it
	Inbound     int        `json:"inbound"`                   // open connections
	Outbound    int        `json:"outbound"`
}

// List tells of every pod that is running.
func List(w *check.World, all []proxies.Proxy) []Member {
	var out []Member
	for i := range w.Pods {
		p := &w.Pods[i]
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.Namespace == w.Namespace {
			continue
		}
		out = append(out, memberOf(w, p, all))
	}
	slices.SortFunc(out, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// memberOf tells of one pod.
func memberOf(w *check.World, p *corev1.Pod, all []proxies.Proxy) Member {
	m := Member{Namespace: p.Namespace, Name: p.Name, Address: p.Status.PodIP, Node: p.Spec.NodeName}
	served := m.serve(p, all)
	mark, wants := p.Annotations[install.RedirectionAnnotation], w.InMesh(p)
	switch {
	case mark == "enabled" && !wants:
		m.State, m.Reason = Leaving, "its labels do not want it in the mesh any more"
	case mark == "enabled" && served:
		m.State = Enrolled
	case mark == "enabled":
		m.State, m.Reason = Pending, cmp.Or(silence(p, all), "the proxy of its node does not serve it")
	case mark == "pending":
		m.State, m.Reason = Pending, "the agent of its node waits for the proxy"
	case wants && p.Status.PodIP == "":
		m.State, m.Reason = Pending, "it has no address yet"
	case wants:
		m.State, m.Reason = Failed, "kubectl describe pod says why (events)"
	default:
		m.State, m.Reason = Outside, check.WhyOutside(w, p)
	}
	if m.State == Enrolled || m.State == Leaving || m.State == Pending {
		m.Identity = cmp.Or(m.Identity, fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", TrustDomain(w), p.Namespace, p.Spec.ServiceAccountName))
	}
	return m
}

// serve fills in what the proxy that serves p says, and tells whether one does.
func (m *Member) serve(p *corev1.Pod, all []proxies.Proxy) bool {
	for _, proxy := range all {
		if proxy.Dump == nil {
			continue
		}
		pod, ok := proxy.Dump.Pods[string(p.UID)]
		if !ok {
			continue
		}
		m.Inbound += pod.Inbound
		m.Outbound += pod.Outbound
		if proxy.Ending || pod.State != "Up" {
			continue // its connections count: they live on there
		}
		m.Proxy = proxy.Pod
		suffix := fmt.Sprintf("/ns/%s/sa/%s", p.Namespace, p.Spec.ServiceAccountName)
		for _, c := range proxy.Dump.Certificates {
			if len(c.Identity) > len(suffix) && c.Identity[len(c.Identity)-len(suffix):] == suffix {
				m.Identity = c.Identity
				if len(c.Chain) > 0 {
					ends := c.Chain[0].NotAfter
					m.Certificate = &ends
				}
			}
		}
	}
	return m.Proxy != ""
}

// silence says that the proxy of p's node could not be asked, if that is so.
func silence(p *corev1.Pod, all []proxies.Proxy) string {
	for _, proxy := range all {
		if proxy.Node == p.Spec.NodeName && proxy.Err != nil {
			return fmt.Sprintf("the proxy of its node could not be asked: %v", proxy.Err)
		}
	}
	return ""
}

// TrustDomain is what identities of the installation stand in.
func TrustDomain(w *check.World) string {
	if w.Inventory != nil {
		global, _ := w.Inventory.Values["global"].(map[string]any)
		if domain, ok := global["trustDomain"].(string); ok && domain != "" {
			return domain
		}
	}
	return "cluster.local"
}
