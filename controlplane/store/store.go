// Package store keeps the control plane's records in SQL: nodes, runs,
// attempts, checkpoints, commands, findings, incidents, the outbox and the
// cursors.
//
// The records are the messages of control/v1. Everything is read and written
// in a transaction, [Store.Update] or [Store.View]; a getter gives an error of
// kind [fault.NotFound] for what is not there. What an Update wrote is on
// stable storage when it returns, and only then do those who wait for
// [Store.Changed] wake.
//
// The engine is SQLite with one writer at a time and readers beside it, who
// see the last commit. The statements keep to what PostgreSQL also takes.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite" // the driver
)

// readers is how many View transactions run at once; more wait.
const readers = 4

// Config says where the records are.
type Config struct {
	// Path of the SQLite file; it and its directory are made when they are
	// not there.
	Path string `yaml:"path"`
}

// Check reports a missing path.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Path == "" {
		report("path", "is missing; want the path of a SQLite file")
	}
}

// Deps is what a store needs.
type Deps struct {
	Log   *slog.Logger
	Clock func() time.Time // for leases; nil means time.Now
	// Exports has changes of findings and incidents recorded for exporters.
	Exports bool
}

// Store is the open records. It is safe for concurrent use; whoever opened it
// closes it after every user has ended.
type Store struct {
	writer  *sql.DB
	reader  *sql.DB
	clock   func() time.Time
	exports bool
	changes changes
}

// Open opens the records, bringing an older schema up to date. A damaged file
// and one that Vigil did not make give [fault.Corrupt], one of a newer Vigil
// gives [fault.Precondition]; such files are left as they are.
func Open(ctx context.Context, config Config, deps Deps) (*Store, error) {
	path, err := filepath.Abs(config.Path)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", config.Path, err)
	}
	if err := create(path); err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	s := &Store{clock: deps.Clock, exports: deps.Exports}
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.writer, err = sql.Open("sqlite", dsn(path, "immediate", "synchronous(FULL)")); err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	s.writer.SetMaxOpenConns(1)
	if s.reader, err = sql.Open("sqlite", dsn(path, "deferred", "query_only(1)")); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), s.Close())
	}
	s.reader.SetMaxOpenConns(readers)
	s.reader.SetMaxIdleConns(readers)
	from, to, err := migrate(ctx, s.writer)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, classify(err)), s.Close())
	}
	if from != to {
		deps.Log.Info("brought the store's schema up to date", "path", path, "from", from, "to", to)
	}
	return s, nil
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
		"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "foreign_keys(1)", pragma},
		"_txlock": {lock},
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: query.Encode()}).String()
}

// Close closes the records.
func (s *Store) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.reader, s.writer} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Tx is one transaction. It is used by one goroutine and only until the
// function that it was given to returns. After a method has given an error
// that is not [fault.NotFound] the function returns it.
type Tx struct {
	sql     *sql.Tx
	now     time.Time
	touched map[Topic]bool
	cache   cache
	exports bool
}

func (s *Store) newTx() *Tx {
	return &Tx{now: s.clock(), touched: map[Topic]bool{}, cache: newCache(), exports: s.exports}
}

// Update runs a transaction that writes: all of it or, when the function
// fails or panics or ctx ends, nothing. Updates run one after the other. The
// function must not call Update again.
func (s *Store) Update(ctx context.Context, do func(*Tx) error) error {
	tx := s.newTx()
	if err := transact(ctx, s.writer, tx, do); err != nil {
		return err
	}
	s.changes.wake(tx.touched)
	return nil
}

// View runs a transaction that reads one state of the records.
func (s *Store) View(ctx context.Context, do func(*Tx) error) error {
	return transact(ctx, s.reader, s.newTx(), do)
}

func transact(ctx context.Context, db *sql.DB, tx *Tx, do func(*Tx) error) (err error) {
	if tx.sql, err = db.BeginTx(ctx, nil); err != nil {
		return fmt.Errorf("begin transaction: %w", classify(err))
	}
	// After a commit this does nothing.
	defer func() { _ = tx.sql.Rollback() }()
	if err := do(tx); err != nil {
		return err
	}
	if err := tx.flushRuns(); err != nil {
		return err
	}
	if err := tx.sql.Commit(); err != nil {
		return fmt.Errorf("commit transaction: %w", classify(err))
	}
	return nil
}

// touch notes that the transaction changed what a topic is about.
func (tx *Tx) touch(topic Topic) { tx.touched[topic] = true }
