// Agentctl is how a person, or a script, asks the control plane: what there
// is, what happened, and to have a run saved now.
//
// It speaks to nothing but the operator API (vigil.control.v1). A subcommand
// is one file; app.go has what they share.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/vigil-ml/vigil/cmd/agentctl/bench"
	"github.com/vigil-ml/vigil/cmd/agentctl/demo"
	"github.com/vigil-ml/vigil/internal/fault"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs one command line and gives the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := newApp(stdout, stderr, os.Getenv)
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
		detectCommand(a),
		findingsCommand(a),
		runsCommand(a),
		auditCommand(a),
		accessCommand(a),
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
