package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/controlplane"
	"github.com/vigil-ml/vigil/controlplane/authority"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/conf"
)

// adminCommand is what is done to a control plane's records themselves, on a
// machine that reaches them.
func adminCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "admin",
		Short: "Back up a control plane's records, and restore them",
		Example: `  agentctl admin backup --config /etc/vigil/controlplane.yaml records.vigil
  agentctl admin restore --config new.yaml records.vigil`,
		Args: cobra.ArbitraryArgs,
		RunE: needsSubcommand,
	}
	cmd.AddCommand(adminBackup(a), adminRestore(a), adminRewrap(a), adminCertificates(a))
	return cmd
}

// controlSettings is the control plane's configuration, with where its records are.
func controlSettings(path string) (controlplane.Config, error) {
	config := controlplane.Defaults()
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return config, err
		}
		if err := conf.Decode(path, text, &config); err != nil {
			return config, err
		}
	}
	if !filepath.IsAbs(config.Store.Path) {
		config.Store.Path = filepath.Join(config.StateDir, config.Store.Path)
	}
	return config, nil
}

func adminCertificates(a *app) *cobra.Command {
	lifetime := 365 * 24 * time.Hour
	cmd := &cobra.Command{
		Use:   "certificates DIR HOST...",
		Short: "Make certificates for control planes and the NATS servers that they share",
		Long: `Makes DIR/HOST.pem and DIR/HOST.key of each host, signed by the authority DIR/ca.pem, which is made where it is not
there. Give each NATS server and each control plane its own, and all of them ca.pem; keep ca.key to yourself.`,
		Example: `  agentctl admin certificates bus nats-0 nats-1 nats-2 control-1 control-2`,
		Args:    cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			a.running = true
			if err := authority.IssueCluster(args[0], args[1:], lifetime); err != nil {
				return err
			}
			a.note("%s of the authority in %s, good for %s.", count(len(args)-1, "certificate"), args[0], lifetime)
			return nil
		},
	}
	cmd.Flags().DurationVar(&lifetime, "for", lifetime, "how long they are good")
	return cmd
}

func adminBackup(a *app) *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write all records to a file, while the control plane goes on",
		Long: `Writes nodes, runs, checkpoints, findings, incidents, notifications, silences and the audit log, as they are at
one moment. Where the configuration names an outer key (protection) the file is encrypted, and opens with that key alone. Samples, and events that are on the bus, are not among them: a control plane that is restored gets from agents
what they still have.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.running = true
			control, err := controlSettings(config)
			if err != nil {
				return err
			}
			where := control.Store
			if where.URL == "" {
				if _, err := os.Stat(where.Path); err != nil { // Open would make one
					return err
				}
			}
			s, err := store.Open(cmd.Context(), where, store.Deps{Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				return err
			}
			defer s.Close()
			var rows int64
			err = writeWhole(args[0], 0o600, func(to io.Writer) error {
				rows, err = backUp(cmd.Context(), s, control.Protection, to)
				return err
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "%d records are in %s\n", rows, args[0])
			return err
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "the control plane's configuration; without it, its defaults")
	return cmd
}

func adminRestore(a *app) *cobra.Command {
	var config string
	var newBus bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make the records of a backup those of an empty database",
		Long: `Restores into the SQLite file or the PostgreSQL database that the configuration names, whichever the backup was
made from; it must have no records. Do it before the control plane starts. With --new-bus the control plane begins at the start of its
bus, as is right for an empty one; without it, it goes on where it was on the bus of the backup.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.running = true
			control, err := controlSettings(config)
			if err != nil {
				return err
			}
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			from, err := openBackup(cmd.Context(), control.Protection, file)
			if err != nil {
				return err
			}
			rows, err := store.Restore(cmd.Context(), control.Store, from, newBus)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "%d records are restored\n", rows)
			return err
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "the control plane's configuration; without it, its defaults")
	cmd.Flags().BoolVar(&newBus, "new-bus", false, "the bus is another one than that of the backup, and empty")
	return cmd
}
