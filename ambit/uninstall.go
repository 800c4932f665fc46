package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/ambit/internal/install"
)

func newUninstall() *cobra.Command {
	var f installFlags
	var r install.Removal
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take ambit off a cluster; pods keep running",
		Long: `Take ambit off a cluster. The agents go first and release the pods of their nodes, while
the proxies still serve them; then the rest, and what the running parts made. Only what
is of ambit is removed. Namespaces keep their labels.

It refuses while namespaces or pods want to be in the mesh, or waypoints stand, and
names them. With --release-pods waypoints stay as they are, Gateway and instances, and
their GatewayClass with them; nobody serves them any more (ambit waypoint delete).

Exit codes: 0 removed; 1 something is in the way; 2 wrong usage, or the cluster cannot
be reached; 130 interrupted.`,
		Example: "  ambit uninstall\n  ambit uninstall --release-pods --keep-ca",
		GroupID: groupCluster,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, _, err := f.cluster.connect()
			if err != nil {
				return err
			}
			i := &install.Installer{Client: client, Namespace: f.cluster.namespace, Say: f.cluster.progress(cmd)}
			return f.finish(cmd, "uninstall", i, func(ctx context.Context) error { return i.Remove(ctx, r) })
		},
	}
	f.cluster.add(cmd)
	p := cmd.Flags()
	p.DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long to wait, `TIME`")
	p.BoolVar(&r.ReleasePods, "release-pods", false, "although namespaces or pods want to be in the mesh, or waypoints stand: what they send is not encrypted any more, and no policy for HTTP holds")
	p.BoolVar(&r.Force, "force", false, "although an agent did not release its pods, as when its node is down")
	p.BoolVar(&r.KeepCA, "keep-ca", false, "leave the key of the root certificate, so that a new installation has the same root")
	p.BoolVar(&r.Definitions, "crds", false, "remove the definitions of kinds that install made, as far as nothing is of their kind")
	return cmd
}
