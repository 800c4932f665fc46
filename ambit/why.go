package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/internal/lab"
)

func newWhy() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "why SOURCE DESTINATION",
		Short: "Say what became of connections between two pods, and which rule decided",
		Long: `Say what became of the last connections between two pods of the standing demo:
how they travelled, who the other side was proven to be, which rule let them in or
refused them, at which stage and by whose fault they ended.

SOURCE and DESTINATION are namespace/name or an address.`,
		Example: "  sudo ambit why shop/web bank/ledger",
		GroupID: groupSee,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			state, err := standingLab(name)
			if err != nil {
				return err
			}
			text, err := lab.Why(state, args[0], args[1])
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	cmd.Flags().StringVar(&name, "name", "ambit", "name of the lab")
	return cmd
}
