package main

import (
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// newLabApp is the command that a lab runs in its pods. It is hidden: a person
// has no use for it.
func newLabApp() *cobra.Command {
	var cfg labapp.Config
	var get string
	cmd := &cobra.Command{
		Use:    "lab-app",
		Short:  "Run the programs of a lab's pod",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if get != "" {
				return fetchPage(cmd, get)
			}
			return labapp.Run(cmd.Context(), cfg)
		},
	}
	cmd.Flags().StringVar(&cfg.Pod, "pod", "", "namespace/name that the programs say they are")
	cmd.Flags().StringVar(&cfg.Control, "control", "", "path of the Unix socket that takes requests for clients")
	cmd.Flags().StringVar(&get, "get", "", "only fetch this URL, where there is no curl")
	return cmd
}

// fetchPage writes a page to the output.
func fetchPage(cmd *cobra.Command, url string) error {
	req, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(cmd.OutOrStdout(), res.Body)
	return err
}
