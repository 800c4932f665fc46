package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/perf/load"
	"github.com/ambit-mesh/ambit/perf/peer"
	"github.com/ambit-mesh/ambit/perf/report"
	"github.com/ambit-mesh/ambit/perf/scenario"
)

// perfFlags are the flags of `ambit perf`.
type perfFlags struct {
	binDir  string
	ztunnel string
	envoy   string
	plan    string
	reps    int
	window  time.Duration
	only    []string
	env     []string
	rest    time.Duration
	out     string
	html    string
	list    bool
}

func newPerf() *cobra.Command {
	var flags perfFlags
	cmd := &cobra.Command{
		Use:   "perf",
		Short: "Measure the mesh on this machine, beside another ztunnel and beside none",
		Long: `Build a mesh of two nodes per variant on this machine, let the variants take turns
under the same load, and write a table with ratios: no mesh, ours, and with
--ztunnel another one in our place. It needs Linux and root; a machine that does
nothing else gives better figures, and the table says what others took.

Exit codes: 0 measured; 2 it could not run; 130 interrupted.`,
		Example: `  sudo ambit perf --plan quick
  sudo ambit perf --ztunnel /path/to/ztunnel --out after.json
  sudo ambit perf --only across/bulk,across/most
  ambit perf compare before.json after.json`,
		GroupID: groupSee,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runPerf(cmd, flags) },
	}
	cmd.Flags().StringVar(&flags.binDir, "bin-dir", "", "directory of ztunnel, waypoint, istiod-lite and the CNI plugins (default: that of ambit)")
	cmd.Flags().StringVar(&flags.ztunnel, "ztunnel", "", "path of another ztunnel to measure in our place")
	cmd.Flags().StringVar(&flags.envoy, "envoy", "", "path of an Envoy to measure in the place of our waypoint")
	cmd.Flags().StringVar(&flags.plan, "plan", "full", "quick (under 3 minutes), full (under 15) or long")
	cmd.Flags().IntVar(&flags.reps, "repetitions", 0, "how often each case runs (default: what the plan says)")
	cmd.Flags().DurationVar(&flags.window, "window", 0, "how long each sample is (default: what the plan says)")
	cmd.Flags().StringSliceVar(&flags.only, "only", nil, "beginnings of names of cases")
	cmd.Flags().StringArrayVar(&flags.env, "env", nil, "NAME=VALUE for our ztunnels, to try a setting")
	cmd.Flags().DurationVar(&flags.rest, "rest", 0, "how long memory is left alone after load has gone (default: what the plan says)")
	cmd.Flags().StringVar(&flags.html, "html", "", "write the report as a page with plots")
	cmd.Flags().StringVar(&flags.out, "out", "", "write the report, with all samples, as JSON")
	cmd.Flags().BoolVar(&flags.list, "list", false, "only list the cases")
	cmd.AddCommand(newPerfCompare(), newPerfShow(), newPerfWireGuard())
	return cmd
}

// runPerf measures, and shows the figures.
func runPerf(cmd *cobra.Command, flags perfFlags) error {
	plan, err := scenario.PlanNamed(flags.plan)
	if err != nil {
		return err
	}
	if flags.list {
		return listCases(cmd, plan)
	}
	if flags.reps > 0 {
		plan.Repetitions = flags.reps
	}
	if flags.window > 0 {
		plan.Window = flags.window
	}
	if flags.rest > 0 {
		plan.Rest = flags.rest
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if flags.binDir == "" {
		flags.binDir = filepath.Dir(self)
	}
	if flags.binDir, err = filepath.Abs(flags.binDir); err != nil {
		return err
	}
	for _, kv := range flags.env {
		if !strings.Contains(kv, "=") {
			return fmt.Errorf("--env %q: want NAME=VALUE", kv)
		}
	}
	if err := lab.Preflight(); err != nil {
		return err
	}
	r, err := scenario.Run(cmd.Context(), scenario.Config{
		BinDir: flags.binDir, Ztunnel: flags.ztunnel, Envoy: flags.envoy, App: []string{self, "perf-load"}, WireGuard: []string{self, "perf", "wireguard"},
		Plan: plan, Only: flags.only, OursEnv: flags.env,
		Progress: func(what string) { fmt.Fprintln(cmd.ErrOrStderr(), "  "+what) },
	})
	if err != nil {
		return err
	}
	if flags.out != "" {
		if err := r.Write(flags.out); err != nil {
			return err
		}
	}
	return showReport(cmd, r, flags.html)
}

// showReport writes the table, and the page when it has a name.
func showReport(cmd *cobra.Command, r *report.Report, page string) error {
	if page != "" {
		if err := r.WritePage(page); err != nil {
			return err
		}
	}
	return r.Table(cmd.OutOrStdout())
}

func listCases(cmd *cobra.Command, plan report.Plan) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, c := range scenario.List(plan) {
		fmt.Fprintf(w, "%s\t%s\n", c[0], c[1])
	}
	return w.Flush()
}

func newPerfShow() *cobra.Command {
	page := ""
	cmd := &cobra.Command{
		Use:   "show REPORT.json",
		Short: "Show the table of an earlier run, or make its page",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := report.Read(args[0])
			if err != nil {
				return err
			}
			return showReport(cmd, r, page)
		},
	}
	cmd.Flags().StringVar(&page, "html", "", "write the report as a page with plots")
	return cmd
}

func newPerfCompare() *cobra.Command {
	return &cobra.Command{
		Use:   "compare BEFORE.json AFTER.json",
		Short: "Say what has changed between two runs of ours, beyond noise",
		Long: `Say what has changed between two runs of ours. Where both have measured another
ztunnel, or no mesh, ours is compared relative to that: a machine that is slower
today is slower for all. A change counts when it is more than 3 % and the 95 %
intervals of both runs do not meet.

Exit codes: 0 nothing is worse; 1 something is; 2 a report cannot be read.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			before, err1 := report.Read(args[0])
			after, err2 := report.Read(args[1])
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			worse, err := report.WriteChanges(cmd.OutOrStdout(), before, after, report.Compare(before, after))
			if err == nil && worse > 0 {
				err = &exitError{code: exitFailed}
			}
			return err
		},
	}
}

// newPerfLoad is the command that runs in the pods of what is measured. It is
// hidden: a person has no use for it.
func newPerfLoad() *cobra.Command {
	cfg := load.Config{TunePorts: true}
	cmd := &cobra.Command{
		Use:    "perf-load",
		Short:  "Run the generators of load in a pod",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(cmd *cobra.Command, _ []string) error { return load.Run(cmd.Context(), cfg) },
	}
	cmd.Flags().StringVar(&cfg.Control, "control", "", "path of the Unix socket that takes orders")
	cmd.Flags().String("pod", "", "namespace/name of the pod, for those who look at processes")
	return cmd
}

// newPerfWireGuard is WireGuard in a program, on a node of what is measured. It is
// hidden like newPerfLoad.
func newPerfWireGuard() *cobra.Command {
	ifName := ""
	cmd := &cobra.Command{
		Use:    "wireguard",
		Short:  "Run WireGuard on a node",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return peer.RunWireGuard(cmd.Context(), ifName, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&ifName, "interface", "", "name of the interface to make")
	return cmd
}
