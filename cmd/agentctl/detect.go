package main

import "github.com/spf13/cobra"

func detectCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "detect",
		Short: "Try the detection rules on recorded runs",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(detectReplay(a), detectSettings(a))
	return cmd
}
