package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/ambit/internal/check"
	"github.com/ambit-mesh/ambit/ambit/internal/kube"
)

func newCheck() *cobra.Command {
	var f clusterFlags
	var patches, strict bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what is wrong on a cluster, where, and what to do",
		Long: `Say what is wrong on a cluster for ambit, where, and what to do about it. Before an
installation: versions of Kubernetes and kernels, other meshes that own the nodes or
namespaces, and NetworkPolicies that will keep pods of the mesh apart. After it also:
parts that do not run, agents that take no pods in, pods that should be in the mesh and
are not, policies that do not hold as written, waypoints that are asked for and missing
or not Programmed, certificates that end within 60 days.

NetworkPolicies are simulated on the pods that run: one that lets two pods talk today,
and would not on port 15008 where pods of the mesh are reached, is named with the
corrected policy.

Exit codes: 0 no errors (warnings and remarks may be); 1 errors, or with --strict
warnings; 2 wrong usage, or the cluster cannot be reached; 130 interrupted.`,
		Example: `  ambit check
  ambit check --json | jq '.findings[] | select(.level == "error")'
  ambit check --patches | kubectl apply -f -     correct the NetworkPolicies`,
		GroupID: groupCluster,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, _, err := f.connect()
			if err != nil {
				return err
			}
			report, err := examine(cmd.Context(), client, f.namespace)
			if err != nil {
				return failed(err)
			}
			if err := writeReport(cmd.OutOrStdout(), report, patches, f.json); err != nil {
				return err
			}
			if report.Count(check.Error) > 0 || strict && report.Count(check.Warning) > 0 {
				return &exitError{code: exitFailed}
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&patches, "patches", false, "write nothing but the YAML that corrects what it can")
	cmd.Flags().BoolVar(&strict, "strict", false, "warnings count as errors")
	cmd.MarkFlagsMutuallyExclusive("patches", "json")
	return cmd
}

// examine reads a cluster and makes all checks.
func examine(ctx context.Context, client *kube.Client, namespace string) (check.Report, error) {
	world, err := check.Gather(ctx, client, namespace, version)
	if err != nil {
		return check.Report{}, err
	}
	return check.Run(world, time.Now()), nil
}

// writeReport writes the report in the form that was asked for.
func writeReport(w io.Writer, report check.Report, patches, asJSON bool) error {
	if asJSON {
		return writeJSON(w, report)
	}
	if !patches {
		return report.Write(w)
	}
	for _, f := range report.Findings {
		if f.Patch == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "---\n# %s: %s\n%s", f.Where, f.What, f.Patch); err != nil {
			return err
		}
	}
	return nil
}

// preflight refuses when something is in the way of an installation.
func (f *installFlags) preflight(ctx context.Context, cmd *cobra.Command, client *kube.Client) error {
	report, err := examine(ctx, client, f.cluster.namespace)
	if err != nil {
		return err
	}
	blocking := report.Blocking()
	if len(blocking) == 0 {
		return nil
	}
	if err := check.WriteFindings(cmd.ErrOrStderr(), blocking); err != nil {
		return err
	}
	if f.force {
		return nil
	}
	return errors.New("not installed: see above (--force installs all the same)")
}
