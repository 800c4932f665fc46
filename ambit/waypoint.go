package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/ambit/internal/waypoints"
)

// defaultWaypoint is the name of a waypoint unless something else is said.
const defaultWaypoint = "waypoint"

// waypointFlags are the flags that the commands of `ambit waypoint` share. The
// namespace is that of the waypoints, not of the installation.
type waypointFlags struct{ cluster clusterFlags }

func newWaypoint() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "waypoint",
		Aliases: []string{"wp"},
		Short:   "Make waypoints for HTTP rules, remove them, see what is bound to them",
		Long: `Make waypoints, remove them, see what is bound to them. A waypoint is a Gateway of class
ambit-waypoint; what has the label istio.io/use-waypoint, or whose namespace has it, is
reached through it or not at all.

Exit codes: 0 done; 1 something is in the way, or is refused; 2 wrong usage, or the
cluster cannot be reached; 130 interrupted.`,
		GroupID: groupCluster,
	}
	cmd.AddCommand(newWaypointApply(), newWaypointDelete(), newWaypointList(), newWaypointStatus())
	return cmd
}

func newWaypointDelete() *cobra.Command {
	var f waypointFlags
	var d waypoints.Deletion
	var all bool
	cmd := &cobra.Command{
		Use:   "delete NAME... | --all",
		Short: "Remove waypoints; it refuses while something is bound to them",
		Long: `Remove waypoints of a namespace: their Gateways, and with these what was made for them.
It refuses while something is bound to them, and names it: without the waypoint its
traffic is refused, not sent around it. Gateways of others are never touched.

Exit codes: 0 removed; 1 something is in the way; 2 wrong usage, or the cluster cannot be
reached; 130 interrupted.`,
		Example: "  ambit waypoint delete waypoint --namespace shop --unenroll\n  ambit waypoint delete --all --namespace shop",
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("want names of waypoints, or --all")
			}
			return nil
		},
		ValidArgsFunction: f.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.connect()
			if err != nil {
				return err
			}
			return f.finish(cmd, deleteWaypoints(cmd.Context(), client, f.cluster.namespace, args, d, f.cluster.progress(cmd)))
		},
	}
	f.add(cmd)
	p := cmd.Flags()
	p.BoolVar(&all, "all", false, "all waypoints of the namespace")
	p.BoolVar(&d.Force, "force", false, "although something is bound to them: its traffic is refused afterwards")
	p.BoolVar(&d.Unenroll, "unenroll", false, "take the label istio.io/use-waypoint away from namespaces and services that are bound to them")
	return cmd
}

// deleteWaypoints removes those called names, or all of a namespace.
func deleteWaypoints(ctx context.Context, client *kube.Client, namespace string, names []string, d waypoints.Deletion, say func(format string, args ...any)) error {
	state, err := waypoints.Read(ctx, client)
	if err != nil {
		return err
	}
	found, err := state.Find(namespace, names)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		say("there is no waypoint in namespace %s", namespace)
	}
	return waypoints.Delete(ctx, client, found, d, say)
}

func newWaypointList() *cobra.Command {
	var f waypointFlags
	var all bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List waypoints: whether they are Programmed, and how much is bound to them",
		Example: "  ambit waypoint list -A",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			state, err := f.read(cmd.Context())
			if err != nil {
				return err
			}
			namespace := f.cluster.namespace
			if all {
				namespace = ""
			}
			list := state.List(namespace)
			if f.cluster.json {
				return writeJSON(cmd.OutOrStdout(), list)
			}
			if len(list) == 0 {
				f.cluster.progress(cmd)("%s", none(namespace))
				return nil
			}
			return writeWaypoints(cmd.OutOrStdout(), list, time.Now())
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVarP(&all, "all-namespaces", "A", false, "those of all namespaces")
	return cmd
}

func newWaypointStatus() *cobra.Command {
	var f waypointFlags
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show what became of a waypoint, its instances, what is bound and what is refused",
		Long: `Show what became of a waypoint, or of all in a namespace: its conditions, addresses,
instances and their nodes, what is bound to it, and whose traffic is refused, and why.

Exit codes: 0 all are Programmed and nothing is refused; 1 else, or there is none; 2
wrong usage, or the cluster cannot be reached.`,
		Example:           "  ambit waypoint status --namespace shop",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: f.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			state, err := f.read(cmd.Context())
			if err != nil {
				return err
			}
			list, err := state.Find(f.cluster.namespace, args)
			if err == nil && len(list) == 0 {
				err = errors.New(none(f.cluster.namespace))
			}
			if err != nil {
				return failed(err)
			}
			if f.cluster.json {
				err = writeJSON(cmd.OutOrStdout(), list)
			} else {
				err = writeWaypointStatus(cmd.OutOrStdout(), list)
			}
			if err == nil && slices.ContainsFunc(list, func(w waypoints.Waypoint) bool { return !w.Programmed || len(w.Refused()) > 0 }) {
				return &exitError{code: exitFailed}
			}
			return err
		},
	}
	f.add(cmd)
	return cmd
}

// none says that a namespace has no waypoint; with an empty name, that none has.
func none(namespace string) string {
	if namespace == "" {
		return "there is no waypoint: ambit waypoint apply makes one"
	}
	return fmt.Sprintf("there is no waypoint in namespace %s: ambit waypoint apply makes one, list -A shows those of all namespaces", namespace)
}

// add declares the flags at cmd.
func (f *waypointFlags) add(cmd *cobra.Command) {
	f.cluster.addCluster(cmd)
	cmd.Flags().StringVarP(&f.cluster.namespace, "namespace", "n", "", "`NAMESPACE` of the waypoint (default: that of the kubeconfig's context)")
	complete(cmd, "namespace", f.completeNamespaces)
}

// complete says how shells complete a flag.
func complete(cmd *cobra.Command, flag string, by cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, by); err != nil {
		panic(err) // the flag was declared above
	}
}

// connect makes the client, and fills in the namespace.
func (f *waypointFlags) connect() (*kube.Client, error) {
	client, _, err := f.cluster.connect()
	if err == nil {
		f.cluster.namespace = cmp.Or(f.cluster.namespace, client.Namespace, metav1.NamespaceDefault)
	}
	return client, err
}

// read connects, and reads what there is of waypoints.
func (f *waypointFlags) read(ctx context.Context) (*waypoints.State, error) {
	client, err := f.connect()
	if err != nil {
		return nil, err
	}
	state, err := waypoints.Read(ctx, client)
	if err != nil {
		return nil, failed(err)
	}
	return state, nil
}

// finish says how it ended.
func (f *waypointFlags) finish(cmd *cobra.Command, err error) error {
	if f.cluster.json {
		out := outcome{Action: "waypoint " + cmd.Name(), Namespace: f.cluster.namespace, OK: err == nil}
		if err != nil {
			out.Error = err.Error()
		}
		err = errors.Join(err, writeJSON(cmd.OutOrStdout(), out))
	}
	return failed(err)
}

// completeNames completes names of waypoints.
func (f *waypointFlags) completeNames(cmd *cobra.Command, have []string, _ string) ([]string, cobra.ShellCompDirective) {
	client, err := f.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	all, err := waypoints.Names(cmd.Context(), client, f.cluster.namespace)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, n := range all {
		if !slices.Contains(have, n.Name) {
			names = append(names, n.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeNamespaces completes names of namespaces.
func (f *waypointFlags) completeNamespaces(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	client, _, err := f.cluster.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	all, err := client.Kube.CoreV1().Namespaces().List(cmd.Context(), metav1.ListOptions{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for i := range all.Items {
		names = append(names, all.Items[i].Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// writeWaypoints writes the table that people read.
func writeWaypoints(out io.Writer, list []waypoints.Waypoint, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAMESPACE\tNAME\tCLASS\tFOR\tPROGRAMMED\tINSTANCES\tBOUND\tAGE")
	for _, p := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d/%d\t%s\t%s\n", p.Namespace, p.Name, p.Class, p.For, yesNo(p.Programmed), p.Ready(), p.Wanted,
			cmp.Or(waypoints.Count(p.Bound), "-"), duration.HumanDuration(now.Sub(p.Created)))
	}
	return w.Flush()
}

// writeWaypointStatus writes all there is to know, as people read it.
func writeWaypointStatus(out io.Writer, list []waypoints.Waypoint) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, p := range list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "WAYPOINT\t%s\tclass %s, for %s\n", p, p.Class, p.For)
		if p.Programmed {
			fmt.Fprintln(w, "PROGRAMMED\tyes")
		} else {
			fmt.Fprintf(w, "PROGRAMMED\tno\t%s\n", p.Reason)
		}
		for _, c := range p.Conditions {
			fmt.Fprintf(w, "CONDITION\t%s=%s\t%s: %s\n", c.Type, c.Status, c.Reason, c.Message)
		}
		if len(p.Addresses) > 0 {
			fmt.Fprintf(w, "ADDRESS\t%s\n", strings.Join(p.Addresses, ", "))
		}
		fmt.Fprintf(w, "INSTANCES\t%d/%d ready\n", p.Ready(), p.Wanted)
		for _, one := range p.Instances {
			state := "ready"
			if !one.Ready {
				state = "not ready"
			}
			fmt.Fprintf(w, "INSTANCE\t%s\t%s on %s\n", one.Pod, state, cmp.Or(one.Node, "no node"))
		}
		if len(p.Bound) == 0 {
			fmt.Fprintln(w, "BOUND\tnothing: set the label istio.io/use-waypoint on a namespace or service")
		}
		for _, b := range p.Bound {
			switch {
			case b.Refused != "":
				fmt.Fprintf(w, "REFUSED\t%s\t%s\n", b, b.Refused)
			case b.Around != "":
				fmt.Fprintf(w, "AROUND\t%s\t%s\n", b, b.Around)
			case b.Canary:
				fmt.Fprintf(w, "BOUND\t%s\tas canary, beside another waypoint\n", b)
			default:
				fmt.Fprintf(w, "BOUND\t%s\n", b)
			}
		}
	}
	return w.Flush()
}
