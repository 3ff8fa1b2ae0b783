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
// Below it is SQLite, with one writer at a time and readers beside it, who see
// the last commit; or PostgreSQL, which any number of control planes share. The
// statements are the same on both; what differs is in sqlite.go and postgres.go.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
)

// Config says where the records are.
type Config struct {
	// Path of the SQLite file; it and its directory are made when they are
	// not there.
	Path string `yaml:"path"`
	// URL of a PostgreSQL database of Vigil's own, in place of a file:
	// postgres://vigil@host/vigil?sslmode=verify-full. What libpq's environment
	// and password file say is taken too. search_path names another schema.
	URL string `yaml:"url"`
}

// Check reports a missing path and a URL that is none.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Path == "" && c.URL == "" {
		report("path", "is missing; want the path of a SQLite file, or url")
	}
	if c.URL != "" {
		config, err := postgresConfig(c.URL)
		if err != nil {
			report("url", "is not one of PostgreSQL; want postgres://user@host/database")
			return
		}
		if open := plainHost(config); open != "" {
			report("url", wantTLS, open)
		}
	}
}

// Deps is what a store needs.
type Deps struct {
	Log   *slog.Logger
	Clock func() time.Time // for leases; nil means time.Now
	// Changed is told after each commit what it touched, to tell it to other
	// processes; may be nil, and must not block.
	Changed func(topics []Topic)
	// Metrics are of transactions; nil shows them nowhere.
	Metrics prometheus.Registerer
	// Exports has changes of findings and incidents recorded for exporters.
	Exports bool
}

// Store is the open records. It is safe for concurrent use; whoever opened it
// closes it after every user has ended.
type Store struct {
	engine  engine
	writer  *sql.DB
	reader  *sql.DB
	clock   func() time.Time
	told    func(topics []Topic)
	exports bool
	changes changes
	sealing atomic.Pointer[sealing] // nil: nothing is encrypted

	wrote, took prometheus.Observer // of transactions; nil: nobody looks
}

// Shared tells whether other processes may use the records too.
func (s *Store) Shared() bool { return s.engine.traits().shared }

// engine is what differs between the databases.
type engine interface {
	// open opens the database for those who write and for those who read.
	open() (writer, reader *sql.DB, err error)
	// place names the database in messages.
	place() string
	// inspect refuses a database that is damaged or another program's, and marks
	// an empty one as Vigil's. Until release is called no other process migrates.
	inspect(ctx context.Context, conn *sql.Conn) (release func(), err error)
	// script gives a migration in the engine's own words.
	script(sql string) string
	// traits says the rest.
	traits() traits
}

// traits is what transactions must know of an engine.
type traits struct {
	write, read *sql.TxOptions
	// shared is set when other processes write too. A transaction may then have
	// to be run again; enter begins one that shares the records, and alone one
	// that has them to itself, which never has to.
	shared       bool
	enter, alone string
	tables       string              // the query for the names of all tables
	scrub        string              // takes what was overwritten off the disk, as far as the engine can
	skipLocked   string              // behind a SELECT: leave out what another transaction has
	text         func(string) string // a text as the engine can keep it
	unnamed      bool                // values may be given as ?, in order, which the engine binds faster than $1
}

// Open opens the records, bringing an older schema up to date. A damaged file
// and one that Vigil did not make give [fault.Corrupt], one of a newer Vigil
// gives [fault.Precondition]; such files are left as they are.
func Open(ctx context.Context, config Config, deps Deps) (*Store, error) {
	e, err := engineOf(config)
	if err != nil {
		return nil, err
	}
	s := &Store{engine: e, clock: deps.Clock, told: deps.Changed, exports: deps.Exports}
	if s.clock == nil {
		s.clock = time.Now
	}
	if deps.Metrics != nil {
		took := metric.NewLatency(deps.Metrics, metric.ControlStoreSeconds)
		s.wrote, s.took = took.WithLabelValues("write"), took.WithLabelValues("read")
	}
	if s.writer, s.reader, err = e.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", e.place(), err), s.Close())
	}
	from, to, err := migrate(ctx, s.writer, e)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", e.place(), classify(err)), s.Close())
	}
	if from != to {
		deps.Log.Info("brought the store's schema up to date", "store", e.place(), "from", from, "to", to)
	}
	return s, nil
}

func engineOf(config Config) (engine, error) {
	if config.URL != "" {
		return newPostgres(config.URL)
	}
	return newSQLite(config.Path)
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
// that is not [fault.NotFound] the function returns it; the statements behind
// it, and the transaction, fail with the same in any case.
type Tx struct {
	sql     *sql.Tx
	traits  traits
	now     time.Time
	touched map[Topic]bool
	cache   cache
	exports bool
	sealing *sealing
	broken  error // of the first statement that failed
}

func (s *Store) newTx() *Tx {
	return &Tx{traits: s.engine.traits(), now: s.clock(), touched: map[Topic]bool{}, cache: newCache(), exports: s.exports, sealing: s.sealing.Load()}
}

// How often a transaction that others got in the way of is run again before it
// is given the records to itself, and the longest wait before that.
const (
	tries     = 3
	waitAtMax = 20 * time.Millisecond
)

// Update runs a transaction that writes: all of it or, when the function
// fails or panics or ctx ends, nothing. Updates are as if they ran one after
// the other. The function must not call Update again, and must do nothing that
// a roll-back does not undo: where several processes share the records it is
// run again when another's transaction got in its way.
func (s *Store) Update(ctx context.Context, do func(*Tx) error) error {
	defer observe(s.wrote, time.Now())
	ride := riderOf(ctx)
	for try := 0; ; try++ {
		tx := s.newTx()
		err := transact(ctx, s.writer, tx, tx.traits.write, func(tx *Tx) error {
			if err := tx.begin(try >= tries); err != nil {
				return err
			}
			if err := do(tx); err != nil {
				return err
			}
			return ride.write(tx)
		})
		if err == nil {
			ride.committed()
			s.changes.wake(tx.touched)
			if s.told != nil && len(tx.touched) > 0 {
				s.told(slices.Collect(maps.Keys(tx.touched)))
			}
			return nil
		}
		if try > tries || !inTheWay(err) || !life.Sleep(ctx, rand.N(waitAtMax)) {
			return err
		}
	}
}

// begin takes the records, to itself or with others.
func (tx *Tx) begin(alone bool) error {
	if !tx.traits.shared {
		return nil
	}
	statement := tx.traits.enter
	if alone {
		statement = tx.traits.alone
	}
	if _, err := tx.exec(statement); err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	return nil
}

// View runs a transaction that reads one state of the records.
func (s *Store) View(ctx context.Context, do func(*Tx) error) error {
	defer observe(s.took, time.Now())
	tx := s.newTx()
	return transact(ctx, s.reader, tx, tx.traits.read, do)
}

// observe notes how long something took; o may be nil.
func observe(o prometheus.Observer, began time.Time) {
	if o != nil {
		o.Observe(time.Since(began).Seconds())
	}
}

func transact(ctx context.Context, db *sql.DB, tx *Tx, options *sql.TxOptions, do func(*Tx) error) (err error) {
	if tx.sql, err = db.BeginTx(ctx, options); err != nil {
		return fmt.Errorf("begin transaction: %w", classify(err))
	}
	// After a commit this does nothing.
	defer func() { _ = tx.sql.Rollback() }()
	err = do(tx)
	if tx.broken != nil && !errors.Is(err, tx.broken) {
		return tx.broken // what the function made of it is not the cause
	}
	if err != nil {
		return err
	}
	if err := tx.write(); err != nil {
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

// Err gives the error of the transaction's first statement that failed; nil
// while none has. Nothing of such a transaction is kept.
func (tx *Tx) Err() error { return tx.broken }

// broke notes that a statement failed, and gives its error a kind.
func (tx *Tx) broke(err error) error {
	err = classify(err)
	if tx.broken == nil {
		tx.broken = err
	}
	return err
}

// touch notes that the transaction changed what a topic is about.
func (tx *Tx) touch(topic Topic) { tx.touched[topic] = true }
