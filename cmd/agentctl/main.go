// Agentctl is how a person, or a script, asks the control plane: what there
// is, what happened, and to have a run saved now.
//
// It speaks to nothing but the operator API (vigil.control.v1). A subcommand
// is one file; app.go has what they share.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
