package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/ambit/internal/report"
)

func newBugReport() *cobra.Command {
	var f clusterFlags
	var output string
	cmd := &cobra.Command{
		Use:   "bug-report",
		Short: "Collect what there is to know into one archive; no keys",
		Long: `Collect what there is to know of an installation into one archive: what ambit check
says, objects, events, logs, what proxies and agents hold, the rules in pods. Secrets
are not read, and what looks like a key or a token is struck out. Names and addresses of
your pods, services and policies are in it.

Exit codes: 0 written; 1 not all could be collected; 2 wrong usage, or the cluster cannot
be reached.`,
		Example: "  ambit bug-report\n  ambit bug-report -o /tmp/report.tar.gz",
		GroupID: groupCluster,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			client, _, err := f.connect()
			if err != nil {
				return err
			}
			if output == "" {
				output = "ambit-bug-report-" + time.Now().UTC().Format("20060102-150405") + ".tar.gz"
			}
			out, err := os.OpenFile(output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			name := strings.TrimSuffix(output[strings.LastIndex(output, "/")+1:], ".tar.gz")
			c := &report.Collector{Client: client, Namespace: f.namespace, Version: version, Say: f.progress(cmd)}
			files, err := c.Collect(cmd.Context(), out, name)
			if closed := out.Close(); err == nil {
				err = closed
			}
			if err != nil {
				return failed(fmt.Errorf("%s is not complete: %w", output, err))
			}
			if f.json {
				return writeJSON(cmd.OutOrStdout(), map[string]any{"file": output, "files": files})
			}
			f.progress(cmd)("%s: %d files", output, files)
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "", "`FILE` of the archive, which must not exist (default ambit-bug-report-TIME.tar.gz here)")
	return cmd
}
