package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/ambit/internal/install"
)

// installFlags are the flags of `ambit install` and `ambit upgrade`.
type installFlags struct {
	cluster     clusterFlags
	values      valueFlags
	output      string
	parts       []string
	showValues  bool
	skipCRDs    bool
	noWait      bool
	force       bool
	resetValues bool
	timeout     time.Duration
}

// outcome is what install, upgrade and uninstall say with --json.
type outcome struct {
	Action    string   `json:"action"`
	Namespace string   `json:"namespace"`
	Version   string   `json:"version,omitempty"`
	OK        bool     `json:"ok"`
	Error     string   `json:"error,omitempty"`
	Parts     []string `json:"parts,omitempty"` // how far each is
}

func newInstall() *cobra.Command {
	var f installFlags
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install ambit on a cluster",
		Long: `Install ambit on a cluster: istiod-lite, and on every node ztunnel and the CNI agent.
It first checks what would be in the way (ambit check), then applies the chart, then
waits until all parts run, saying what it waits for.

No pod is in the mesh because of it: see ambit namespace add.

Definitions of kinds (Gateway API, security.istio.io, networking.istio.io) are created
where they are missing; those that are there stay as they are.

Exit codes: 0 installed; 1 something is in the way, or a part does not run; 2 wrong
usage, or the cluster cannot be reached; 130 interrupted.`,
		Example: `  ambit install --set image.repository=registry.example.com/mesh
  ambit install -o yaml > ambit.yaml     for GitOps: all objects, nothing applied
  ambit install -o chart > ambit.tgz     for helm install
  ambit install -o yaml --parts ztunnel  the proxy alone, beside parts of another mesh
  ambit install --show-values            what --set and --values can say`,
		GroupID: groupCluster,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.install(cmd) },
	}
	f.add(cmd)
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "yaml: print all objects and apply none; chart: write the chart as a file for helm; neither asks a cluster")
	cmd.Flags().StringSliceVar(&f.parts, "parts", nil, "with -o yaml: only the objects of these parts (istiod-lite, ztunnel, cni)")
	cmd.Flags().BoolVar(&f.showValues, "show-values", false, "print the values that can be set, with their meaning")
	return cmd
}

func newUpgrade() *cobra.Command {
	var f installFlags
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Replace the installed ambit by this version, or change its values",
		Long: `Replace the installed ambit by the version of this command, or change its values. Parts
are replaced one after the other: first the control plane, then the agents, then the
proxies. Values that were set before stay, unless --reset-values.

Established connections live on in the old ztunnel of a node for
ztunnel.terminationGracePeriodSeconds.

Exit codes: 0 upgraded; 1 something is in the way, or a part does not run; 2 wrong
usage, or the cluster cannot be reached; 130 interrupted.`,
		Example: "  ambit upgrade\n  ambit upgrade --set global.logLevel=debug",
		GroupID: groupCluster,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.upgrade(cmd) },
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.resetValues, "reset-values", false, "forget the values that were set before")
	return cmd
}

// add declares the flags that both have.
func (f *installFlags) add(cmd *cobra.Command) {
	f.cluster.add(cmd)
	f.values.add(cmd)
	cmd.Flags().BoolVar(&f.skipCRDs, "skip-crds", false, "leave the definitions of kinds to somebody else")
	cmd.Flags().BoolVar(&f.noWait, "no-wait", false, "do not wait until the parts run")
	cmd.Flags().BoolVar(&f.force, "force", false, "although ambit check says that something is in the way")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long to wait, `TIME`")
}

// install is `ambit install`.
func (f *installFlags) install(cmd *cobra.Command) error {
	if f.showValues {
		text, err := install.Values()
		if err != nil {
			return err
		}
		_, err = cmd.OutOrStdout().Write(text)
		return err
	}
	values, err := f.values.merge(nil)
	if err != nil {
		return err
	}
	o := install.Options{Version: version, Namespace: f.cluster.namespace, Values: values}
	if len(f.parts) > 0 && f.output != "yaml" {
		return errors.New("--parts goes with -o yaml: an installation has all parts")
	}
	switch f.output {
	case "":
	case "yaml":
		return install.Print(cmd.OutOrStdout(), o, !f.skipCRDs, f.parts...)
	case "chart":
		return install.PackChart(cmd.OutOrStdout(), version, !f.skipCRDs)
	default:
		return fmt.Errorf("--output %s: want yaml or chart", f.output)
	}
	client, kubeVersion, err := f.cluster.connect()
	if err != nil {
		return err
	}
	o.KubeVersion = kubeVersion
	i := &install.Installer{Client: client, Namespace: f.cluster.namespace, Say: f.cluster.progress(cmd)}
	return f.finish(cmd, "install", i, func(ctx context.Context) error {
		have, err := install.ReadInventory(ctx, client.Kube, f.cluster.namespace)
		if err != nil {
			return err
		}
		if have != nil && have.Complete {
			return fmt.Errorf("ambit %s is installed in %s: ambit upgrade replaces it", have.Version, f.cluster.namespace)
		}
		if err := f.preflight(ctx, cmd, client); err != nil {
			return err
		}
		if err := i.Apply(ctx, o, f.skipCRDs, nil); err != nil || f.noWait {
			return err
		}
		return i.Wait(ctx, install.Parts())
	})
}

// upgrade is `ambit upgrade`.
func (f *installFlags) upgrade(cmd *cobra.Command) error {
	client, kubeVersion, err := f.cluster.connect()
	if err != nil {
		return err
	}
	i := &install.Installer{Client: client, Namespace: f.cluster.namespace, Say: f.cluster.progress(cmd)}
	return f.finish(cmd, "upgrade", i, func(ctx context.Context) error {
		have, err := i.Installed(ctx)
		if err != nil {
			return err
		}
		base := have.Values
		if f.resetValues {
			base = nil
		}
		values, err := f.values.merge(base)
		if err != nil {
			return err
		}
		i.Say("ambit %s becomes %s", have.Version, version)
		o := install.Options{Version: version, Namespace: f.cluster.namespace, Values: values, KubeVersion: kubeVersion, IsUpgrade: true}
		staged := i.WaitFor
		if f.noWait {
			staged = nil
		}
		if err := i.Apply(ctx, o, f.skipCRDs, staged); err != nil || f.noWait {
			return err
		}
		return i.Wait(ctx, install.Parts())
	})
}

// finish does work within the timeout, and says how it ended.
func (f *installFlags) finish(cmd *cobra.Command, action string, i *install.Installer, work func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(cmd.Context(), f.timeout, fmt.Errorf("not done within %v", f.timeout))
	defer cancel()
	begun := time.Now()
	err := work(ctx)
	out := outcome{Action: action, Namespace: i.Namespace, Version: version, OK: err == nil}
	looking, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer stop()
	if rollouts, failed := i.Rollouts(looking, install.Parts()); failed == nil && action != "uninstall" {
		for _, r := range rollouts {
			out.Parts = append(out.Parts, r.String())
		}
	}
	if err != nil {
		out.Error = err.Error()
	} else {
		i.Say("done in %.1f s", time.Since(begun).Seconds())
	}
	if f.cluster.json {
		err = errors.Join(err, writeJSON(cmd.OutOrStdout(), out))
	} else if err == nil && action == "install" {
		i.Say("\nnext: ambit namespace add NAME   takes a namespace into the mesh, without a restart of its pods\n      ambit check                whether all is well")
	}
	return failed(err)
}
