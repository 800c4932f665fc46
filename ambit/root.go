package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/internal/buildinfo"
)

// Groups of commands in the help.
const (
	groupCluster = "cluster"
	groupSee     = "see"
	groupSelf    = "self"
)

// newRoot puts the commands together.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "ambit",
		Short: "an ambient-mode service mesh: see it, ask it",
		Long: `ambit is an ambient-mode service mesh: a proxy on each node takes the TCP traffic
of the pods that opted in and carries it over mutual TLS to where policy lets it.

This command shows the mesh on one machine and asks a mesh what happened.`,
		Example: `  sudo ambit demo             see a mesh of two nodes, line by line
  sudo ambit demo --keep      ... and leave it standing to look around
  sudo ambit why shop/web bank/ledger`,
		Version:       buildinfo.Line("ambit", version),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.AddGroup(
		&cobra.Group{ID: groupCluster, Title: "On a cluster:"},
		&cobra.Group{ID: groupSee, Title: "See a mesh:"},
		&cobra.Group{ID: groupSelf, Title: "About ambit:"},
	)
	root.SetHelpCommandGroupID(groupSelf)
	root.SetCompletionCommandGroupID(groupSelf)
	root.AddCommand(newDemo(), newPods(), newWhy(), newVersion(), newLabApp(), newPerf(), newPerfLoad(), newLab())
	root.AddCommand(newInstall(), newUpgrade(), newUninstall(), newCheck(), newNamespace(), newWaypoint(), newCA(), newBugReport())
	explainArgs(root)
	return root
}

// explainArgs lets each command that gets too few or too many arguments say what it
// takes.
func explainArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return fmt.Errorf("%w\nusage: %s\nmore: %s --help", err, cmd.UseLine(), cmd.CommandPath())
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		explainArgs(sub)
	}
}
