package main

import "github.com/spf13/cobra"

// listFlags are what the lists have in common.
type listFlags struct {
	run   string
	limit int32
}

func getCommand(a *app) *cobra.Command {
	get := &cobra.Command{
		Use:   "get",
		Short: "List nodes, runs, incidents, findings, checkpoints or events",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	get.AddCommand(getNodes(a), getRuns(a), getIncidents(a), getCheckpoints(a), getEvents(a), getFindings(a))
	return get
}

// limitFlag adds --limit.
func (l *listFlags) limitFlag(cmd *cobra.Command) {
	cmd.Flags().Int32Var(&l.limit, "limit", 100, "at most so many, the newest first; 1 to 1000")
}

// runFlag adds --run with completion from the server.
func (l *listFlags) runFlag(a *app, cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&l.run, "run", "", usage)
	complete(cmd, "run", a.completeRuns)
}
