package store

import (
	"database/sql"
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// sealedTable is one whose bodies are encrypted.
type sealedTable struct {
	name string
	key  []string // its primary key
	of   protoreflect.FullName
	some string // the condition for rows that are encrypted at all
}

// sealedTables lists them; a test holds it against what is marked as personal.
func sealedTables() []sealedTable {
	incident := nameOf(&controlv1.Incident{})
	return []sealedTable{
		{"access_tokens", []string{"token_id"}, nameOf(&controlv1.Token{}), ""},
		{"checkpoint_tasks", []string{"task_id"}, nameOf(&controlv1.CheckpointTask{}), ""},
		{"export_records", []string{"sequence"}, incident, " AND kind = '" + ExportIncident + "'"},
		{"feedback", []string{"finding_id"}, nameOf(&controlv1.Feedback{}), ""},
		{"incidents", []string{"incident_id"}, incident, ""},
		{"outbox", []string{"notification_id"}, nameOf(&controlv1.GroupNotification{}), ""},
		{"silences", []string{"silence_id"}, nameOf(&controlv1.Silence{}), ""},
		{"timeline", []string{"incident_id", "position"}, nameOf(&controlv1.TimelineEntry{}), ""},
	}
}

// behind is the condition for rows that a text does not begin yet, $1 bytes of
// it, $2.
const behind = "LENGTH(body) > 0 AND SUBSTR(body, 1, $1) <> $2"

// Behind counts the records that are to be encrypted, and those of them that are
// not yet with the sealer's present key. Prefix begins what it encrypts.
func (tx *Tx) Behind(prefix []byte) (all, still int64, err error) {
	begin := append(sealed[:], prefix...)
	for _, t := range sealedTables() {
		var rows, left int64
		err := tx.one("records of "+t.name, `SELECT COUNT(*), COALESCE(SUM(CASE WHEN `+behind+` THEN 1 ELSE 0 END), 0)
			FROM `+t.name+" WHERE LENGTH(body) > 0"+t.some, []any{len(begin), begin}, &rows, &left)
		if err != nil {
			return 0, 0, err
		}
		all, still = all+rows, still+left
	}
	return all, still, nil
}

// Reseal encrypts at most limit of those records with the sealer's present key,
// and gives how many: none when all are.
func (tx *Tx) Reseal(prefix []byte, limit int) (done int, err error) {
	begin := append(sealed[:], prefix...)
	for _, t := range sealedTables() {
		if done >= limit {
			break
		}
		n, err := tx.resealTable(t, begin, limit-done)
		if err != nil {
			return done, fmt.Errorf("encrypt %s anew: %w", t.name, err)
		}
		done += n
	}
	return done, nil
}

func (tx *Tx) resealTable(t sealedTable, begin []byte, limit int) (int, error) {
	var found [][]any // the key's values, and the body
	err := tx.each("records of "+t.name, "SELECT "+strings.Join(t.key, ", ")+", body FROM "+t.name+" WHERE "+behind+t.some+" LIMIT $3",
		[]any{len(begin), begin, limit}, func(rows *sql.Rows) error {
			values, into := make([]any, len(t.key)+1), make([]any, len(t.key)+1)
			for i := range values {
				into[i] = &values[i]
			}
			found = append(found, values)
			return rows.Scan(into...)
		})
	if err != nil {
		return 0, err
	}
	where := make([]string, len(t.key))
	for i, column := range t.key {
		where[i] = fmt.Sprintf("%s = $%d", column, i+2)
	}
	update := "UPDATE " + t.name + " SET body = $1 WHERE " + strings.Join(where, " AND ")
	for _, row := range found {
		old, _ := row[len(t.key)].([]byte)
		plain, err := tx.open("record of "+t.name, t.of, old)
		if err != nil {
			return 0, err
		}
		fresh, err := tx.seal(t.of, plain)
		if err != nil {
			return 0, err
		}
		if _, err := tx.exec(update, append([]any{fresh}, row[:len(t.key)]...)...); err != nil {
			return 0, err
		}
	}
	return len(found), nil
}
