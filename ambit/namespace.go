package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/ambit/internal/check"
	"github.com/ambit-mesh/ambit/ambit/internal/install"
	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/ambit/internal/members"
)

// namespaceFlags are the flags of `ambit namespace add` and `remove`.
type namespaceFlags struct {
	cluster clusterFlags
	force   bool
	noWait  bool
	timeout time.Duration
}

func newNamespace() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "namespace",
		Aliases: []string{"ns"},
		Short:   "Take namespaces into the mesh, let them go, list them",
		Long: `Take namespaces into the mesh, let them go, list them. What decides is the label
istio.io/dataplane-mode=ambient of the namespace; pods join and leave while they run.

Exit codes: 0 done; 1 something is in the way, or pods do not join; 2 wrong usage, or
the cluster cannot be reached; 130 interrupted.`,
		GroupID: groupCluster,
	}
	cmd.AddCommand(newNamespaceAdd(), newNamespaceRemove(), newNamespaceList())
	return cmd
}

func newNamespaceAdd() *cobra.Command {
	var f namespaceFlags
	cmd := &cobra.Command{
		Use:   "add NAMESPACE...",
		Short: "Take namespaces into the mesh, without a restart of their pods",
		Long: `Take namespaces into the mesh: check what that would break (a NetworkPolicy without
port 15008, sidecars of another mesh), set the label, wait until all pods have joined.`,
		Example: "  ambit namespace add shop",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.each(cmd, args, func(ctx context.Context, client *kube.Client, name string) error {
				return f.addOne(ctx, cmd, client, name)
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.force, "force", false, "although something would break")
	return cmd
}

func newNamespaceRemove() *cobra.Command {
	var f namespaceFlags
	cmd := &cobra.Command{
		Use:     "remove NAMESPACE...",
		Short:   "Let namespaces go; their pods keep running, what they send is not encrypted any more",
		Example: "  ambit namespace remove shop",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.each(cmd, args, func(ctx context.Context, client *kube.Client, name string) error {
				if err := members.SetMode(ctx, client, name, ""); err != nil || f.noWait {
					return err
				}
				return members.Settle(ctx, client, name, f.cluster.namespace, f.cluster.progress(cmd))
			})
		},
	}
	f.add(cmd)
	return cmd
}

func newNamespaceList() *cobra.Command {
	var f clusterFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List namespaces: how many of their pods are in the mesh",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, _, err := f.connect()
			if err != nil {
				return err
			}
			world, err := check.Gather(cmd.Context(), client, f.namespace, version)
			if err != nil {
				return failed(err)
			}
			list := members.Namespaces(world)
			if f.json {
				return writeJSON(cmd.OutOrStdout(), list)
			}
			return writeNamespaces(cmd.OutOrStdout(), list)
		},
	}
	f.add(cmd)
	return cmd
}

// add declares the flags that both have.
func (f *namespaceFlags) add(cmd *cobra.Command) {
	f.cluster.add(cmd)
	cmd.Flags().BoolVar(&f.noWait, "no-wait", false, "do not wait until the pods have joined or left")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 2*time.Minute, "how long to wait, `TIME`")
}

// each does work for each namespace, within the timeout.
func (f *namespaceFlags) each(cmd *cobra.Command, names []string, work func(ctx context.Context, client *kube.Client, name string) error) error {
	client, _, err := f.cluster.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(cmd.Context(), f.timeout, fmt.Errorf("not done within %v", f.timeout))
	defer cancel()
	var problems []error
	for _, name := range names {
		if err := work(ctx, client, name); err != nil {
			problems = append(problems, err)
		}
	}
	if f.cluster.json {
		out := outcome{Action: cmd.Name(), Namespace: f.cluster.namespace, OK: len(problems) == 0}
		if err := errors.Join(problems...); err != nil {
			out.Error = err.Error()
		}
		problems = append(problems, writeJSON(cmd.OutOrStdout(), out))
	}
	return failed(errors.Join(problems...))
}

// addOne takes one namespace in.
func (f *namespaceFlags) addOne(ctx context.Context, cmd *cobra.Command, client *kube.Client, name string) error {
	world, err := check.Gather(ctx, client, f.cluster.namespace, version)
	if err != nil {
		return err
	}
	if world.Inventory == nil && !f.force {
		return fmt.Errorf("ambit is not installed in %s: ambit install first (--namespace says where)", f.cluster.namespace)
	}
	then, err := members.With(world, name)
	if err != nil {
		return err
	}
	obstacles := members.Obstacles(world, then, time.Now())
	if err := check.WriteFindings(cmd.ErrOrStderr(), obstacles); err != nil {
		return err
	}
	for _, o := range obstacles {
		if o.Level == check.Error && !f.force {
			return fmt.Errorf("namespace %s stays outside: see above (--force takes it in all the same)", name)
		}
	}
	if err := members.SetMode(ctx, client, name, install.ModeAmbient); err != nil || f.noWait {
		return err
	}
	return members.Settle(ctx, client, name, f.cluster.namespace, f.cluster.progress(cmd))
}

// writeNamespaces writes the table that people read.
func writeNamespaces(out io.Writer, list []members.Namespace) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAMESPACE\tMODE\tPODS\tIN MESH\tMISSING\tNOTE")
	for _, ns := range list {
		mode := ns.Mode
		if mode == "" {
			mode = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\n", ns.Name, mode, ns.Pods, ns.InMesh, ns.Missing, ns.Note)
	}
	return w.Flush()
}
