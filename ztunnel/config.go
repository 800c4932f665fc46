package ztunnel

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/tracing"
)

// Config says who this node proxy is and how it works. Its zero value, with
// Node.Name and the addresses set, is ready for use.
type Config struct {
	// Version is what we call ourselves in the metrics and in config_dump.
	Version string
	// Node says where we are.
	Node Node
	// Dedicated is the only workload that is served: the one in whose network
	// namespace we run. The zero Workload means all pods of the node that the
	// CNI agent hands over.
	Dedicated Workload
	// XDS is where workloads, services and policies come from.
	XDS Upstream
	// CA is where certificates are signed.
	CA Upstream
	// Capture tunes the sockets inside the pods.
	Capture Capture
	// Tunnel tunes HBONE.
	Tunnel Tunnel
	// DNS tunes the answers to the pods' DNS questions.
	DNS DNS
	// Drain is how long open connections may go on after Run was asked to
	// stop. Zero means 5 s.
	Drain time.Duration
	// Tracing says where the spans of connections go. The zero Config means that
	// there are none.
	Tracing tracing.Config
	// Listen says where people and machines may look at us.
	Listen Listen
	// Settings are the effective settings as text, for config_dump.
	Settings map[string]string
}

// Node says which node, cluster and network this proxy serves.
type Node struct {
	Name           string // of the node
	PodName        string // our own
	PodNamespace   string // our own
	ServiceAccount string // our own
	InstanceIP     string // our own
	ClusterID      string // empty means Kubernetes
	ClusterDomain  string // empty means cluster.local
	TrustDomain    string // empty means cluster.local
	Network        string // may be empty
}

// Workload names one pod.
type Workload struct{ Namespace, Name, ServiceAccount string }

// IsZero reports whether there is none.
func (w Workload) IsZero() bool { return w == Workload{} }

// check names the part that is missing, if one is.
func (w Workload) check() error {
	if !w.IsZero() && (w.Namespace == "" || w.Name == "" || w.ServiceAccount == "") {
		return fmt.Errorf("dedicated workload is %q/%q/%q: want namespace, name and service account", w.Namespace, w.Name, w.ServiceAccount)
	}
	return nil
}

// Source says which address applications see of their clients.
type Source uint8

const (
	SourceClient Source = iota // the client's
	SourceAlways               // the client's; no start where the kernel refuses
	SourceNever                // one of the pod itself: needs no privilege and no rules
)

// Upstream is one service of the control plane.
type Upstream struct {
	Address    string            // https://host:port
	RootCA     string            // path, SYSTEM, or PEM text
	ServerName string            // expected name when it is not the host of Address
	Token      string            // path, or the token itself
	Headers    map[string]string // extra gRPC metadata
	SecretTTL  time.Duration     // of certificates; CA only; zero means 24 h
}

// Capture tunes the sockets that live inside the pods.
type Capture struct {
	// ZDSSocket is where the CNI agent listens.
	// Empty means /var/run/ztunnel/ztunnel.sock.
	ZDSSocket string
	// OwnerSocket is where the CNI agent says whose socket a plaintext caller is,
	// so that the kubelet can probe pods that take no plaintext. Empty means
	// that nobody is asked.
	OwnerSocket string
	// Mark is set on every socket in a pod. Zero means 1337, and for a
	// dedicated workload none.
	Mark uint32
	// Source is the address that applications see.
	Source Source
	// Exclusive refuses to share ports with another proxy (no SO_REUSEPORT).
	Exclusive bool
	// IPv4Only binds 0.0.0.0 in place of [::].
	IPv4Only bool
	// KeepAlive are the probes on application sockets.
	KeepAlive KeepAlive
	// AppTunnelByAddress reaches applications that read the PROXY header at
	// the pod's address in place of loopback.
	AppTunnelByAddress bool
}

// KeepAlive tunes TCP keep-alive. Zero fields mean 180 s, 180 s, 9 probes.
type KeepAlive struct {
	Off            bool
	Idle, Interval time.Duration
	Probes         int
	// UserTimeout ends a connection also when what we have sent is not
	// acknowledged for as long as a quiet peer may fail to answer.
	UserTimeout bool
}

// Tunnel tunes HBONE. Zero fields mean the defaults of package hbone.
type Tunnel struct {
	MaxStreams           int           // per connection
	UnusedRelease        time.Duration // of a pooled connection
	ProveAfter           time.Duration // until it is asked anew whether a peer can be reached
	StreamWindow         int           // bytes
	ConnectionWindow     int           // bytes
	FrameSize            int           // bytes
	EncryptLocal         bool          // no same-node path: encrypt there too
	WithoutResponseHints bool          // no baggage in answers
	StdRecords           bool          // TLS records by crypto/tls
}

// DNS tunes the answers to the pods' DNS questions.
type DNS struct {
	// Off leaves them to others.
	Off bool
	// Port is where the pods' rules send them. Zero means 15053.
	Port uint16
	// PreferredNamespace is whose service counts when a name has several.
	PreferredNamespace string
	// ResolvConf says whom to ask when it is not known whom the pod has asked.
	// Empty means /etc/resolv.conf.
	ResolvConf string
}

// Listen holds the addresses of our own listeners. An empty one means the
// default, "off" means none.
type Listen struct {
	Admin     string // empty means localhost:15000
	Stats     string // empty means :15020
	Readiness string // empty means :15021
}

// withDefaults returns the configuration that is in force.
func (c Config) withDefaults() (Config, error) {
	if c.XDS.Address == "" {
		return Config{}, errors.New("XDS.Address is empty: without a control plane no pod is known")
	}
	if c.CA.Address == "" {
		return Config{}, errors.New("CA.Address is empty: without a CA no pod can prove who it is")
	}
	if err := c.Dedicated.check(); err != nil {
		return Config{}, err
	}
	if c.Drain < 0 {
		return Config{}, fmt.Errorf("drain is %v, want 0 (for 5s) or more", c.Drain)
	}
	c.Version = cmp.Or(c.Version, "dev")
	c.Drain = cmp.Or(c.Drain, DefaultDrain)
	c.Node.ClusterID = cmp.Or(c.Node.ClusterID, "Kubernetes")
	c.Node.ClusterDomain = cmp.Or(c.Node.ClusterDomain, "cluster.local")
	c.Node.TrustDomain = cmp.Or(c.Node.TrustDomain, "cluster.local")
	c.CA.SecretTTL = cmp.Or(c.CA.SecretTTL, 24*time.Hour)
	c.Capture.ZDSSocket = cmp.Or(c.Capture.ZDSSocket, "/var/run/ztunnel/ztunnel.sock")
	if c.Dedicated.IsZero() {
		c.Capture.Mark = cmp.Or(c.Capture.Mark, DefaultMark)
	}
	c.Capture.KeepAlive.Idle = cmp.Or(c.Capture.KeepAlive.Idle, 180*time.Second)
	c.Capture.KeepAlive.Interval = cmp.Or(c.Capture.KeepAlive.Interval, 180*time.Second)
	c.Capture.KeepAlive.Probes = cmp.Or(c.Capture.KeepAlive.Probes, 9)
	c.DNS.ResolvConf = cmp.Or(c.DNS.ResolvConf, "/etc/resolv.conf")
	c.Listen.Admin = cmp.Or(c.Listen.Admin, "localhost:15000")
	c.Listen.Stats = cmp.Or(c.Listen.Stats, ":15020")
	c.Listen.Readiness = cmp.Or(c.Listen.Readiness, ":15021")
	return c, nil
}

// DefaultDrain is how long connections may go on when nothing else is set.
// It is what the ambient ecosystem does.
const DefaultDrain = 5 * time.Second

// DefaultMark is the mark on our sockets in the pods of a node.
const DefaultMark = netns.Mark

// DrainFromGrace is how long connections may go on when the process is killed
// grace after it was asked to end: what is left must suffice to say goodbye.
func DrainFromGrace(grace time.Duration) time.Duration {
	if grace > 10*time.Second {
		return grace - 5*time.Second
	}
	return max(grace-time.Second, time.Second)
}
