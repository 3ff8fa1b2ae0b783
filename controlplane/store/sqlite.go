package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/vigil-ml/vigil/internal/fault"
)

// readers is how many View transactions run at once; more wait.
const readers = 4

// applicationID marks a SQLite file as Vigil's: "VIGL".
const applicationID = 0x5649474C

// sqliteEngine keeps the records in one file.
type sqliteEngine struct{ path string }

func newSQLite(path string) (engine, error) {
	whole, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return sqliteEngine{whole}, nil
}

func (e sqliteEngine) place() string { return e.path }

func (e sqliteEngine) open() (writer, reader *sql.DB, err error) {
	if err := create(e.path); err != nil {
		return nil, nil, err
	}
	if writer, err = openDB(dsn(e.path, "immediate", "synchronous(FULL)")); err != nil {
		return nil, nil, err
	}
	writer.SetMaxOpenConns(1)
	if reader, err = openDB(dsn(e.path, "deferred", "query_only(1)")); err != nil {
		return writer, nil, err
	}
	reader.SetMaxOpenConns(readers)
	reader.SetMaxIdleConns(readers)
	return writer, reader, nil
}

func openDB(dsn string) (*sql.DB, error) {
	c, err := newConnector(dsn)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(c), nil
}

// create makes the file, readable by its owner alone; SQLite gives the files
// beside it the same mode.
func create(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// dsn names the file for the driver. The write-ahead log lets readers go on
// beside the writer; a lock held by another process is waited for.
func dsn(path, lock, pragma string) string {
	query := url.Values{
		"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "foreign_keys(1)", "temp_store(MEMORY)", "cache_size(-8000)", "wal_autocheckpoint(16000)", "secure_delete(FAST)", pragma},
		"_txlock": {lock},
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: query.Encode()}).String()
}

// inspect refuses a file that is damaged or that another program made, and
// marks an empty one as Vigil's. SQLite keeps two processes apart by itself.
func (e sqliteEngine) inspect(ctx context.Context, db *sql.Conn) (release func(), err error) {
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return nil, fmt.Errorf("check for damage: %w", err)
	}
	if verdict != "ok" {
		return nil, fault.WithHint(fault.New(fault.Corrupt, "check for damage: %s", verdict),
			"move the file away and restore a backup")
	}
	var tables, owner int64
	if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM sqlite_master").Scan(&tables); err != nil {
		return nil, fmt.Errorf("count tables: %w", err)
	}
	if tables == 0 {
		_, err := db.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID))
		return func() {}, err
	}
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&owner); err != nil {
		return nil, fmt.Errorf("read owner: %w", err)
	}
	if owner != applicationID {
		return nil, fault.WithHint(fault.New(fault.Corrupt, "this is another program's SQLite database"),
			"give Vigil a path of its own")
	}
	return func() {}, nil
}

// script leaves migrations as they are: they are written for SQLite.
func (sqliteEngine) script(sql string) string { return sql }

func (sqliteEngine) traits() traits {
	return traits{
		tables: "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name",
		text:   func(s string) string { return s },
		scrub:  "PRAGMA wal_checkpoint(TRUNCATE)",
		// The engine looks each name up among all of a statement's.
		unnamed: true,
	}
}

// classifySQLite gives SQLite's errors their kinds.
func classifySQLite(err error) error {
	engine, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return err
	}
	switch engine.Code() & 0xff { // the rest of the code is detail
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fault.WithHint(fault.Mark(fault.Corrupt, err),
			"the file is damaged or not Vigil's: move it away and restore a backup, or start with a new one")
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fault.Mark(fault.Unavailable, err)
	case sqlite3.SQLITE_FULL:
		return fault.WithHint(fault.Mark(fault.Exhausted, err), "the disk of the store is full")
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN:
		return fault.Mark(fault.Denied, err)
	}
	return err
}
