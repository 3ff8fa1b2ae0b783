package store

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
)

// backupFormat names the format and its version: docs/formats/backup.md.
const backupFormat = "vigil-backup-1"

// backupLine is one line of a backup: a head, a table, a row of it, or the end.
type backupLine struct {
	Format string    `json:"format,omitempty"` // head
	Schema int64     `json:"schema,omitempty"` // head: the schema's version
	Made   time.Time `json:"made,omitzero"`    // head

	Table   string   `json:"table,omitempty"`
	Columns []string `json:"columns,omitempty"`

	Row []backupValue `json:"row,omitempty"`

	End    bool   `json:"end,omitempty"`
	Rows   int64  `json:"rows,omitempty"`   // end: how many there are
	SHA256 string `json:"sha256,omitempty"` // end: of all lines before it
}

// backupValue is an integer, a text or bytes.
type backupValue struct {
	Int   *int64  `json:"i,omitempty"`
	Text  *string `json:"s,omitempty"`
	Bytes []byte  `json:"b,omitempty"` // none of the three: no bytes
}

// ofOneInstallation are tables that say nothing once it has ended.
var ofOneInstallation = []string{"schema_version", gate, "replicas", "leases"}

// Backup writes all records, as they are at one moment, while others go on. The
// other engine can read it too. It gives how many rows there are.
func (s *Store) Backup(ctx context.Context, to io.Writer) (rows int64, err error) {
	zipped := gzip.NewWriter(to)
	w := &backupWriter{to: zipped, sum: sha256.New()}
	err = s.View(ctx, func(tx *Tx) error {
		var version int64
		if err := tx.one("schema version", "SELECT MAX(version) FROM schema_version", nil, &version); err != nil {
			return err
		}
		if err := w.line(backupLine{Format: backupFormat, Schema: version, Made: tx.now.UTC()}); err != nil {
			return err
		}
		var tables []string
		err := tx.each("tables", tx.traits.tables, nil, func(rows *sql.Rows) error {
			var name string
			err := rows.Scan(&name)
			tables = append(tables, name)
			return err
		})
		for _, table := range tables {
			if err == nil && !slices.Contains(ofOneInstallation, table) {
				err = w.table(tx, table)
			}
		}
		return err
	})
	if err == nil {
		err = w.line(backupLine{End: true, Rows: w.rows, SHA256: hex.EncodeToString(w.sum.Sum(nil))})
	}
	if err = errors.Join(err, zipped.Close()); err != nil {
		return 0, fmt.Errorf("back up the records: %w", err)
	}
	return w.rows, nil
}

type backupWriter struct {
	to   io.Writer
	sum  hash.Hash
	rows int64
}

func (w *backupWriter) line(l backupLine) error {
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if !l.End {
		_, _ = w.sum.Write(text) // a hash takes all
	}
	_, err = w.to.Write(text)
	return err
}

func (w *backupWriter) table(tx *Tx, table string) error {
	begun := false
	return tx.each("rows of "+table, "SELECT * FROM "+table+" ORDER BY 1", nil, func(rows *sql.Rows) error {
		columns, err := rows.Columns()
		if err != nil {
			return err
		}
		if !begun {
			begun = true
			if err := w.line(backupLine{Table: table, Columns: columns}); err != nil {
				return err
			}
		}
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return err
		}
		line := backupLine{Row: make([]backupValue, len(columns))}
		for i, value := range values {
			switch v := value.(type) {
			case int64:
				line.Row[i].Int = &v
			case string:
				line.Row[i].Text = &v
			case []byte:
				line.Row[i].Bytes = v
			default:
				return fmt.Errorf("column %s of %s holds a %T, which no backup has", columns[i], table, value)
			}
		}
		w.rows++
		return w.line(line)
	})
}

// Restore makes the records of a backup those of an empty database, all or none
// of them, and brings them up to date. A database that has records gives
// [fault.Precondition], a backup that is damaged or cut short [fault.Corrupt],
// one of a newer Vigil [fault.Precondition]. With newBus the readers of the bus
// begin at its start: it is another one than the backup's, and empty.
func Restore(ctx context.Context, config Config, from io.Reader, newBus bool) (rows int64, err error) {
	e, err := engineOf(config)
	if err != nil {
		return 0, err
	}
	writer, reader, err := e.open()
	defer func() {
		for _, db := range []*sql.DB{writer, reader} {
			if db != nil {
				err = errors.Join(err, db.Close())
			}
		}
	}()
	if err == nil {
		rows, err = restore(ctx, writer, e, from, newBus)
	}
	if err != nil && !fault.Is(err, fault.Corrupt) {
		err = classify(err)
	}
	if err != nil {
		return 0, fmt.Errorf("restore the records into %s: %w", e.place(), err)
	}
	return rows, nil
}

func restore(ctx context.Context, db *sql.DB, e engine, from io.Reader, newBus bool) (rows int64, err error) {
	zipped, err := gzip.NewReader(from)
	if err != nil {
		return 0, fault.New(fault.Corrupt, "read backup: %w", err)
	}
	r := &backupReader{lines: bufio.NewReader(zipped), sum: sha256.New()}
	head, err := r.next()
	steps, err2 := migrations(migrationFiles)
	switch {
	case errors.Join(err, err2) != nil:
		return 0, errors.Join(err, err2)
	case head.Format != backupFormat || head.Schema < 1:
		return 0, fault.New(fault.Corrupt, "read backup: this is none")
	case head.Schema > int64(len(steps)):
		return 0, fault.New(fault.Precondition, "the backup's schema has version %d and this program knows versions up to %d", head.Schema, len(steps))
	}
	was, _, err := migrateWith(ctx, db, e, steps[:head.Schema])
	if err != nil {
		return 0, err
	}
	blank := was == 0
	if was == head.Schema { // a restore that came to nothing was here before
		if blank, err = isBlank(ctx, db); err != nil {
			return 0, err
		}
	}
	if !blank {
		return 0, fault.WithHint(fault.New(fault.Precondition, "there are records already"), "restore into an empty database, or move the file away")
	}
	if err := r.rowsInto(ctx, db, e); err != nil {
		return 0, err
	}
	if _, _, err = migrateWith(ctx, db, e, steps); err != nil || !newBus {
		return r.rows, err
	}
	for _, statement := range []string{
		"DELETE FROM cursors WHERE name = 'pipeline' OR name LIKE 'pipeline/%' OR name LIKE 'export/%/events'",
		"DELETE FROM replay_marks", "UPDATE runs SET first_sequence = 0",
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return r.rows, fmt.Errorf("begin a new bus: %w", err)
		}
	}
	return r.rows, nil
}

// isBlank tells whether a schema has no records.
func isBlank(ctx context.Context, db *sql.DB) (bool, error) {
	var rows int64
	err := db.QueryRowContext(ctx, `SELECT (SELECT COUNT(*) FROM runs) + (SELECT COUNT(*) FROM nodes) + (SELECT COUNT(*) FROM incidents)
		+ (SELECT COUNT(*) FROM cursors)`).Scan(&rows)
	return rows == 0, err
}

type backupReader struct {
	lines *bufio.Reader
	sum   hash.Hash
	rows  int64
}

func (r *backupReader) next() (l backupLine, err error) {
	text, err := r.lines.ReadBytes('\n')
	if err != nil {
		return l, fault.New(fault.Corrupt, "read backup: it is cut short: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&l); err != nil {
		return l, fault.New(fault.Corrupt, "read backup: %w", err)
	}
	if !l.End {
		_, _ = r.sum.Write(text)
	}
	return l, nil
}

// rowsInto inserts all rows, and commits when the end is as it should be.
func (r *backupReader) rowsInto(ctx context.Context, db *sql.DB, e engine) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit this does nothing
	insert, cleared := "", ""
	for {
		l, err := r.next()
		switch {
		case err != nil:
			return err
		case l.End:
			if l.Rows != r.rows || l.SHA256 != hex.EncodeToString(r.sum.Sum(nil)) {
				return fault.New(fault.Corrupt, "read backup: it is damaged")
			}
			return tx.Commit()
		case l.Table != "":
			insert, cleared = insertInto(l.Table, l.Columns), "DELETE FROM "+quoted(l.Table)
			if _, err := tx.ExecContext(ctx, cleared); err != nil { // what migrations put there
				return unfit(err)
			}
		default:
			var values []any
			for _, v := range l.Row {
				values = append(values, v.value(e.traits()))
			}
			if _, err := tx.ExecContext(ctx, insert, values...); err != nil {
				return unfit(err)
			}
			r.rows++
		}
	}
}

// unfit is an error of a row that the schema does not take: its sum would have
// shown the damage at the end.
func unfit(err error) error {
	if err = classify(err); fault.Is(err, fault.Unavailable) || fault.Is(err, fault.Exhausted) {
		return err
	}
	return fault.New(fault.Corrupt, "read backup: its rows do not fit: %w", err)
}

func (v backupValue) value(t traits) any {
	switch {
	case v.Int != nil:
		return *v.Int
	case v.Text != nil:
		return t.text(*v.Text)
	}
	return append([]byte{}, v.Bytes...)
}

func insertInto(table string, columns []string) string {
	names, marks := make([]string, len(columns)), make([]string, len(columns))
	for i, column := range columns {
		names[i], marks[i] = quoted(column), fmt.Sprintf("$%d", i+1)
	}
	return "INSERT INTO " + quoted(table) + " (" + strings.Join(names, ", ") + ") VALUES (" + strings.Join(marks, ", ") + ")"
}

// quoted is a name as SQL takes any.
func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
