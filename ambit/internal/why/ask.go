package why

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/ambit/internal/waypoints"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// adminPort is where a ztunnel answers, on the loopback of its pod.
const adminPort = 15000

// Connections is how many that have ended are told of, on each side.
const Connections = 3

// Report is what was found.
type Report struct {
	Source      Party  `json:"source"`
	Destination Party  `json:"destination"`
	Starts      []Side `json:"starts"`  // where connections start
	Arrives     []Side `json:"arrives"` // where they arrive
}

// Party is one end, as it was named and as the cluster knows it.
type Party struct {
	Asked    string `json:"asked"`
	Pod      string `json:"pod,omitempty"`     // namespace/name; empty when it is no pod
	Service  string `json:"service,omitempty"` // namespace/name; empty when it is no service
	Address  string `json:"address,omitempty"`
	Node     string `json:"node,omitempty"`
	State    string `json:"state"`              // in the mesh, or why not
	Identity string `json:"identity,omitempty"` // that its ztunnel proves for it
	Expires  string `json:"certificateExpires,omitempty"`
	Ztunnel  string `json:"ztunnel,omitempty"` // pod that serves it
	// Waypoints says how calls to it have to travel where waypoints are concerned.
	Waypoints []string `json:"waypoints,omitempty"`
	uid       string
	namespace string
	account   string
}

// Side is what one ztunnel says.
type Side struct {
	Node        string       `json:"node"`
	Direction   string       `json:"direction"`
	Connections []Connection `json:"connections"`
	Error       string       `json:"error,omitempty"` // why it could not be asked
}

// Connection is one connection as a ztunnel remembers it.
type Connection struct {
	State     string    `json:"state"`
	Direction string    `json:"direction"`
	Hop       string    `json:"hop"`
	Pod       string    `json:"pod"`
	Source    End       `json:"source"`
	Dest      End       `json:"destination"`
	Service   string    `json:"service"`
	Authority string    `json:"authority"`
	Original  string    `json:"originalDst"`
	Actual    string    `json:"actualDst"`
	Policy    string    `json:"policy"`
	Opened    time.Time `json:"opened"`
	Sent      uint64    `json:"bytesSent"`
	Received  uint64    `json:"bytesReceived"`
	Stage     string    `json:"stage"`
	Fault     string    `json:"fault"`
	Error     string    `json:"error"`
	Hint      string    `json:"hint"`
}

// End is one end of a Connection.
type End struct {
	Addr      string `json:"addr"`
	Workload  string `json:"workload"`
	Namespace string `json:"namespace"`
	Identity  string `json:"identity"`
}

// asker holds what one Ask needs.
type asker struct {
	client    *kube.Client
	namespace string            // of the installation
	ztunnels  map[string]string // node -> name of the ztunnel pod
}

// Ask finds out about connections from source to destination: each a pod
// (namespace/name), an address, or for the destination a service
// (namespace/name) or a host name. namespace is that of the installation.
func Ask(ctx context.Context, client *kube.Client, namespace, source, destination string) (*Report, error) {
	a := &asker{client: client, namespace: namespace, ztunnels: map[string]string{}}
	if err := a.listZtunnels(ctx); err != nil {
		return nil, err
	}
	src, err := a.find(ctx, source, false)
	if err != nil {
		return nil, err
	}
	dst, err := a.find(ctx, destination, true)
	if err != nil {
		return nil, err
	}
	r := &Report{Source: src, Destination: dst}
	dst.Waypoints = tellWaypoints(ctx, client, dst)
	r.Destination = dst
	a.describe(ctx, &r.Source)
	a.describe(ctx, &r.Destination)
	if src.uid != "" && r.Source.Ztunnel != "" {
		r.Starts = append(r.Starts, a.side(ctx, src.Node, "outbound", func(c *Connection) bool { return c.Pod == src.uid }, src, dst))
	}
	for _, pod := range a.arrivals(ctx, dst, r.Starts) {
		if a.ztunnels[pod.Node] == "" {
			continue
		}
		r.Arrives = append(r.Arrives, a.side(ctx, pod.Node, "inbound", func(c *Connection) bool { return c.Pod == pod.uid }, src, pod))
	}
	return r, nil
}

// tellWaypoints says how calls to a pod or a service have to travel where waypoints are
// concerned.
func tellWaypoints(ctx context.Context, client *kube.Client, dst Party) []string {
	kind, what := model.KindPod, dst.Pod
	if what == "" {
		kind, what = model.KindService, dst.Service
	}
	namespace, name, ok := strings.Cut(what, "/")
	if !ok {
		return nil
	}
	state, err := waypoints.Read(ctx, client)
	if err != nil {
		return []string{"what is asked of waypoints could not be read: " + err.Error()}
	}
	return state.Tell(kind, namespace, name)
}

// listZtunnels finds the ztunnel of each node.
func (a *asker) listZtunnels(ctx context.Context) error {
	list, err := a.client.Kube.CoreV1().Pods(a.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=ztunnel"})
	if err != nil {
		return fmt.Errorf("find the ztunnels in namespace %s: %w", a.namespace, err)
	}
	if len(list.Items) == 0 {
		return fmt.Errorf("no ztunnel runs in namespace %s: is ambit installed there? (--namespace says where)", a.namespace)
	}
	// Of two on a node, as in an upgrade, the newer one has the pods.
	slices.SortFunc(list.Items, func(x, y corev1.Pod) int { return x.CreationTimestamp.Compare(y.CreationTimestamp.Time) })
	for _, p := range list.Items {
		if p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil {
			a.ztunnels[p.Spec.NodeName] = p.Name
		}
	}
	return nil
}

// find finds what is called what.
func (a *asker) find(ctx context.Context, what string, serviceToo bool) (Party, error) {
	p := Party{Asked: what}
	if addr, err := parseAddr(what); err == nil {
		return a.findAddress(ctx, p, addr)
	}
	namespace, name, ok := strings.Cut(what, "/")
	if !ok {
		if serviceToo && strings.Contains(what, ".") {
			p.State = "a host name"
			return p, nil
		}
		return p, fmt.Errorf("%q: want namespace/name of a pod, or an address", what)
	}
	pod, err := a.client.Kube.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		return ofPod(p, pod), nil
	}
	if !apierrors.IsNotFound(err) {
		return p, fmt.Errorf("pod %s: %w", what, err)
	}
	if serviceToo {
		svc, err := a.client.Kube.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			p.Service, p.Address, p.State = what, svc.Spec.ClusterIP, "a service"
			return p, nil
		}
		if !apierrors.IsNotFound(err) {
			return p, fmt.Errorf("service %s: %w", what, err)
		}
		return p, fmt.Errorf("no pod and no service %s", what)
	}
	return p, fmt.Errorf("no pod %s", what)
}

// parseAddr reads an address, with or without a port.
func parseAddr(text string) (netip.Addr, error) {
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap.Addr(), nil
	}
	return netip.ParseAddr(text)
}

// findAddress finds who has an address.
func (a *asker) findAddress(ctx context.Context, p Party, addr netip.Addr) (Party, error) {
	p.Address = addr.String()
	list, err := a.client.Kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "status.podIP=" + addr.String()})
	if err != nil {
		return p, fmt.Errorf("find the pod with address %v: %w", addr, err)
	}
	for i := range list.Items {
		if pod := &list.Items[i]; !pod.Spec.HostNetwork && pod.Status.Phase == corev1.PodRunning {
			return ofPod(p, pod), nil
		}
	}
	p.State = "no pod of this cluster"
	return p, nil
}

// ofPod is what the API server says of a pod.
func ofPod(p Party, pod *corev1.Pod) Party {
	p.Pod, p.Address, p.Node = pod.Namespace+"/"+pod.Name, pod.Status.PodIP, pod.Spec.NodeName
	p.uid, p.namespace, p.account = string(pod.UID), pod.Namespace, cmp.Or(pod.Spec.ServiceAccountName, "default")
	switch state := pod.Annotations["ambient.istio.io/redirection"]; {
	case pod.Spec.HostNetwork:
		p.State = "not in the mesh: it is on the network of its node"
	case state == "enabled":
		p.State = "in the mesh"
	case state == "pending":
		p.State = "captured, but its ztunnel does not serve it yet: no traffic (kubectl describe pod says why)"
	default:
		p.State = "not in the mesh: no label istio.io/dataplane-mode: ambient at its namespace or itself, or the agent of its node has not enrolled it (ambit pods)"
	}
	return p
}

// dump is the part of a ztunnel's config_dump that is read here.
type dump struct {
	WorkloadState map[string]struct {
		State string `json:"state"`
	} `json:"workloadState"`
	Certificates []struct {
		Identity string `json:"identity"`
		State    string `json:"state"`
		Chain    []struct {
			Expires string `json:"expirationTime"`
		} `json:"certChain"`
	} `json:"certificates"`
}

// describe adds what the ztunnel of p's node says of p.
func (a *asker) describe(ctx context.Context, p *Party) {
	if p.State != "in the mesh" {
		return
	}
	p.Ztunnel = a.ztunnels[p.Node]
	if p.Ztunnel == "" {
		p.State = "enrolled, but no ztunnel runs on " + p.Node + ": no traffic"
		return
	}
	var d dump
	if err := a.get(ctx, p.Node, "/config_dump", &d); err != nil {
		p.State += "; its ztunnel could not be asked: " + err.Error()
		return
	}
	if state := d.WorkloadState[p.uid].State; state != "Up" {
		p.State = fmt.Sprintf("enrolled, but %s does not serve it (%s): no traffic", p.Ztunnel, cmp.Or(state, "it is not known there"))
	}
	for _, c := range d.Certificates {
		if strings.HasSuffix(c.Identity, "/ns/"+p.namespace+"/sa/"+p.account) {
			p.Identity = c.Identity
			if len(c.Chain) > 0 {
				p.Expires = c.Chain[0].Expires
			}
			if c.State != "Available" {
				p.State += "; its certificate is " + c.State
			}
		}
	}
}

// arrivals lists the pods where connections to dst arrive: dst itself, or those
// that the other side has named.
func (a *asker) arrivals(ctx context.Context, dst Party, starts []Side) []Party {
	if dst.uid != "" {
		return []Party{dst}
	}
	var out []Party
	seen := map[string]bool{}
	for _, side := range starts {
		for _, c := range side.Connections {
			name := c.Dest.Namespace + "/" + c.Dest.Workload
			if c.Dest.Workload == "" || seen[name] {
				continue
			}
			seen[name] = true
			if p, err := a.find(ctx, name, false); err == nil && p.uid != "" {
				out = append(out, p)
			}
		}
	}
	return out
}

// side asks the ztunnel of a node for connections from src to dst. Those that are
// open come first, then the last ones that have ended.
func (a *asker) side(ctx context.Context, node, direction string, mine func(*Connection) bool, src, dst Party) Side {
	s := Side{Node: node, Direction: direction, Connections: []Connection{}}
	q := url.Values{"src": {cmp.Or(src.Pod, src.Address, src.Asked)}, "dst": {cmp.Or(dst.Pod, dst.Address, dst.Asked)}}
	if src.Pod != "" && src.State != "in the mesh" {
		q.Set("src", src.Address) // nobody proves who it is
	}
	var answer struct{ Open, Recent []Connection }
	if err := a.get(ctx, node, "/why?"+q.Encode(), &answer); err != nil {
		s.Error = err.Error()
		return s
	}
	keep := func(all []Connection) {
		n := 0
		for i := range all {
			if all[i].Direction == direction && mine(&all[i]) && n < Connections {
				s.Connections = append(s.Connections, all[i])
				n++
			}
		}
	}
	keep(answer.Open)
	keep(answer.Recent)
	return s
}

// get asks the ztunnel of node.
func (a *asker) get(ctx context.Context, node, path string, into any) error {
	body, err := a.client.Get(ctx, a.namespace, a.ztunnels[node], adminPort, path)
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("%w: you need the right to create pods/portforward in namespace %s", err, a.namespace)
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return errors.Join(errors.New("its answer is not understood: is it an older version?"), err)
	}
	return nil
}
