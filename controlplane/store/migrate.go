package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one step of the schema.
type migration struct {
	version int64
	name    string
	script  string
}

// migrations reads the steps from files called NNNN_name.sql, which are
// numbered from 1 without a gap.
func migrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql") // in order of their names
	if err != nil {
		return nil, err
	}
	var steps []migration
	for i, name := range names {
		base := strings.TrimPrefix(name, "migrations/")
		number, _, _ := strings.Cut(base, "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil || version != int64(i)+1 {
			return nil, fmt.Errorf("read migration %s: want number %04d", base, i+1)
		}
		script, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("read migration %s: %w", base, err)
		}
		steps = append(steps, migration{version, base, string(script)})
	}
	return steps, nil
}

// migrate brings a database up to the newest schema and gives its version
// before and after.
func migrate(ctx context.Context, db *sql.DB, e engine) (from, to int64, err error) {
	steps, err := migrations(migrationFiles)
	if err != nil {
		return 0, 0, err
	}
	return migrateWith(ctx, db, e, steps)
}

func migrateWith(ctx context.Context, db *sql.DB, e engine, steps []migration) (from, to int64, err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("connect: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	release, err := e.inspect(ctx, conn)
	if err != nil {
		return 0, 0, err
	}
	defer release()
	to = int64(len(steps))
	from, err = versionOf(ctx, conn)
	if err != nil {
		return 0, to, err
	}
	if from > to {
		return from, to, fault.WithHint(
			fault.New(fault.Precondition, "its schema has version %d and this program knows versions up to %d", from, to),
			"a newer Vigil wrote it: run that version, or restore the backup that was made before the upgrade")
	}
	for _, step := range steps[from:] {
		if err := step.apply(ctx, conn, e); err != nil {
			return from, to, fmt.Errorf("apply migration %s: %w", step.name, err)
		}
	}
	return from, to, nil
}

// versionOf gives the schema's version; 0 for an empty database.
func versionOf(ctx context.Context, db *sql.Conn) (version int64, err error) {
	_, err = db.ExecContext(ctx,
		"CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY, name TEXT NOT NULL, applied BIGINT NOT NULL)")
	if err != nil {
		return 0, fmt.Errorf("make table schema_version: %w", err)
	}
	err = db.QueryRowContext(ctx, "SELECT COALESCE(MAX(version), 0) FROM schema_version").Scan(&version)
	if err != nil {
		return 0, fmt.Errorf("read schema version: %w", err)
	}
	return version, nil
}

// apply makes the step, or nothing of it.
func (m migration) apply(ctx context.Context, db *sql.Conn, e engine) (err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tx.Rollback())
		}
	}()
	if _, err := tx.ExecContext(ctx, e.script(m.script)); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO schema_version (version, name, applied) VALUES ($1, $2, $3)",
		m.version, m.name, time.Now().UnixNano())
	if err != nil {
		return err
	}
	return tx.Commit()
}
