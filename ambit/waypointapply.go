package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/ambit/internal/install"
	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/ambit/internal/waypoints"
)

// waypointApplyFlags are the flags of `ambit waypoint apply`.
type waypointApplyFlags struct {
	waypointFlags
	want   waypoints.Wanted
	enroll bool     // its own namespace
	bind   []string // what else, as given
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
namespace, --enroll one service or another namespace, with --wait only once the waypoint
is there: what is bound to a waypoint that is not Programmed is refused. A waypoint serves
its own namespace; --allow-namespaces says which others may be bound to it.

Exit codes: 0 done; 1 something is in the way, or it is not Programmed in time; 2 wrong
usage, or the cluster cannot be reached; 130 interrupted.`,
		Example: `  ambit waypoint apply --namespace shop --enroll-namespace --wait
  ambit waypoint apply orders --namespace shop --enroll service/orders --wait
  ambit waypoint apply --namespace infra --allow-namespaces shop,bank --enroll namespace/shop
  ambit waypoint apply --namespace shop -o yaml     for GitOps; nothing is written`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.want.Name = defaultWaypoint
			if len(args) > 0 {
				f.want.Name = args[0]
			}
			if _, err := time.ParseDuration(f.want.Name); err == nil && cmd.Flags().Changed("wait") {
				return fmt.Errorf("%s stands where the name of the waypoint goes: a time is joined with =, --wait=%s", f.want.Name, f.want.Name)
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
	p.StringArrayVar(&f.bind, "enroll", nil, "bind `WHAT` to it: namespace/NAME, service/NAME or service/NAMESPACE/NAME; several times")
	p.StringSliceVar(&f.want.Allowed, "allow-namespaces", nil, "`NAMES` of namespaces, beside its own, that may be bound to it, with commas; or all")
	p.BoolVar(&f.force, "force", false, "take over what somebody else has set in its Gateway")
	p.DurationVar(&f.wait, "wait", 0, "wait until it is Programmed, at most `TIME` (--wait alone: 2m0s)")
	p.Lookup("wait").NoOptDefVal = "2m"
	p.StringVarP(&f.output, "output", "o", "", "yaml: write nothing into the cluster, but the objects to the standard output")
	complete(cmd, "for", cobra.FixedCompletions(waypoints.Serves(), cobra.ShellCompDirectiveNoFileComp))
	complete(cmd, "allow-namespaces", f.completeNamespaces)
	complete(cmd, "class", cobra.FixedCompletions(waypoints.Classes(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// validate refuses what makes no sense, before anybody is asked.
func (f *waypointApplyFlags) validate() error {
	switch {
	case !slices.Contains(waypoints.Serves(), f.want.For):
		return fmt.Errorf("--for %s: want one of %s", f.want.For, strings.Join(waypoints.Serves(), ", "))
	case f.want.For == "none" && (f.enroll || len(f.bind) > 0):
		return fmt.Errorf("--enroll: a waypoint for none serves nothing, and what is bound to it would be refused")
	case f.wait < 0:
		return fmt.Errorf("--wait %v: want a time that is not negative", f.wait)
	case f.output != "" && f.output != "yaml":
		return fmt.Errorf("--output %s: want yaml", f.output)
	case slices.Contains(f.want.Allowed, waypoints.AllNamespaces) && len(f.want.Allowed) > 1:
		return fmt.Errorf("--allow-namespaces: want all, or names")
	}
	if problems := validation.IsDNS1123Subdomain(f.want.Name); len(problems) > 0 {
		return fmt.Errorf("%q is no name of a waypoint: %s", f.want.Name, problems[0])
	}
	for _, name := range f.want.Allowed {
		if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
			return fmt.Errorf("--allow-namespaces: %q is no name of a namespace: %s", name, problems[0])
		}
	}
	for _, text := range f.bind {
		if _, err := waypoints.ParseSubject(text, "any"); err != nil {
			return fmt.Errorf("--enroll %w", err)
		}
	}
	return nil
}

// subjects is what is to be bound. The namespace of the waypoint is known.
func (f *waypointApplyFlags) subjects() ([]waypoints.Subject, error) {
	var all []waypoints.Subject
	if f.enroll {
		all = append(all, waypoints.Subject{Namespace: f.want.Namespace})
	}
	for _, text := range f.bind {
		s, err := waypoints.ParseSubject(text, f.want.Namespace)
		if err != nil {
			return nil, fmt.Errorf("--enroll %w", err)
		}
		if !f.want.Allows(s.Namespace) {
			return nil, fmt.Errorf("--enroll %s: namespace %s may not be bound to it, say --allow-namespaces %s", text, s.Namespace, s.Namespace)
		}
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all, nil
}

// print writes the objects.
func (f *waypointApplyFlags) print(out io.Writer) error {
	f.want.Namespace = f.cluster.namespace
	o, err := f.want.Object()
	if err != nil {
		return err
	}
	objects := []map[string]any{o.Object}
	if f.want.Namespace == "" && (f.enroll || len(f.bind) > 0 || len(f.want.Allowed) > 0) {
		return fmt.Errorf("with -o yaml say which namespace the waypoint is in, with --namespace")
	}
	subjects, err := f.subjects()
	if err != nil {
		return err
	}
	for _, s := range subjects {
		if s.Service != "" {
			return fmt.Errorf("--enroll %s with -o yaml: its manifest is yours, add the label istio.io/use-waypoint: %s", s, f.want.Name)
		}
		labels := s.Labels(f.want.Key())
		maps.DeleteFunc(labels, func(_ string, value any) bool { return value == nil })
		objects = append(objects, map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": s.Namespace, "labels": labels}})
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

// apply writes the Gateway, waits, and binds, as far as asked.
func (f *waypointApplyFlags) apply(ctx context.Context, client *kube.Client, say func(format string, args ...any)) error {
	subjects, err := f.subjects()
	if err != nil {
		return err
	}
	for _, s := range subjects {
		if err := s.Check(ctx, client); err != nil {
			return err
		}
	}
	if other := (waypoints.Subject{Namespace: f.want.Name}); f.enroll && f.want.Name != f.want.Namespace && other.Check(ctx, client) == nil {
		return fmt.Errorf("there is a %v, and %s stands where the name of the waypoint goes: --enroll-namespace binds the namespace of --namespace, --enroll namespace/%s another", other, f.want.Name, f.want.Name)
	}
	if err := waypoints.Apply(ctx, client, f.want, f.force); err != nil {
		return err
	}
	say("waypoint %v is asked for", f.want.Key())
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
	for _, s := range subjects {
		before, err := waypoints.Bind(ctx, client, s, f.want.Key())
		switch {
		case err != nil:
			return err
		case before != (waypoints.Name{}) && before != f.want.Key():
			say("%v was bound to %v, and is bound to it now", s, before)
		default:
			say("%v is bound to it", s)
		}
	}
	switch {
	case len(subjects) == 0:
		say("nothing is bound to it by this command: --enroll-namespace or --enroll does, and so do labels istio.io/use-waypoint=%s", f.want.Name)
	case f.wait == 0:
		say("until it is Programmed, what is bound to it is refused: ambit waypoint status --namespace %s", f.want.Namespace)
	}
	return nil
}
