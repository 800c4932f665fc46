package istiodlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/ambit-mesh/ambit/istiod-lite/ca"
	"github.com/ambit-mesh/ambit/istiod-lite/gateways"
	"github.com/ambit-mesh/ambit/istiod-lite/keeper"
	"github.com/ambit-mesh/ambit/istiod-lite/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
	"github.com/ambit-mesh/ambit/istiod-lite/status"
)

// Cluster is a world of objects. The zero Cluster is the one that the process runs
// in.
type Cluster struct {
	// Kubeconfig is a file. Empty: the cluster that the process runs in.
	Kubeconfig string
	// Namespace is that of the installation. Empty: that of the process' pod.
	Namespace string
	// Identity tells this replica from the others. Empty: the name of the host,
	// which is that of the pod.
	Identity string
	// NodeAccounts are the service accounts, as namespace/name, whose pods ask for
	// the certificates of their node's pods. Empty: ztunnel of the namespace.
	NodeAccounts []string
	// Taint is the key of the taint that goes when a node's CNI agent is Ready.
	// Empty: none goes.
	Taint string
	// AgentLabel and AgentValue select the pods of that agent. Empty means
	// k8s-app=ambit-cni-node.
	AgentLabel, AgentValue string
	// Waypoints are what the waypoints of Gateways are made with. Without an image none
	// are made.
	Waypoints gateways.Settings
	// Discovery is where waypoints find this control plane: https://host:port. Empty:
	// port 15012 of the Service istiod of the namespace.
	Discovery string
	// Lease is how long other replicas wait for a leader that says nothing. Zero
	// means 15 s.
	Lease time.Duration
}

// withDefaults returns the configuration that is in force.
func (c Cluster) withDefaults() (Cluster, error) {
	c.Namespace = cmp.Or(c.Namespace, kube.OwnNamespace())
	if c.Namespace == "" {
		return c, errors.New("which namespace is the installation's? Outside of a cluster say it by --namespace")
	}
	if c.Identity == "" {
		host, err := os.Hostname()
		if err != nil {
			return c, err
		}
		c.Identity = host
	}
	if c.Discovery == "" {
		c.Discovery = "https://istiod." + c.Namespace + ".svc:15012"
	}
	if len(c.NodeAccounts) == 0 {
		c.NodeAccounts = []string{c.Namespace + "/ztunnel"}
	}
	return c, nil
}

// ParseWaypoints reads what waypoints are made with: JSON.
func ParseWaypoints(text string) (gateways.Settings, error) { return gateways.ParseSettings(text) }

// inCluster connects the parts to an API server. It starts nothing.
func inCluster(cfg Config, w *world, deps Deps) (*surroundings, error) {
	cluster := cfg.Cluster
	client, err := kube.Connect(kube.Config{Kubeconfig: cluster.Kubeconfig, UserAgent: "istiod-lite/" + cfg.Version})
	if err != nil {
		return nil, err
	}
	authority, err := ca.New(ca.Config{TrustDomain: cfg.Model.TrustDomain}, deps.Log)
	if err != nil {
		return nil, err
	}
	source := kube.NewSource(client, cfg.Model.RootNamespace, deps.Log)
	makes := gateways.New(gateways.Config{Settings: cluster.Waypoints, Mesh: gateways.Mesh{
		Discovery: cluster.Discovery, ClusterID: cmp.Or(cfg.Model.ClusterID, "Kubernetes"), ClusterDomain: cmp.Or(cfg.Model.ClusterDomain, "cluster.local"),
		TrustDomain: cfg.Model.TrustDomain, Network: cfg.Model.Network,
	}}, gateways.Deps{Client: client, Version: source.Version, World: w, Log: deps.Log, Metrics: deps.Metrics})
	keep := keeper.New(keeper.Config{
		Namespace: cluster.Namespace, Identity: cluster.Identity, Lease: cluster.Lease,
		Taint: cluster.Taint, AgentLabel: cluster.AgentLabel, AgentValue: cluster.AgentValue,
	}, keeper.Deps{
		Client: client, Version: source.Version, World: w, Authority: authority, Beside: makes.Lead, Log: deps.Log, Metrics: deps.Metrics,
	})
	w.live, w.notice = client.PodsOn, append(w.notice, keep.Notice, makes.Notice)
	promauto.With(deps.Metrics).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ambit_kube_unreadable",
		Help: "Kinds of objects that could not be read from the API server when it was tried last.",
	}, func() float64 { return float64(source.Unreadable()) })
	return &surroundings{
		reads:     "the API server, as of namespace " + cluster.Namespace,
		authority: authority,
		auth: ca.NewAccounts(ca.AccountsConfig{TrustDomain: cfg.Model.TrustDomain, NodeAccounts: cluster.NodeAccounts},
			clusterOf{client, w}),
		source: source,
		waits:  source.Check,
		sections: []status.Section{
			{Name: "cluster", Fn: func() any { return source.Report() }},
			{Name: "leader", Fn: func() any { return keep.Status() }},
			{Name: "waypoints", Fn: func() any { return makes.Status() }},
		},
		parts: map[string]func(context.Context) error{"keeper": keep.Run},
	}, nil
}

// clusterOf answers what the certificate authority asks about callers.
type clusterOf struct {
	client *kube.Client
	world  *world
}

var _ ca.Cluster = clusterOf{}

// Review implements [ca.Cluster].
func (c clusterOf) Review(ctx context.Context, token string) (ca.Holder, error) {
	h, err := c.client.Review(ctx, token, ca.Audience)
	if err != nil && !errors.Is(err, kube.ErrNotAuthenticated) {
		err = fmt.Errorf("%w: %w", ca.ErrUndecided, err)
	}
	return ca.Holder(h), err
}

// PodNamed implements [ca.Cluster].
func (c clusterOf) PodNamed(ctx context.Context, namespace, name string, fresh bool) (ca.Pod, bool, error) {
	if fresh {
		pod, err := c.client.Pod(ctx, namespace, name)
		if err != nil || pod == nil || model.HasEnded(pod) {
			return ca.Pod{}, false, err
		}
		return podOf(pod), true, nil
	}
	pod := c.world.Pod(namespace, name)
	if pod == nil || model.HasEnded(pod) {
		return ca.Pod{}, false, nil
	}
	return podOf(pod), true, nil
}
