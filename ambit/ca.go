package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/ambit/internal/authority"
	"github.com/ambit-mesh/ambit/ambit/internal/check"
	"github.com/ambit-mesh/ambit/ambit/internal/install"
	"github.com/ambit-mesh/ambit/ambit/internal/members"
)

func newCA() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ca",
		Short:   "Show or change the root that all certificates rest on",
		GroupID: groupCluster,
	}
	cmd.AddCommand(newCAStatus(), newCARotate())
	return cmd
}

func newCAStatus() *cobra.Command {
	var f clusterFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show who signs, what is trusted, and what every node holds",
		Long: `Show who signs, which roots are trusted and until when, and whether all replicas of the
control plane and all nodes have them.

Exit codes: 0 all is in step; 1 something is not, or ends within 60 days; 2 wrong usage,
or the cluster cannot be reached.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, _, err := f.connect()
			if err != nil {
				return err
			}
			a := &authority.Authority{Client: client, Namespace: f.namespace, Say: f.progress(cmd)}
			status, err := a.Status(cmd.Context())
			if err != nil {
				return failed(err)
			}
			if f.json {
				err = writeJSON(cmd.OutOrStdout(), status)
			} else {
				err = writeCA(cmd.OutOrStdout(), status)
			}
			if err == nil && (!status.InStep() || status.Ends(time.Now())) {
				return &exitError{code: exitFailed}
			}
			return err
		},
	}
	f.add(cmd)
	return cmd
}

func newCARotate() *cobra.Command {
	var f clusterFlags
	var r authority.Rotation
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Change the root; no connection is lost by it",
		Long: `Change the root that all certificates rest on. First the new root is trusted beside the
old one; when every replica of the control plane, every namespace and every node has
acknowledged that, the new CA signs; then all nodes renew their certificates. It waits
for each and says for whom. When it is interrupted, call it again: it goes on.

The old root stays trusted until --drop-old. That ends connections which stand on a
certificate of the old root: those older than the rotation.

Exit codes: 0 done; 1 somebody has not acknowledged in time; 2 wrong usage, or the
cluster cannot be reached; 130 interrupted.`,
		Example: "  ambit ca rotate\n  ambit ca rotate --from new-ca/\n  ambit ca rotate --drop-old",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, _, err := f.connect()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout, fmt.Errorf("not done within %v", timeout))
			defer cancel()
			inventory, err := install.ReadInventory(ctx, client.Kube, f.namespace)
			if err != nil {
				return failed(err)
			}
			r.TrustDomain = members.TrustDomain(&check.World{Inventory: inventory})
			a := &authority.Authority{Client: client, Namespace: f.namespace, Say: f.progress(cmd)}
			err = a.Rotate(ctx, r)
			if f.json {
				out := outcome{Action: "ca rotate", Namespace: f.namespace, OK: err == nil}
				if err != nil {
					out.Error = err.Error()
				}
				if err := writeJSON(cmd.OutOrStdout(), out); err != nil {
					return err
				}
			}
			return failed(err)
		},
	}
	f.add(cmd)
	p := cmd.Flags()
	p.StringVar(&r.From, "from", "", "`DIR` of the new CA: ca-key.pem, ca-cert.pem and, for an intermediate, cert-chain.pem and root-cert.pem (default: a new self-signed root is made)")
	p.BoolVar(&r.DropOld, "drop-old", false, "trust the old root no more")
	p.StringSliceVar(&r.SkipNodes, "skip-node", nil, "`NODES` that need not acknowledge, because they are gone")
	p.DurationVar(&timeout, "timeout", 10*time.Minute, "how long to wait, `TIME`")
	cmd.MarkFlagsMutuallyExclusive("from", "drop-old")
	return cmd
}

// writeCA writes the status as people read it.
func writeCA(out io.Writer, s *authority.Status) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	phase := string(s.Phase)
	if phase == "" {
		phase = "none"
	}
	fmt.Fprintf(w, "SECRET\t%s\n", s.Secret)
	fmt.Fprintf(w, "ROTATION\t%s\n", phase)
	fmt.Fprintf(w, "SIGNS\t%s\tends %s\t%.12s\n", s.Signs.Subject, s.Signs.NotAfter.Format(time.DateOnly), s.Signs.Fingerprint)
	for _, r := range s.Roots {
		fmt.Fprintf(w, "TRUSTED\t%s\tends %s\t%.12s\n", r.Subject, r.NotAfter.Format(time.DateOnly), r.Fingerprint)
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "CONTROL PLANE\tIN STEP\tPROBLEM")
	for _, r := range s.Replicas {
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.Pod, yesNo(r.InStep), r.Problem)
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "NODE\tPROXY\tCERTIFICATES\tFIRST ENDS\tTRUSTS ALL\tPROBLEM")
	for _, n := range s.Nodes {
		ends := "-"
		if !n.FirstEnds.IsZero() {
			ends = n.FirstEnds.Format("2006-01-02 15:04")
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", n.Node, n.Proxy, n.Certificates, ends, yesNo(n.Trusts), n.Problem)
	}
	return w.Flush()
}

// yesNo is a truth for people.
func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
