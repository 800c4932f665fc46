package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/ambit/internal/check"
	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/ambit/internal/members"
	"github.com/ambit-mesh/ambit/ambit/internal/proxies"
	"github.com/ambit-mesh/ambit/internal/lab"
)

func newPods() *cobra.Command {
	var f clusterFlags
	var name, ip, namespace string
	var all bool
	cmd := &cobra.Command{
		Use:   "pods",
		Short: "List the pods of a mesh: state, identity, certificate, proxy, connections",
		Long: `List the pods of the mesh of a cluster, or with --name (and when no kubeconfig is
there) those of a demo that was kept.

States: enrolled (captured, and a proxy serves it), pending (captured, and no proxy
serves it: no traffic), failed (should be in the mesh, and is not), leaving (captured,
and should not be), outside (not captured, and should not be; with --all), unknown (the
agent of the demo does not tell of it).

Exit codes: 0 all pods that should be in the mesh are; 1 some are not; 2 wrong usage, or
the cluster cannot be reached.`,
		Example: `  ambit pods
  ambit pods --all --in shop
  ambit pods --ip 10.244.1.7
  sudo ambit pods --name ambit     those of ambit demo --keep`,
		GroupID: groupSee,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, _, err := f.connect()
			if cmd.Flags().Changed("name") || errors.Is(err, kube.ErrNoCluster) {
				return labPods(cmd, name, ip)
			}
			if err != nil {
				return err
			}
			keep := func(m members.Member) bool {
				return (ip == "" || m.Address == ip) && (namespace == "" || m.Namespace == namespace) &&
					(all || ip != "" || m.State != members.Outside)
			}
			return clusterPods(cmd, client, f, keep)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&name, "name", "ambit", "`NAME` of a demo that was kept, instead of a cluster")
	cmd.Flags().StringVar(&ip, "ip", "", "only the pod with this `ADDRESS`")
	cmd.Flags().StringVar(&namespace, "in", "", "only pods of this `NAMESPACE`")
	cmd.Flags().BoolVar(&all, "all", false, "those outside the mesh too, and why")
	return cmd
}

// labPods lists the pods of the demo called name.
func labPods(cmd *cobra.Command, name, ip string) error {
	state, err := standingLab(name)
	if err != nil {
		return err
	}
	pods, err := lab.Enrolled(cmd.Context(), state)
	pods = slices.DeleteFunc(pods, func(p lab.EnrolledPod) bool { return ip != "" && ip != p.Address })
	return errors.Join(writePods(cmd.OutOrStdout(), pods), err)
}

// clusterPods lists the pods of a cluster that keep takes.
func clusterPods(cmd *cobra.Command, client *kube.Client, f clusterFlags, keep func(members.Member) bool) error {
	world, err := check.Gather(cmd.Context(), client, f.namespace, version)
	if err != nil {
		return failed(err)
	}
	all, err := proxies.Read(cmd.Context(), client, f.namespace)
	if err != nil {
		return failed(err)
	}
	list := slices.DeleteFunc(members.List(world, all), func(m members.Member) bool { return !keep(m) })
	if f.json {
		err = writeJSON(cmd.OutOrStdout(), list)
	} else {
		err = writeMembers(cmd.OutOrStdout(), list, time.Now())
	}
	bad := slices.ContainsFunc(list, func(m members.Member) bool { return m.State == members.Failed || m.State == members.Pending })
	if err == nil && bad {
		return &exitError{code: exitFailed}
	}
	return err
}

// writeMembers writes the table that people read.
func writeMembers(out io.Writer, list []members.Member, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "POD\tADDRESS\tNODE\tSTATE\tIDENTITY\tCERTIFICATE\tPROXY\tIN\tOUT\tREASON")
	for _, m := range list {
		certificate := "-"
		if m.Certificate != nil {
			certificate = m.Certificate.Sub(now).Round(time.Minute).String() + " left"
			if m.Certificate.Before(now) {
				certificate = "ended"
			}
		}
		fmt.Fprintf(w, "%s/%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", m.Namespace, m.Name, cmp.Or(m.Address, "-"), cmp.Or(m.Node, "-"), m.State,
			cmp.Or(m.Identity, "-"), strings.Replace(certificate, "m0s", "m", 1), cmp.Or(m.Proxy, "-"), m.Inbound, m.Outbound, m.Reason)
	}
	return w.Flush()
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
