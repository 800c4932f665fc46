package waypoint

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/tracing"
)

// Config says who this waypoint is and how it works. Its zero value, with Gateway
// and the addresses of the control plane set, is ready for use.
type Config struct {
	// Version is for people.
	Version string
	// Gateway is the object that users bind services to.
	Gateway Name
	// Node says where we are.
	Node Node
	// XDS is where services, routes and policies come from; CA is where our
	// certificate is signed.
	XDS, CA Upstream
	// Listen is where tunnels come in. Empty means :15008.
	Listen string
	// Stats is where metrics are, Readiness where the readiness is. Empty means
	// :15020 and :15021, "off" none.
	Stats, Readiness string
	// Tracing says where the spans of requests go. The zero Config means that there
	// are none.
	Tracing tracing.Config
	// Drain is how long requests may go on after Run was asked to stop. Zero means
	// 5 s.
	Drain time.Duration
	// KeyServers says where keys of token issuers may be fetched.
	KeyServers KeyServers
}

// KeyServers is about the servers from which keys of token issuers are fetched. Its
// zero value is ready for use.
type KeyServers struct {
	// Also are addresses that are connected to although they are of loopback, of the
	// link, or of a metadata service: see package keys.
	Also []netip.Prefix
	// Roots is a file with certificates that vouch for them in place of the system's.
	Roots string
}

// Name names an object in a namespace.
type Name struct{ Namespace, Name string }

// Node says which pod, cluster and network this is.
type Node struct {
	PodName        string
	PodNamespace   string
	ServiceAccount string
	InstanceIP     string
	NodeName       string
	ClusterID      string // empty means Kubernetes
	ClusterDomain  string // empty means cluster.local
	TrustDomain    string // empty means cluster.local
	Network        string // may be empty
}

// Upstream is one service of the control plane.
type Upstream struct {
	Address    string            // https://host:port
	RootCA     string            // path, SYSTEM, or PEM text
	ServerName string            // expected name when it is not the host of Address
	Token      string            // path, or the token itself
	Headers    map[string]string // extra gRPC metadata
	SecretTTL  time.Duration     // of certificates; CA only; zero means 24 h
	OfNode     bool              // the token is that of the node our pod runs on; CA only
}

// withDefaults returns the configuration that is in force.
func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Gateway.Name == "" || c.Gateway.Namespace == "":
		return Config{}, errors.New("the name or namespace of the Gateway is empty: a waypoint serves what is bound to one")
	case c.XDS.Address == "":
		return Config{}, errors.New("XDS.Address is empty: without a control plane nothing is served")
	case c.CA.Address == "":
		return Config{}, errors.New("CA.Address is empty: without a CA we cannot prove who we are")
	case c.Drain < 0:
		return Config{}, fmt.Errorf("drain is %v, want 0 (for 5s) or more", c.Drain)
	}
	c.Version = cmp.Or(c.Version, "dev")
	c.Node.PodNamespace = cmp.Or(c.Node.PodNamespace, c.Gateway.Namespace)
	c.Node.ServiceAccount = cmp.Or(c.Node.ServiceAccount, c.Gateway.Name)
	c.Node.ClusterID = cmp.Or(c.Node.ClusterID, "Kubernetes")
	c.Node.ClusterDomain = cmp.Or(c.Node.ClusterDomain, "cluster.local")
	c.Node.TrustDomain = cmp.Or(c.Node.TrustDomain, "cluster.local")
	c.CA.SecretTTL = cmp.Or(c.CA.SecretTTL, 24*time.Hour)
	c.Listen = cmp.Or(c.Listen, ":15008")
	c.Stats = cmp.Or(c.Stats, ":15020")
	c.Readiness = cmp.Or(c.Readiness, ":15021")
	c.Drain = cmp.Or(c.Drain, 5*time.Second)
	if _, err := identity.NewID(c.Node.TrustDomain, c.Node.PodNamespace, c.Node.ServiceAccount); err != nil {
		return Config{}, fmt.Errorf("our own identity: %w", err)
	}
	return c, nil
}

// identity is who we are. The configuration was checked.
func (c *Config) identity() identity.ID {
	id, err := identity.NewID(c.Node.TrustDomain, c.Node.PodNamespace, c.Node.ServiceAccount)
	if err != nil {
		panic(fmt.Sprintf("waypoint: identity of a checked configuration: %v", err))
	}
	return id
}
