package proxies

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
)

// whyLines is how many connections are told of on each side.
const whyLines = 3

// Connection is a connection as a proxy tells of it.
type Connection struct {
	State     string `json:"state"`
	Direction string `json:"direction"`
	Hop       string `json:"hop,omitempty"`
	Source    struct {
		Addr     string `json:"addr,omitempty"`
		Identity string `json:"identity,omitempty"`
	} `json:"source"`
	Service   string     `json:"service,omitempty"`
	ActualDst string     `json:"actualDst,omitempty"`
	Policy    string     `json:"policy,omitempty"`
	Opened    time.Time  `json:"opened"`
	Closed    *time.Time `json:"closed,omitempty"`
	Sent      uint64     `json:"bytesSent"`
	Received  uint64     `json:"bytesReceived"`
	Stage     string     `json:"stage,omitempty"`
	Fault     string     `json:"fault,omitempty"`
	Error     string     `json:"error,omitempty"`
	Hint      string     `json:"hint,omitempty"`
}

// Side is what the proxy at one end tells.
type Side struct {
	Says        string       `json:"side"` // which end
	Node        string       `json:"node"`
	Direction   string       `json:"direction"`
	Connections []Connection `json:"connections"` // oldest first
	Problem     string       `json:"problem,omitempty"`
}

// Why asks the proxies at both ends what became of the connections between two
// pods, each given as namespace/name or address.
func Why(ctx context.Context, client *kube.Client, namespace, source, destination string) ([]Side, error) {
	src, err := findPod(ctx, client, source)
	if err != nil {
		return nil, err
	}
	dst, err := findPod(ctx, client, destination)
	if err != nil {
		return nil, err
	}
	sides := []Side{
		{Says: "where it starts", Node: src.Spec.NodeName, Direction: "outbound"},
		{Says: "where it arrives", Node: dst.Spec.NodeName, Direction: "inbound"},
	}
	query := "/why?" + url.Values{"src": {src.Namespace + "/" + src.Name}, "dst": {dst.Namespace + "/" + dst.Name}}.Encode()
	for i := range sides {
		s := &sides[i]
		s.Connections, err = connectionsOn(ctx, client, namespace, s.Node, query)
		if err != nil {
			s.Problem = err.Error()
		}
		s.Connections = only(s.Connections, s.Direction)
	}
	return sides, nil
}

// findPod finds a pod by namespace/name or address.
func findPod(ctx context.Context, client *kube.Client, what string) (*corev1.Pod, error) {
	pods := client.Kube.CoreV1().Pods("")
	if namespace, name, ok := strings.Cut(what, "/"); ok {
		return client.Kube.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	}
	list, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "status.podIP=" + what})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		if !list.Items[i].Spec.HostNetwork {
			return &list.Items[i], nil
		}
	}
	return nil, fmt.Errorf("no pod %q: want namespace/name or an address of a pod", what)
}

// connectionsOn asks the proxies of a node.
func connectionsOn(ctx context.Context, client *kube.Client, namespace, node, query string) (out []Connection, err error) {
	pods, err := client.Kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: Selector, FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return nil, err
	}
	if len(pods.Items) == 0 {
		return nil, fmt.Errorf("no proxy runs on node %s", node)
	}
	var problems []error
	for _, pod := range pods.Items {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		text, err := client.Get(ctx, pod.Namespace, pod.Name, adminPort, query)
		cancel()
		if err != nil {
			problems = append(problems, err)
			continue
		}
		found, err := parseConnections(text)
		if err != nil {
			problems = append(problems, fmt.Errorf("proxy %s: %w", pod.Name, err))
		}
		out = append(out, found...)
	}
	return out, errors.Join(problems...)
}

// parseConnections reads the answer of a proxy: those that have ended, the newest
// last, then those that are open.
func parseConnections(text []byte) ([]Connection, error) {
	var answer struct {
		Open   []Connection `json:"open"`   // oldest first
		Recent []Connection `json:"recent"` // newest first
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("list of connections: %w", err)
	}
	slices.Reverse(answer.Recent)
	return append(answer.Recent, answer.Open...), nil
}

// only are the last of those that go in a direction.
func only(all []Connection, direction string) []Connection {
	out := []Connection{}
	for _, c := range all {
		if c.Direction == direction {
			out = append(out, c)
		}
	}
	return out[max(0, len(out)-whyLines):]
}

// String says in words what became of c.
func (c Connection) String() string {
	parts := []string{c.Opened.UTC().Format(time.TimeOnly), "to " + c.ActualDst}
	if c.Service != "" {
		parts = append(parts, "for "+c.Service)
	}
	if c.Hop != "" {
		parts = append(parts, "hop "+c.Hop)
	}
	if c.Source.Identity != "" {
		parts = append(parts, "as "+c.Source.Identity)
	} else if c.Direction == "inbound" {
		parts = append(parts, "in plaintext")
	}
	if c.Policy != "" {
		parts = append(parts, "decided by "+c.Policy)
	}
	switch {
	case c.Error != "":
		text := fmt.Sprintf("FAILED at stage %s, fault of %s: %s", c.Stage, c.Fault, c.Error)
		if c.Hint != "" && !strings.Contains(c.Error, c.Hint) {
			text += "; " + c.Hint
		}
		parts = append(parts, text)
	case c.Closed == nil:
		parts = append(parts, "is open")
	default:
		parts = append(parts, fmt.Sprintf("ended well after %v, %d bytes there and %d back", c.Closed.Sub(c.Opened).Round(time.Millisecond), c.Sent, c.Received))
	}
	return strings.Join(parts, ", ")
}
