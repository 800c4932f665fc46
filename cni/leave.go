package cni

import (
	"context"
	"errors"
	"fmt"

	"github.com/ambit-mesh/ambit/cni/kube"
)

// Leave has the mesh leave all nodes of a cluster: the DaemonSet of the agents is
// deleted, and Leave waits until every one of them has released its pods and has
// ended. It is for those who remove the agents' rights after that.
func Leave(ctx context.Context, c Cluster) error {
	if c.DaemonSet == "" || c.Namespace == "" {
		return errors.New("want the name and the namespace of the agents' DaemonSet")
	}
	client, err := kube.Connect(c.Kubeconfig)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return kube.EndAgents(ctx, client, c.Namespace, c.DaemonSet)
}
