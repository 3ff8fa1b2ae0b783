package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/internal/version"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of agentctl and of the control plane",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.output.forPeople() {
				_, err := fmt.Fprintf(a.stdout, "agentctl       %s  %s/%s  %s\n", version.String(), runtime.GOOS, runtime.GOARCH, runtime.Version())
				if err != nil {
					return err
				}
			}
			return a.call(cmd.Context(), "get status", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewSystemServiceClient(c).GetStatus(ctx, &controlv1.GetStatusRequest{})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) {
					p.write("control plane  %s  agent protocol %d  up %s  at %s\n",
						orNone(out.Version), out.AgentRevision, age(time.Now(), out.Started), a.server)
				})
			})
		},
	}
}
