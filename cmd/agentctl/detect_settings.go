package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func detectSettings(a *app) *cobra.Command {
	var run string
	cmd := &cobra.Command{
		Use:   "settings",
		Short: "Print the rules' settings, as a file for replay --rules",
		Long: `Print the rules' settings: the defaults, or with --run those that hold for a run,
as the control plane's configuration has them for all, for its project and for
itself. What is printed is a file for replay --rules.`,
		Example: `  agentctl detect settings > mine.yaml
  agentctl detect settings --run digits-7f3a`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if run != "" {
				return a.call(cmd.Context(), "detect settings", func(ctx context.Context, c *client) error {
					return a.settingsOf(ctx, c, run)
				})
			}
			var text bytes.Buffer
			if err := yaml.NewEncoder(&text).Encode(rules.Defaults()); err != nil {
				return fmt.Errorf("write settings: %w", err)
			}
			_, err := a.stdout.Write(text.Bytes())
			return fault.Mark(fault.Unavailable, err)
		},
	}
	cmd.Flags().StringVar(&run, "run", "", "those that hold for this `run`")
	complete(cmd, "run", a.completeRuns)
	return cmd
}

// settingsOf prints a run's settings after a comment that says where they are
// from.
func (a *app) settingsOf(ctx context.Context, c *client, run string) error {
	out, err := controlv1.NewFindingServiceClient(c).GetDetectionSettings(ctx, &controlv1.GetDetectionSettingsRequest{RunId: run})
	if err != nil {
		return err
	}
	text := fmt.Sprintf("# run %s, project %s\n# the defaults\n", run, orNone(cleanText(out.Project)))
	for _, source := range out.Sources {
		text += "# then " + source + "\n"
	}
	_, err = fmt.Fprint(a.stdout, text+out.Yaml)
	return fault.Mark(fault.Unavailable, err)
}
