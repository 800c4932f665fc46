package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/ambit/internal/proxies"
	"github.com/ambit-mesh/ambit/internal/lab"
)

func newWhy() *cobra.Command {
	var f clusterFlags
	var name string
	cmd := &cobra.Command{
		Use:   "why SOURCE DESTINATION",
		Short: "Say what became of connections between two pods, and which rule decided",
		Long: `Say what became of the last connections between two pods of a cluster, or with --name
(and when no kubeconfig is there) of a demo that was kept: how they travelled, who the
other side was proven to be, which rule let them in or refused them, at which stage and
by whose fault they ended.

SOURCE and DESTINATION are namespace/name or an address.`,
		Example: "  ambit why shop/web bank/ledger\n  sudo ambit why shop/web bank/ledger --name ambit",
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
			sides, err := proxies.Why(cmd.Context(), client, f.namespace, args[0], args[1])
			if err != nil {
				return failed(err)
			}
			if f.json {
				return writeJSON(cmd.OutOrStdout(), sides)
			}
			return writeWhy(cmd.OutOrStdout(), sides, args)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&name, "name", "ambit", "`NAME` of a demo that was kept, instead of a cluster")
	return cmd
}

// labWhy asks the demo called name.
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

// writeWhy writes what people read.
func writeWhy(w io.Writer, sides []proxies.Side, args []string) error {
	for _, s := range sides {
		if _, err := fmt.Fprintf(w, "%s (%s, %s):\n", s.Says, s.Node, s.Direction); err != nil {
			return err
		}
		if s.Problem != "" {
			fmt.Fprintln(w, "  "+s.Problem)
		} else if len(s.Connections) == 0 {
			fmt.Fprintf(w, "  no connection from %s to %s has been seen here: is the pod in the mesh (ambit pods)?\n", args[0], args[1])
		}
		for _, c := range s.Connections {
			fmt.Fprintln(w, "  "+c.String())
		}
	}
	return nil
}
