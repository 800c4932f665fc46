package main

import (
	"errors"
	"fmt"
	"io/fs"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/internal/lab"
)

func newPods() *cobra.Command {
	var name, ip string
	cmd := &cobra.Command{
		Use:     "pods",
		Short:   "List the pods of the standing demo",
		Example: "  sudo ambit pods\n  sudo ambit pods --ip 10.77.1.2",
		GroupID: groupSee,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			state, err := standingLab(name)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "POD\tADDRESS\tNODE\tIN THE MESH\tNETWORK NAMESPACE")
			for _, p := range state.Pods {
				if ip == "" || ip == p.Address {
					fmt.Fprintf(w, "%s/%s\t%s\t%s\t%s\t%s\n", p.Namespace, p.Name, p.Address, p.Node, yesNo(p.Mesh), p.NetNS)
				}
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVar(&name, "name", "ambit", "name of the lab")
	cmd.Flags().StringVar(&ip, "ip", "", "only the pod with this address")
	return cmd
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// standingLab reads the state of a lab that was kept.
func standingLab(name string) (lab.State, error) {
	state, err := lab.ReadState(lab.DefaultDir(name))
	if errors.Is(err, fs.ErrNotExist) {
		return lab.State{}, errors.New("no mesh stands on this machine: build one with `ambit demo --keep`")
	}
	return state, err
}
