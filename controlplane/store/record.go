package store

import (
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/internal/fault"
)

// exec runs a statement and gives how many rows it changed.
func (tx *Tx) exec(query string, args ...any) (rows int64, err error) {
	if err := tx.writeFor(query); err != nil {
		return 0, err
	}
	result, err := tx.sql.Exec(query, tx.keepable(args)...)
	if err != nil {
		return 0, tx.broke(err)
	}
	return result.RowsAffected()
}

// keepable gives a statement's values as the engine can keep them.
func (tx *Tx) keepable(args []any) []any {
	for i, arg := range args {
		if text, ok := arg.(string); ok {
			if kept := tx.traits.text(text); kept != text {
				args[i] = kept
			}
		}
	}
	return args
}

// one reads the only row of a query into dest; what names it for the error
// when there is none.
func (tx *Tx) one(what, query string, args []any, dest ...any) error {
	if err := tx.writeFor(query); err != nil {
		return err
	}
	err := tx.sql.QueryRow(query, tx.keepable(args)...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return notFound(what)
	}
	if err != nil {
		return fmt.Errorf("find %s: %w", what, tx.broke(err))
	}
	return nil
}

func notFound(what string) error {
	return fault.New(fault.NotFound, "find %s: there is none", what)
}

// each calls scan for each row of a query.
func (tx *Tx) each(what, query string, args []any, scan func(*sql.Rows) error) error {
	if err := tx.writeFor(query); err != nil {
		return err
	}
	return tx.eachWritten(what, query, args, scan)
}

// eachWritten is each for a query that none of the rows matter to that wait to
// be written.
func (tx *Tx) eachWritten(what, query string, args []any, scan func(*sql.Rows) error) (err error) {
	if tx.broken != nil {
		return fmt.Errorf("list %s: %w", what, tx.broken)
	}
	rows, err := tx.sql.Query(query, tx.keepable(args)...)
	if err != nil {
		return fmt.Errorf("list %s: %w", what, tx.broke(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("list %s: %w", what, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("list %s: %w", what, tx.broke(err))
	}
	return nil
}

// message is a pointer to a record's generated type.
type message[T any] interface {
	*T
	proto.Message
}

// get reads the one message of a query that selects only body.
func get[T any, M message[T]](tx *Tx, what, query string, args ...any) (M, error) {
	var body []byte
	if err := tx.one(what, query, args, &body); err != nil {
		return nil, err
	}
	m := M(new(T))
	if err := tx.unmarshal(what, body, m); err != nil {
		return nil, err
	}
	return m, nil
}

// list reads the messages of a query that selects only body.
func list[T any, M message[T]](tx *Tx, what, query string, args ...any) ([]M, error) {
	var all []M
	err := tx.each(what, query, args, func(rows *sql.Rows) error {
		var body []byte
		if err := rows.Scan(&body); err != nil {
			return err
		}
		m := M(new(T))
		all = append(all, m)
		return tx.unmarshal(what, body, m)
	})
	return all, err
}

// marshal gives a record's bytes; equal records give equal bytes.
func marshal(m proto.Message) ([]byte, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fault.New(fault.Invalid, "encode record: %w", err)
	}
	return body, nil
}

// nanos is a time as it is stored; 0 when absent.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func nanosOf(t *timestamppb.Timestamp) int64 {
	if t == nil {
		return 0
	}
	return t.AsTime().UnixNano()
}

// timeOf is the reverse of nanos.
func timeOf(nanos int64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos).UTC()
}

func timestampOf(nanos int64) *timestamppb.Timestamp {
	if nanos == 0 {
		return nil
	}
	return timestamppb.New(timeOf(nanos))
}

// rowsUpTo is a limit as SQL takes it; 0 and less mean no limit.
func rowsUpTo(limit int) int {
	if limit <= 0 {
		return math.MaxInt32
	}
	return limit
}

// ofRun is the condition for one run, $1, or for all when it is empty, so that
// the index that fits is used.
func ofRun(runID string) string {
	if runID == "" {
		return "$1 = ''"
	}
	return "run_id = $1 AND run_id <> ''"
}

// classify gives the engine's errors their kinds.
func classify(err error) error { return classifyPostgres(classifySQLite(err)) }
