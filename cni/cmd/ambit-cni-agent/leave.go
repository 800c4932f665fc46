package main

import (
	"context"
	"os"
	"time"

	"github.com/ambit-mesh/ambit/cni"
	"github.com/spf13/cobra"
)

// leaveTimeout is how long all agents together may take to release the pods of
// their nodes: what the kubelets give each of them (60 s in the chart), and time
// for a node that is slow to begin.
const leaveTimeout = 3 * time.Minute

// leaveCommand is for the Job by which Helm removes the mesh.
func leaveCommand() *cobra.Command {
	var c cni.Cluster
	var within time.Duration
	cmd := &cobra.Command{
		Use:   "leave --daemonset NAME",
		Short: "ends the agents of all nodes, which release their pods, and waits for that",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), within)
			defer cancel()
			return cni.Leave(ctx, c)
		},
	}
	p := cmd.Flags()
	p.StringVar(&c.DaemonSet, "daemonset", "", "`NAME` of the agents' DaemonSet")
	p.StringVar(&c.Namespace, "namespace", os.Getenv("POD_NAMESPACE"), "`NAME` of its namespace (default: POD_NAMESPACE)")
	p.StringVar(&c.Kubeconfig, "kubeconfig", "", "`FILE` that names the cluster (default: the one that we run in)")
	p.DurationVar(&within, "timeout", leaveTimeout, "`TIME` that all of it may take")
	return cmd
}
