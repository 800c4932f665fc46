package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/internal/lab"
)

func newPods() *cobra.Command {
	var name, ip string
	cmd := &cobra.Command{
		Use:   "pods",
		Short: "List the pods of the standing demo, and what the agents of their nodes say of them",
		Long: `List the pods of the standing demo. State and identity are what the agent of each
node says now: enrolled (captured, and ztunnel serves it), pending (captured, and
ztunnel does not: no traffic), outside (not captured, and should not be), failed
(not captured, and should be), unknown (the agent does not tell of it).`,
		Example: "  sudo ambit pods\n  sudo ambit pods --ip 10.77.1.2",
		GroupID: groupSee,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			state, err := standingLab(name)
			if err != nil {
				return err
			}
			pods, err := lab.Enrolled(cmd.Context(), state)
			pods = slices.DeleteFunc(pods, func(p lab.EnrolledPod) bool { return ip != "" && ip != p.Address })
			return errors.Join(writePods(cmd.OutOrStdout(), pods), err)
		},
	}
	cmd.Flags().StringVar(&name, "name", "ambit", "name of the lab")
	cmd.Flags().StringVar(&ip, "ip", "", "only the pod with this address")
	return cmd
}

// writePods writes the table that people read.
func writePods(out io.Writer, pods []lab.EnrolledPod) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "POD\tADDRESS\tNODE\tSTATE\tIDENTITY\tNETWORK NAMESPACE\tREASON")
	for _, p := range pods {
		fmt.Fprintf(w, "%s/%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Namespace, p.Name, p.Address, p.Node, p.State, cmp.Or(p.Identity, "-"), p.NetNS, p.Reason)
	}
	return w.Flush()
}

// standingLab reads the state of a lab that was kept.
func standingLab(name string) (lab.State, error) {
	state, err := lab.ReadState(lab.DefaultDir(name))
	if errors.Is(err, fs.ErrNotExist) {
		return lab.State{}, errors.New("no mesh stands on this machine: build one with `ambit demo --keep`")
	}
	return state, err
}
