package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/e2e/cluster"
)

// labFlags are the flags of `ambit lab`.
type labFlags struct {
	cfg    cluster.Config
	subnet string
	json   bool
}

func newLab() *cobra.Command {
	var flags labFlags
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Build a real Kubernetes on this machine, to try ambit on",
		Long: `Build a Kubernetes of several nodes on this machine: API server, kubelets,
containerd, CoreDNS, kube-proxy and network policy, each node a machine made of
namespaces. It needs Linux, root, Go, and the packages that 'make e2e-deps' installs;
no registry and no container engine. The first time it builds Kubernetes from source,
which takes minutes.`,
		Example: `  sudo ambit lab up
  export KUBECONFIG=$(sudo ambit lab kubeconfig)
  sudo ambit lab load dist/images/*.tar
  sudo ambit lab down`,
		GroupID: groupSee,
	}
	cmd.PersistentFlags().StringVar(&flags.cfg.Name, "name", "lab", "clusters of different names stand side by side")
	cmd.AddCommand(newLabUp(&flags), newLabDown(&flags), newLabStatus(&flags), newLabKubeconfig(&flags), newLabLoad(&flags), newLabExec(&flags))
	return cmd
}

func newLabUp(flags *labFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Build the cluster and wait until its nodes are ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			start := time.Now()
			cfg := flags.cfg
			cfg.Progress = func(what string) {
				fmt.Fprintf(cmd.ErrOrStderr(), "  %5.1f s  %s\n", time.Since(start).Seconds(), what)
			}
			if flags.subnet != "" {
				subnet, err := netip.ParsePrefix(flags.subnet)
				if err != nil {
					return fmt.Errorf("--subnet: %w", err)
				}
				cfg.Subnet = subnet
			}
			c, err := cluster.Up(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d nodes are ready after %.1f s:\n\n  export KUBECONFIG=%s\n  %s get nodes\n",
				len(c.Nodes()), time.Since(start).Seconds(), c.Kubeconfig(), c.Kubectl(cmd.Context()).Path)
			return err
		},
	}
	cmd.Flags().IntVar(&flags.cfg.Nodes, "nodes", 2, "how many nodes")
	cmd.Flags().StringVar(&flags.subnet, "subnet", "", "a /24 for the nodes (default: the first of 10.55.N.0/24 that is free)")
	cmd.Flags().StringVar(&flags.cfg.Cache, "cache", "", "where built programs stay (default: ambit/lab in the user's cache directory)")
	cmd.Flags().StringVar(&flags.cfg.Source, "source", "", "a checkout of ambit (default: the one of the working directory)")
	return cmd
}

func newLabDown(flags *labFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the cluster, also what a crash has left of it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			removed, err := cluster.Down(cmd.Context(), flags.cfg.Name, flags.cfg.Dir)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), removed)
			return err
		},
	}
}

func newLabStatus(flags *labFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say how the cluster is",
		Long: `Say how the cluster is: its machines, their services, and whether its nodes are ready.

Exit codes: 0 all is well; 1 something is not; 2 there is no such cluster.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return labStatus(cmd.Context(), cmd.OutOrStdout(), *flags)
		},
	}
	cmd.Flags().BoolVar(&flags.json, "json", false, "write JSON")
	return cmd
}

func labStatus(ctx context.Context, out io.Writer, flags labFlags) error {
	status, err := cluster.StatusOf(ctx, flags.cfg.Name, flags.cfg.Dir)
	if err != nil {
		return err
	}
	if flags.json {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(status)
	} else {
		err = printLabStatus(out, status)
	}
	if err == nil && !status.Ready {
		err = &exitError{code: exitFailed}
	}
	return err
}

func printLabStatus(out io.Writer, status cluster.Status) error {
	fmt.Fprintf(out, "cluster %s at %s\nexport KUBECONFIG=%s\n\n", status.Name, status.Server, status.Kubeconfig)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MACHINE\tADDRESS\tPID\tSTATE\tSERVICES")
	for _, m := range status.Machines {
		condition := m.Node
		if !m.Alive {
			condition = "ended"
		} else if condition == "" {
			condition = "runs"
		}
		services := ""
		for _, s := range m.Services {
			services += s.Name
			if s.PID == 0 {
				services += " (down)"
			}
			if s.Starts > 1 {
				services += fmt.Sprintf(" (started %d times)", s.Starts)
			}
			services += " "
		}
		fmt.Fprintf(w, "%s\t%v\t%d\t%s\t%s\n", m.Name, m.Address, m.PID, condition, services)
	}
	return w.Flush()
}

func newLabKubeconfig(flags *labFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "Write the path of the administrator's kubeconfig",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster.Open(flags.cfg.Name, flags.cfg.Dir)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), c.Kubeconfig())
			return err
		},
	}
}

func newLabLoad(flags *labFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "load ARCHIVE...",
		Short:   "Bring image archives into every node",
		Long:    "Bring image archives (OCI, or of docker save) into every node, under the names that they carry.",
		Example: "  sudo ambit lab load dist/images/*.tar",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Open(flags.cfg.Name, flags.cfg.Dir)
			if err != nil {
				return err
			}
			return c.Load(cmd.Context(), args...)
		},
	}
}

func newLabExec(flags *labFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "exec MACHINE COMMAND...",
		Short:   "Run a command on a node, with its files, its network and its processes",
		Example: "  sudo ambit lab exec node-1 -- ctr -n k8s.io images ls",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Open(flags.cfg.Name, flags.cfg.Dir)
			if err != nil {
				return err
			}
			for _, n := range append(c.Nodes(), c.Control()) {
				if n.Name != args[0] {
					continue
				}
				run := n.Command(cmd.Context(), args[1:]...)
				run.Stdin, run.Stdout, run.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
				return run.Run()
			}
			return fmt.Errorf("no machine %q in cluster %s", args[0], c.Name())
		},
	}
}
