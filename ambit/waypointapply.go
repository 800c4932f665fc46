package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/ambit/internal/install"
	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/ambit/internal/waypoints"
)

// waypointApplyFlags are the flags of `ambit waypoint apply`.
type waypointApplyFlags struct {
	waypointFlags
	want   waypoints.Wanted
	enroll bool
	force  bool
	wait   time.Duration // 0: not at all
	output string
}

func newWaypointApply() *cobra.Command {
	var f waypointApplyFlags
	cmd := &cobra.Command{
		Use:   "apply [NAME]",
		Short: "Make a waypoint, or change it",
		Long: `Make a waypoint, or change it: write its Gateway (default name: waypoint), of which the
control plane makes the instances. With --wait it waits until the waypoint can take
traffic, and says what is in the way.

A waypoint does nothing until something is bound to it. --enroll-namespace binds the
namespace, with --wait only once the waypoint is there: what is bound to a waypoint that
is not Programmed is refused.

Exit codes: 0 done; 1 something is in the way, or it is not Programmed in time; 2 wrong
usage, or the cluster cannot be reached; 130 interrupted.`,
		Example: `  ambit waypoint apply --namespace shop --enroll-namespace --wait
  ambit waypoint apply orders --namespace shop --for service
  ambit waypoint apply --namespace shop -o yaml     for GitOps; nothing is written`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.want.Name = defaultWaypoint
			if len(args) > 0 {
				f.want.Name = args[0]
			}
			if err := f.validate(); err != nil {
				return err
			}
			if f.output != "" {
				return f.print(cmd.OutOrStdout())
			}
			client, err := f.connect()
			if err != nil {
				return err
			}
			f.want.Namespace = f.cluster.namespace
			return f.finish(cmd, f.apply(cmd.Context(), client, f.cluster.progress(cmd)))
		},
	}
	f.add(cmd)
	p := cmd.Flags()
	p.StringVar(&f.want.For, "for", "service", "`WHAT` it serves: "+strings.Join(waypoints.Serves(), ", "))
	p.StringVar(&f.want.Class, "class", waypoints.Classes()[0], "`NAME` of its GatewayClass")
	p.BoolVar(&f.enroll, "enroll-namespace", false, "bind the namespace to it")
	p.BoolVar(&f.force, "force", false, "take over what somebody else has set in its Gateway")
	p.DurationVar(&f.wait, "wait", 0, "wait until it is Programmed, at most `TIME` (--wait alone: 2m0s)")
	p.Lookup("wait").NoOptDefVal = "2m"
	p.StringVarP(&f.output, "output", "o", "", "yaml: write nothing into the cluster, but the objects to the standard output")
	complete(cmd, "for", cobra.FixedCompletions(waypoints.Serves(), cobra.ShellCompDirectiveNoFileComp))
	complete(cmd, "class", cobra.FixedCompletions(waypoints.Classes(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// validate refuses what makes no sense, before anybody is asked.
func (f *waypointApplyFlags) validate() error {
	switch {
	case !slices.Contains(waypoints.Serves(), f.want.For):
		return fmt.Errorf("--for %s: want one of %s", f.want.For, strings.Join(waypoints.Serves(), ", "))
	case f.want.For == "none" && f.enroll:
		return fmt.Errorf("--enroll-namespace: a waypoint for none serves nothing, and what is bound to it would be refused")
	case f.wait < 0:
		return fmt.Errorf("--wait %v: want a time that is not negative", f.wait)
	case f.output != "" && f.output != "yaml":
		return fmt.Errorf("--output %s: want yaml", f.output)
	}
	return nil
}

// print writes the objects.
func (f *waypointApplyFlags) print(out io.Writer) error {
	f.want.Namespace = f.cluster.namespace
	o, err := f.want.Object()
	if err != nil {
		return err
	}
	objects := []map[string]any{o.Object}
	if f.enroll {
		if f.want.Namespace == "" {
			return fmt.Errorf("--enroll-namespace with -o yaml: say which, with --namespace")
		}
		objects = append(objects, map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{
			"name": f.want.Namespace, "labels": map[string]any{"istio.io/use-waypoint": f.want.Name},
		}})
	}
	for _, object := range objects {
		text, err := yaml.Marshal(object)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "---\n%s", text); err != nil {
			return err
		}
	}
	return nil
}

// apply writes the Gateway, waits, and binds the namespace, as far as asked.
func (f *waypointApplyFlags) apply(ctx context.Context, client *kube.Client, say func(format string, args ...any)) error {
	if err := waypoints.Apply(ctx, client, f.want, f.force); err != nil {
		return err
	}
	say("waypoint %s/%s is asked for", f.want.Namespace, f.want.Name)
	if f.wait > 0 {
		waiting, cancel := context.WithTimeoutCause(ctx, f.wait, fmt.Errorf("not done within %v", f.wait))
		defer cancel()
		i := &install.Installer{Client: client, Namespace: f.want.Namespace}
		explain := func(ctx context.Context, deployment string) string {
			return i.Why(ctx, []install.Part{{Kind: "Deployment", Name: deployment}})
		}
		if err := waypoints.Wait(waiting, client, f.want.Namespace, f.want.Name, explain, say); err != nil {
			return err
		}
	}
	if !f.enroll {
		say("bind a namespace or service to it with the label istio.io/use-waypoint=%s", f.want.Name)
		return nil
	}
	before, err := waypoints.Bind(ctx, client, f.want.Namespace, f.want.Name)
	if err != nil {
		return err
	}
	switch {
	case before != "" && before != f.want.Name:
		say("namespace %s was bound to %s, and is bound to it now", f.want.Namespace, before)
	default:
		say("namespace %s is bound to it", f.want.Namespace)
	}
	if f.wait == 0 {
		say("until it is Programmed, what is bound to it is refused: ambit waypoint status --namespace %s", f.want.Namespace)
	}
	return nil
}
