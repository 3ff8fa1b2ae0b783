package main

import (
	"context"
	"io"
	"os"

	"github.com/vigil-ml/vigil/cmd/agentctl/bench"
	"github.com/vigil-ml/vigil/cmd/agentctl/demo"
	"github.com/vigil-ml/vigil/internal/fault"
)

// run runs one command line and gives the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return newApp(stdout, stderr, os.Getenv).run(ctx, args)
}

// run runs one command line and gives the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := rootCommand(a)
	root.SetArgs(args)
	root.AddCommand(
		getCommand(a),
		describeCommand(a),
		incidentsCommand(a),
		alertsCommand(a),
		exportsCommand(a),
		silencesCommand(a),
		routesCommand(a),
		checkpointCommand(a),
		profileCommand(a),
		checkpointsCommand(a),
		keysCommand(a),
		detectCommand(a),
		findingsCommand(a),
		runsCommand(a),
		auditCommand(a),
		peopleCommand(a),
		accessCommand(a),
		loginCommand(a),
		logoutCommand(a),
		joinTokenCommand(a),
		identitiesCommand(a),
		adminCommand(a),
		bench.Command(),
		versionCommand(a),
		demo.Command(),
	)
	err := a.explain(ctx, root.ExecuteContext(ctx))
	a.report(err)
	return fault.ExitCode(err)
}
