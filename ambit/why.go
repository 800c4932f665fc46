package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/ambit/internal/why"
	"github.com/ambit-mesh/ambit/internal/lab"
)

func newWhy() *cobra.Command {
	var f clusterFlags
	var name string
	cmd := &cobra.Command{
		Use:   "why SOURCE DESTINATION",
		Short: "Say what became of connections between two pods, and which rule decided",
		Long: `Say what became of connections between two pods of a cluster, or with --name (and
when no kubeconfig is there) of a demo that was kept: are both in the mesh, who are
they, how did the connection travel, who was proven to be at the other side, which rule
let it in or refused it, at which stage and by whose fault it ended. Of a destination
behind a waypoint it says whether calls are refused because that is missing or not
ready, or because they came around it.

SOURCE and DESTINATION are namespace/name of a pod, or an address. DESTINATION can also
be namespace/name of a service, or a host name.

The ztunnel of each node remembers what is open and the last connections that have
ended. It is asked through the API server, which takes the right to create
pods/portforward in the namespace of the installation.`,
		Example: `  ambit why shop/web-7d9f bank/ledger-0
  ambit why shop/web-7d9f bank/ledger          a service
  ambit why 10.244.1.7 api.example.com
  sudo ambit why --name ambit shop/web bank/ledger`,
		GroupID: groupSee,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, _, err := f.connect()
			if cmd.Flags().Changed("name") || errors.Is(err, kube.ErrNoCluster) {
				return labWhy(cmd, name, args)
			}
			if err != nil {
				return err
			}
			report, err := why.Ask(cmd.Context(), client, f.namespace, args[0], args[1])
			if err != nil {
				return failed(err)
			}
			if f.json {
				return writeJSON(cmd.OutOrStdout(), report)
			}
			return report.Tell(cmd.OutOrStdout())
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&name, "name", "ambit", "`NAME` of a demo that was kept, instead of a cluster")
	return cmd
}

// labWhy says it of the demo called name.
func labWhy(cmd *cobra.Command, name string, args []string) error {
	state, err := standingLab(name)
	if err != nil {
		return err
	}
	text, err := lab.Why(state, args[0], args[1])
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), text)
	return err
}
