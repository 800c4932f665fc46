package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/internal/buildinfo"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Say which build this is",
		GroupID: groupSelf,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), buildinfo.Line("ambit", version))
			return err
		},
	}
}
