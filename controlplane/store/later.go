package store

import (
	"fmt"
	"strconv"
	"strings"
)

// table is one whose new rows are written many at a time.
type table int

// The tables, in the order in which their rows are written.
const (
	incidentRows table = iota
	findingRows
	timelineRows
	groupRows
	memberRows
	tables
)

// rowsAtOnce is how many rows one statement writes; what is left is written one
// by one, so that there are two statements a table and not one for each number.
const rowsAtOnce = 16

// insert gives how a row is written: what comes before its values, how many
// those are, and what comes behind.
func (t table) insert() (before string, columns int, behind string) {
	switch t {
	case incidentRows:
		return `INSERT INTO incidents
		(incident_id, run_id, attempt, onset_step, finding_count, state, opened, resolved, body,
		occurrences, latest, resolved_event, fingerprint, expires, reopened, changed, node) VALUES `, 17,
			` ON CONFLICT (incident_id) DO UPDATE SET run_id = excluded.run_id, node = excluded.node, attempt = excluded.attempt,
		onset_step = excluded.onset_step, finding_count = excluded.finding_count, state = excluded.state,
		resolved = excluded.resolved, body = excluded.body, occurrences = excluded.occurrences, latest = excluded.latest,
		resolved_event = excluded.resolved_event, fingerprint = excluded.fingerprint, expires = excluded.expires,
		reopened = excluded.reopened, changed = excluded.changed, opened = excluded.opened`
	case findingRows:
		return "INSERT INTO findings (finding_id, incident_id, run_id, onset_step, severity, event_time, body) VALUES ", 7,
			" ON CONFLICT (finding_id) DO NOTHING"
	case timelineRows:
		// Two incidents that have one id by chance must not keep all else from
		// going on.
		return "INSERT INTO timeline (incident_id, position, body) VALUES ", 3, " ON CONFLICT (incident_id, position) DO NOTHING"
	case groupRows:
		return "INSERT INTO alert_groups (group_id, place, route, receiver, labels, due, looked, told) VALUES ", 8,
			" ON CONFLICT (group_id) DO UPDATE SET due = excluded.due, looked = excluded.looked, told = excluded.told"
	}
	return "INSERT INTO alert_members (place, incident_id, told, told_severity) VALUES ", 4,
		" ON CONFLICT (incident_id, place) DO NOTHING"
}

// statement gives the text that writes so many rows.
func (t table) statement(rows int, unnamed bool) string {
	before, columns, behind := t.insert()
	var text strings.Builder
	text.Grow(len(before) + len(behind) + 7*rows*columns)
	text.WriteString(before)
	for n := range rows * columns {
		switch {
		case n == 0:
			text.WriteByte('(')
		case n%columns == 0:
			text.WriteString("), (")
		default:
			text.WriteString(", ")
		}
		if unnamed {
			text.WriteByte('?')
			continue
		}
		text.WriteByte('$')
		text.WriteString(strconv.Itoa(n + 1))
	}
	text.WriteString(")" + behind)
	return text.String()
}

// waitingRows is the rows of a table that are not written yet, by what knows
// them: a row that is put again takes the place of the one before.
type waitingRows struct {
	rows [][]any
	at   map[string]int
}

// later has a row written before the transaction's next statement that may read
// it, and before its end: the engine writes many rows of one table faster than
// as many by themselves.
func (tx *Tx) later(t table, key string, values ...any) {
	w := &tx.cache.later[t]
	values = tx.keepable(values)
	if n, again := w.at[key]; again {
		w.rows[n] = values
		return
	}
	if w.at == nil {
		w.at = map[string]int{}
	}
	w.at[key] = len(w.rows)
	w.rows = append(w.rows, values)
}

// waits tells whether the row of a key is still to be written.
func (tx *Tx) waits(t table, key string) bool {
	_, waits := tx.cache.later[t].at[key]
	return waits
}

// change changes a row that waits; false when none does under the key.
func (tx *Tx) change(t table, key string, do func(row []any)) bool {
	w := &tx.cache.later[t]
	n, waits := w.at[key]
	if waits {
		do(w.rows[n])
	}
	return waits
}

// writeFor writes the rows that wait if a statement is about one of their
// tables, and refuses one behind a statement that failed. There are no triggers
// and views: a statement is about the tables that it names.
func (tx *Tx) writeFor(query string) error {
	if tx.broken != nil {
		return tx.broken
	}
	for t := range tables {
		if len(tx.cache.later[t].rows) > 0 && strings.Contains(query, t.name()) {
			return tx.write()
		}
	}
	return nil
}

// write writes the rows that wait.
func (tx *Tx) write() error {
	for t := range tables {
		rows := tx.cache.later[t].rows
		if len(rows) == 0 {
			continue
		}
		tx.cache.later[t] = waitingRows{}
		for len(rows) > 0 {
			some := 1
			if len(rows) >= rowsAtOnce {
				some = rowsAtOnce
			}
			values := make([]any, 0, some*len(rows[0]))
			for _, row := range rows[:some] {
				values = append(values, row...)
			}
			if _, err := tx.sql.Exec(t.statement(some, tx.traits.unnamed), values...); err != nil {
				return fmt.Errorf("write rows of %s: %w", t.name(), tx.broke(err))
			}
			rows = rows[some:]
		}
	}
	return nil
}

// name is the table's in the schema.
func (t table) name() string {
	return [...]string{"incidents", "findings", "timeline", "alert_groups", "alert_members"}[t]
}
