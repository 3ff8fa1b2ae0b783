package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

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
					for _, kept := range out.Retention {
						p.write("  keeps        %-9s %s\n", kept.Records, keptFor(kept.KeptFor))
					}
				})
			})
		},
	}
}

// keptFor is how long records are kept, in days where it is some.
func keptFor(d *durationpb.Duration) string {
	const day = 24 * time.Hour
	switch kept := d.AsDuration(); {
	case d == nil:
		return "for good"
	case kept%day == 0:
		return fmt.Sprintf("%d days", kept/day)
	default:
		return kept.String()
	}
}
