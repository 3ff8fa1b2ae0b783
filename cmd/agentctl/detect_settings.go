package main

import (
	"bytes"
	"fmt"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	"github.com/vigil-ml/vigil/internal/fault"
)

func detectSettings(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "settings",
		Short:   "Print the rules' settings, as a file for replay --rules",
		Example: `  agentctl detect settings > mine.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var text bytes.Buffer
			if err := yaml.NewEncoder(&text).Encode(rules.Defaults()); err != nil {
				return fmt.Errorf("write settings: %w", err)
			}
			_, err := a.stdout.Write(text.Bytes())
			return fault.Mark(fault.Unavailable, err)
		},
	}
}
