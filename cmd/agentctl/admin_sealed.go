package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/fault"
)

// backupPurpose is what an encrypted backup says that it is.
const backupPurpose = "vigil backup"

// backUp writes a backup, encrypted where an outer key is configured.
func backUp(ctx context.Context, s *store.Store, protection envelope.Settings, to io.Writer) (rows int64, err error) {
	if !protection.On() {
		return s.Backup(ctx, to)
	}
	keys, err := protection.Keys(os.Getenv)
	if err != nil {
		return 0, err
	}
	sealed, err := keys.SealTo(ctx, to, backupPurpose)
	if err != nil {
		return 0, err
	}
	rows, err = s.Backup(ctx, sealed)
	return rows, errors.Join(err, sealed.Close())
}

// outerKeys gives the keys that encrypted backups open with.
func outerKeys(protection envelope.Settings) (envelope.Keys, error) {
	if !protection.On() {
		return envelope.Keys{}, fault.WithHint(fault.New(fault.Denied, "the backup is encrypted, and the configuration names no outer key"),
			"give the configuration of the control plane that it is of: --config, with protection")
	}
	return protection.Keys(os.Getenv)
}

// openBackup gives what a backup holds, encrypted or not.
func openBackup(ctx context.Context, protection envelope.Settings, file io.Reader) (io.Reader, error) {
	from := bufio.NewReader(file)
	if !envelope.Sealed(from) {
		return from, nil
	}
	keys, err := outerKeys(protection)
	if err != nil {
		return nil, err
	}
	return keys.OpenFrom(ctx, from, backupPurpose)
}

func adminRewrap(a *app) *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "rewrap FILE...",
		Short: "Encrypt the keys of encrypted backups with the outer key that is configured now",
		Long: `Writes each backup anew with its key encrypted with the outer key of the configuration (protection), so that the one
before (protection.previous) is not needed any more. What is in the backup stays encrypted as it is.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.running = true
			control, err := controlSettings(config)
			if err != nil {
				return err
			}
			keys, err := outerKeys(control.Protection)
			if err != nil {
				return err
			}
			for n, path := range args {
				before, err := rewrap(cmd.Context(), keys, path)
				if err != nil {
					return fmt.Errorf("rewrap %s: %w", path, err)
				}
				a.note("%d of %d: %s was encrypted with key %s and is with %s.", n+1, len(args), path, before, keys.Current.ID)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "the control plane's configuration")
	return cmd
}

func rewrap(ctx context.Context, keys envelope.Keys, path string) (before string, err error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	err = writeWhole(path, 0o600, func(to io.Writer) error {
		before, err = keys.RewrapStream(ctx, to, bufio.NewReader(file))
		return err
	})
	return before, err
}
