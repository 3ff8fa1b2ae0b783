package main

import "github.com/spf13/cobra"

func describeCommand(a *app) *cobra.Command {
	describe := &cobra.Command{
		Use:   "describe",
		Short: "Show one run, node or incident with all that belongs to it",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	describe.AddCommand(describeRun(a), describeNode(a), describeIncident(a))
	return describe
}
