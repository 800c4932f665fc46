package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lab/demo"
)

// demoFlags are the flags of `ambit demo`.
type demoFlags struct {
	name   string
	binDir string
	broken string
	peer   string // another ztunnel
	keep   bool
	json   bool
}

func newDemo() *cobra.Command {
	var flags demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Build a mesh on this machine and show what it does",
		Long: `Build a mesh of two nodes and eight pods out of network namespaces, with the
programs that a cluster runs, and show one line per promise, with the evidence.
Everything is removed at the end. It needs Linux and root, and no Kubernetes.

--break=FAULT sabotages the mesh first and runs the one line that must notice:
it should be red. --break=all does that for every fault on one standing mesh and
passes when each line was red for the right reason, and green again after repair.
--break=list names the faults.

Exit codes: 0 all passed; 1 a line failed; 2 it could not run; 130 interrupted.`,
		Example: `  sudo ambit demo
  sudo ambit demo --keep
  sudo ambit demo --break=policy-ignored
  sudo ambit demo clean`,
		GroupID: groupSee,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case flags.broken == "list":
				return listFaults(cmd.OutOrStdout())
			case flags.peer != "":
				return runInterop(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), flags)
			}
			return runDemo(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), flags)
		},
	}
	cmd.PersistentFlags().StringVar(&flags.name, "name", "ambit", "prefix of all that is made; labs of different names stand side by side")
	cmd.Flags().StringVar(&flags.binDir, "bin-dir", "", "directory of ztunnel, istiod-lite and the CNI plugins (default: that of ambit)")
	cmd.Flags().StringVar(&flags.broken, "break", "", "sabotage the mesh: a fault, all, or list")
	cmd.Flags().BoolVar(&flags.keep, "keep", false, "leave the mesh standing and say how to look around")
	cmd.Flags().BoolVar(&flags.json, "json", false, "write the results as JSON")
	cmd.Flags().StringVar(&flags.peer, "interop", "", "path of another ztunnel, to put in the place of each of ours in turn")
	cmd.MarkFlagsMutuallyExclusive("interop", "break")
	cmd.MarkFlagsMutuallyExclusive("interop", "keep")
	err := cmd.RegisterFlagCompletionFunc("break", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		names := []string{"all", "list"}
		for _, f := range demo.Faults() {
			names = append(names, f.Name+"\t"+f.Does)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // the flag is defined a few lines up
	}
	cmd.AddCommand(newDemoClean(&flags))
	return cmd
}

func newDemoClean(flags *demoFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "clean",
		Short: "Remove what a demo has left standing",
		Long: `Remove the processes, network namespaces and files of a demo that was kept or
that crashed. Only what the demo itself has written down is touched; where nothing
is left it does nothing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			removed, err := lab.Clean(cmd.Context(), flags.name, "")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), removed)
			return err
		},
	}
}

// listFaults says what can be broken.
func listFaults(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FAULT\tMUST TURN RED\tWHAT IT DOES")
	for _, f := range demo.Faults() {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Name, f.Line, f.Does)
	}
	return w.Flush()
}

// runDemo builds the lab, shows the lines, and removes or keeps the lab.
func runDemo(ctx context.Context, out, progress io.Writer, flags demoFlags) (err error) {
	start := time.Now()
	if flags.broken != "" && flags.broken != "all" {
		if _, err := demo.FaultNamed(flags.broken); err != nil {
			return err
		}
	}
	cfg, err := demoLab(flags, progress)
	if err != nil {
		return err
	}
	if err := lab.Preflight(); err != nil {
		return err
	}
	l, err := lab.Up(ctx, cfg)
	if err != nil {
		return err
	}
	if !flags.keep {
		defer func() { err = errors.Join(err, l.Close(context.WithoutCancel(ctx))) }()
	}
	fmt.Fprintf(progress, "the mesh stands after %.1f s\n\n", time.Since(start).Seconds())

	printer := demo.Printer{Out: out, Colour: colourful(out)}
	tell := printer.Result
	if flags.json {
		tell = demo.Printer{Out: progress, Colour: colourful(progress)}.Result
	}
	results, err := showLines(ctx, l, flags.broken, tell)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.Join(errors.New("interrupted"), keepOrNot(out, l, flags))
	}
	if err := keepOrNot(out, l, flags); err != nil {
		return err
	}
	if flags.json {
		err = demo.WriteJSON(out, results, time.Since(start).Seconds())
	} else {
		printer.Summary(results)
	}
	if _, failed := demo.Count(results); failed > 0 && err == nil {
		err = &exitError{code: exitFailed}
	}
	return err
}

// showLines runs all lines, or all faults, or one fault.
func showLines(ctx context.Context, l *lab.Lab, broken string, tell func(demo.Result)) ([]demo.Result, error) {
	switch broken {
	case "":
		return demo.Run(ctx, l, demo.Lines(), tell), nil
	case "all":
		return demo.RunFaults(ctx, l, demo.Faults(), tell), nil
	}
	fault, err := demo.FaultNamed(broken)
	if err != nil {
		return nil, err
	}
	r, err := demo.RunBroken(ctx, l, fault)
	if err != nil {
		return nil, err
	}
	tell(r)
	return []demo.Result{r}, nil
}

// keepOrNot hands a kept lab over to the person.
func keepOrNot(out io.Writer, l *lab.Lab, flags demoFlags) error {
	if !flags.keep {
		return nil
	}
	if err := l.Keep(); err != nil {
		return err
	}
	if flags.json {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "\nThe mesh stays. To look around:")
	for _, h := range l.LookAround(self) {
		fmt.Fprintf(out, "\n  # %s\n  %s\n", h.Shows, h.Command)
	}
	fmt.Fprintln(out)
	return nil
}

// demoLab is the lab that the flags ask for.
func demoLab(flags demoFlags, progress io.Writer) (lab.Config, error) {
	binDir := flags.binDir
	if binDir == "" {
		self, err := os.Executable()
		if err != nil {
			return lab.Config{}, err
		}
		binDir = filepath.Dir(self)
	}
	binDir, err := filepath.Abs(binDir)
	return lab.Config{
		Name: flags.name, BinDir: binDir, SecretTTL: demo.SecretTTL,
		PassEnv:  []string{"GORACE", "GOCOVERDIR"},
		Progress: func(what string) { fmt.Fprintln(progress, "  "+what) },
	}, err
}

// colourful reports whether out wants colours.
func colourful(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && lab.IsTerminal(f)
}
