package store

import (
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
)

// AuditRecord is a record of the audit log as it is stored.
type AuditRecord struct {
	Seq       uint64
	Time      time.Time
	Class     string
	Actor     string // kind/id
	Action    string
	Outcome   string
	Objects   []string // ids that it names; written, not read
	Expires   time.Time
	Signature string
	Body      []byte // canonical JSON; nil when it was let go of
}

// HashSize is the bytes of a hash of the audit log's tree.
const HashSize = 32

// AuditSize gives how many records there are.
func (tx *Tx) AuditSize() (size uint64, err error) {
	err = tx.one("size of the audit log", "SELECT size FROM audit_head WHERE id = 1", nil, &size)
	return size, err
}

// NextAudit takes the next place of the log, so that no other transaction has
// it, and gives it.
func (tx *Tx) NextAudit() (seq uint64, err error) {
	err = tx.one("next place of the audit log", "UPDATE audit_head SET size = size + 1 WHERE id = 1 RETURNING size - 1", nil, &seq)
	return seq, err
}

// AppendAudit writes a record at the place that [Tx.NextAudit] gave, and the
// hashes of its tree from a position on.
func (tx *Tx) AppendAudit(r AuditRecord, position int64, hashes [][HashSize]byte) error {
	_, err := tx.exec(`INSERT INTO audit_records (seq, time, class, actor, action, outcome, expires, signature, body)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		int64(r.Seq), nanos(r.Time), r.Class, r.Actor, r.Action, r.Outcome, nanos(r.Expires), r.Signature, r.Body)
	if err != nil {
		return fmt.Errorf("append audit record %d: %w", r.Seq, err)
	}
	var pairs []any
	for i, hash := range hashes {
		pairs = append(pairs, position+int64(i), hash[:])
	}
	if err := tx.insertPairs("audit_hashes (position, hash)", pairs); err != nil {
		return fmt.Errorf("append audit hashes from %d: %w", position, err)
	}
	pairs = nil
	for _, object := range slices.Compact(slices.Sorted(slices.Values(r.Objects))) {
		pairs = append(pairs, object, int64(r.Seq))
	}
	if err := tx.insertPairs("audit_objects (object, seq)", pairs); err != nil {
		return fmt.Errorf("append objects of audit record %d: %w", r.Seq, err)
	}
	tx.touch(TopicAudit)
	return nil
}

// insertPairs inserts rows of two columns in one statement.
func (tx *Tx) insertPairs(into string, pairs []any) error {
	if len(pairs) == 0 {
		return nil
	}
	rows := make([]string, len(pairs)/2)
	for i := range rows {
		rows[i] = fmt.Sprintf("($%d, $%d)", 2*i+1, 2*i+2)
	}
	_, err := tx.exec("INSERT INTO "+into+" VALUES "+strings.Join(rows, ", "), pairs...)
	return err
}

// AuditHashes gives hashes of the tree by their positions; one that is missing
// gives [fault.Corrupt].
func (tx *Tx) AuditHashes(positions []int64) ([][HashSize]byte, error) {
	if len(positions) == 0 {
		return nil, nil
	}
	marks, args := make([]string, len(positions)), make([]any, len(positions))
	for i, position := range positions {
		marks[i], args[i] = fmt.Sprintf("$%d", i+1), position
	}
	found := map[int64][HashSize]byte{}
	err := tx.each("audit hashes", "SELECT position, hash FROM audit_hashes WHERE position IN ("+strings.Join(marks, ", ")+")", args,
		func(rows *sql.Rows) error {
			var position int64
			var hash []byte
			if err := rows.Scan(&position, &hash); err != nil {
				return err
			}
			if len(hash) == HashSize {
				found[position] = [HashSize]byte(hash)
			}
			return nil
		})
	if err != nil {
		return nil, err
	}
	out := make([][HashSize]byte, len(positions))
	for i, position := range positions {
		hash, ok := found[position]
		if !ok {
			return nil, fault.New(fault.Corrupt, "find audit hash %d: there is none", position)
		}
		out[i] = hash
	}
	return out, nil
}

// AuditQuery says which records are wanted; an empty field asks for nothing.
type AuditQuery struct {
	From, Before   uint64 // places; Before 0 is no bound
	Since, Until   time.Time
	Class, Outcome string
	Actor          string // kind/id
	Action         string // the end of its name, such as ResolveIncident
	Object         string // an id
	Newest         bool   // the newest first
	Limit          int    // 0 is no limit
}

// AuditRecords gives records, by place.
func (tx *Tx) AuditRecords(q AuditQuery) ([]AuditRecord, error) {
	where, args := []string{"seq >= $1"}, []any{int64(q.From)}
	add := func(condition string, arg any) {
		args = append(args, arg)
		where = append(where, fmt.Sprintf(condition, len(args)))
	}
	if q.Before > 0 {
		add("seq < $%d", int64(q.Before))
	}
	if !q.Since.IsZero() {
		add("time >= $%d", nanos(q.Since))
	}
	if !q.Until.IsZero() {
		add("time < $%d", nanos(q.Until))
	}
	for column, value := range map[string]string{"class": q.Class, "outcome": q.Outcome, "actor": q.Actor} {
		if value != "" {
			add(column+" = $%d", value)
		}
	}
	if q.Action != "" {
		add("action LIKE $%d ESCAPE '!'", "%"+strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(q.Action))
	}
	if q.Object != "" {
		add("seq IN (SELECT seq FROM audit_objects WHERE object = $%d)", q.Object)
	}
	order := "seq"
	if q.Newest {
		order = "seq DESC"
	}
	args = append(args, rowsUpTo(q.Limit))
	query := fmt.Sprintf(`SELECT seq, time, class, actor, action, outcome, expires, signature, body FROM audit_records
		WHERE %s ORDER BY %s LIMIT $%d`, strings.Join(where, " AND "), order, len(args))
	var all []AuditRecord
	err := tx.each("audit records", query, args, func(rows *sql.Rows) error {
		var r AuditRecord
		var at, expires int64
		if err := rows.Scan(&r.Seq, &at, &r.Class, &r.Actor, &r.Action, &r.Outcome, &expires, &r.Signature, &r.Body); err != nil {
			return err
		}
		r.Time, r.Expires = timeOf(at), timeOf(expires)
		if len(r.Body) == 0 {
			r.Body = nil
		}
		all = append(all, r)
		return nil
	})
	return all, err
}

// AuditCount is how often an actor did one thing with one outcome.
type AuditCount struct {
	Actor, Action, Outcome string
	Count                  int64
	First, Last            time.Time
}

// AuditActivity counts what was done in a time, by actor, action and outcome;
// with an actor, only what that one did.
func (tx *Tx) AuditActivity(actor string, since, until time.Time) ([]AuditCount, error) {
	var all []AuditCount
	err := tx.each("activity", `SELECT actor, action, outcome, COUNT(*), MIN(time), MAX(time) FROM audit_records
		WHERE ($1 = '' OR actor = $1) AND time >= $2 AND time < $3
		GROUP BY actor, action, outcome ORDER BY actor, COUNT(*) DESC, action, outcome`,
		[]any{actor, nanos(since), nanos(until)}, func(rows *sql.Rows) error {
			var c AuditCount
			var first, last int64
			if err := rows.Scan(&c.Actor, &c.Action, &c.Outcome, &c.Count, &first, &last); err != nil {
				return err
			}
			c.First, c.Last = timeOf(first), timeOf(last)
			all = append(all, c)
			return nil
		})
	return all, err
}

// ExpiredAudit gives the places of records that are still there, were written
// before a time, and may be let go of, in order, at most limit.
func (tx *Tx) ExpiredAudit(now, before time.Time, limit int) (places []uint64, err error) {
	err = tx.each("expired audit records", "SELECT seq FROM audit_records WHERE time <= $1 AND expires <= $2 AND class <> '' ORDER BY seq LIMIT $3",
		[]any{nanos(before), nanos(now), limit}, func(rows *sql.Rows) error {
			var seq uint64
			if err := rows.Scan(&seq); err != nil {
				return err
			}
			places = append(places, seq)
			return nil
		})
	return places, err
}

// LetGoOfAudit empties records; their places, hashes and signatures stay.
func (tx *Tx) LetGoOfAudit(places []uint64) error {
	for _, seq := range places {
		_, err := tx.exec("UPDATE audit_records SET class = '', actor = '', action = '', outcome = '', body = $1 WHERE seq = $2", []byte{}, int64(seq))
		if err != nil {
			return fmt.Errorf("let go of audit record %d: %w", seq, err)
		}
		if _, err := tx.exec("DELETE FROM audit_objects WHERE seq = $1", int64(seq)); err != nil {
			return fmt.Errorf("let go of audit record %d: %w", seq, err)
		}
	}
	return nil
}
