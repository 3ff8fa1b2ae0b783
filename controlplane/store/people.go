package store

import (
	"database/sql"
	"fmt"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Subject is what is kept of somebody whom audit records name.
type Subject struct {
	Subject string // kind/id
	KeyID   string
	Key     []byte // encrypted; empty once they were erased
	Profile []byte // encrypted; empty while nothing is known
	Email   string // a keyed digest; empty while it is not known
	Created time.Time
	Changed time.Time
	Erased  time.Time // zero while they are not
}

const subjectColumns = "SELECT subject, key_id, key, profile, email, created, changed, erased FROM people WHERE "

// Subject gives one by kind/id.
func (tx *Tx) Subject(subject string) (Subject, error) {
	found, err := tx.subjects("subject = $1", subject)
	if err == nil && len(found) == 0 {
		err = notFound("subject " + subject)
	}
	if err != nil {
		return Subject{}, err
	}
	return found[0], nil
}

// SubjectsOfEmail gives those with a digest of an address.
func (tx *Tx) SubjectsOfEmail(digest string) ([]Subject, error) {
	return tx.subjects("email = $1 AND email <> '' ORDER BY subject", digest)
}

// SubjectsBehind gives at most limit whose key does not begin with a prefix,
// which tells what it is encrypted with.
func (tx *Tx) SubjectsBehind(prefix []byte, limit int) ([]Subject, error) {
	return tx.subjects("LENGTH(key) > 0 AND SUBSTR(key, 1, $1) <> $2 LIMIT $3", len(prefix), prefix, limit)
}

func (tx *Tx) subjects(where string, args ...any) ([]Subject, error) {
	var all []Subject
	err := tx.each("subjects", subjectColumns+where, args, func(rows *sql.Rows) error {
		var s Subject
		var created, changed, erased int64
		if err := rows.Scan(&s.Subject, &s.KeyID, &s.Key, &s.Profile, &s.Email, &created, &changed, &erased); err != nil {
			return err
		}
		s.Created, s.Changed, s.Erased = timeOf(created), timeOf(changed), timeOf(erased)
		all = append(all, s)
		return nil
	})
	return all, err
}

// PutSubject writes one.
func (tx *Tx) PutSubject(s Subject) error {
	_, err := tx.exec(`INSERT INTO people (subject, key_id, key, profile, email, created, changed, erased) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (subject) DO UPDATE SET key_id = excluded.key_id, key = excluded.key, profile = excluded.profile,
		email = excluded.email, created = excluded.created, changed = excluded.changed, erased = excluded.erased`,
		s.Subject, s.KeyID, bytesOr(s.Key), bytesOr(s.Profile), s.Email, nanos(s.Created), nanos(s.Changed), nanos(s.Erased))
	if err != nil {
		return fmt.Errorf("put subject %s: %w", s.Subject, err)
	}
	tx.touch(TopicPeople)
	return nil
}

// bytesOr has no bytes be stored as none, not as NULL.
func bytesOr(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// CountSubjects gives how many have a key, and of how many it begins with a
// prefix, which tells what it is encrypted with.
func (tx *Tx) CountSubjects(prefix []byte) (all, with int64, err error) {
	err = tx.one("subjects", "SELECT COUNT(*), COALESCE(SUM(CASE WHEN SUBSTR(key, 1, $1) = $2 THEN 1 ELSE 0 END), 0) FROM people WHERE LENGTH(key) > 0",
		[]any{len(prefix), prefix}, &all, &with)
	return all, with, err
}

// CountAudit gives how many audit records name an actor, kind/id.
func (tx *Tx) CountAudit(actor string) (count int64, err error) {
	err = tx.one("audit records", "SELECT COUNT(*) FROM audit_records WHERE actor = $1", []any{actor}, &count)
	return count, err
}

// RecordKeys gives the records' keys, encrypted, and when they were written;
// [fault.NotFound] where there are none yet.
func (tx *Tx) RecordKeys() (body []byte, written int64, err error) {
	err = tx.one("keys of the records", "SELECT body, written FROM record_keys WHERE id = 1", nil, &body, &written)
	return body, written, err
}

// PutRecordKeys writes them, if they are still those that were written then: 0
// is none. Else it fails with [fault.Precondition].
func (tx *Tx) PutRecordKeys(body []byte, before int64) error {
	statement, args := "UPDATE record_keys SET body = $1, written = written + 1 WHERE id = 1 AND written = $2", []any{body, before}
	if before == 0 {
		statement, args = "INSERT INTO record_keys (id, body, written) VALUES (1, $1, 1) ON CONFLICT (id) DO NOTHING", []any{body}
	}
	rows, err := tx.exec(statement, args...)
	if err != nil {
		return fmt.Errorf("put keys of the records: %w", err)
	}
	if rows == 0 {
		return fault.New(fault.Precondition, "put keys of the records: somebody else changed them meanwhile")
	}
	tx.touch(TopicPeople)
	return nil
}

// LocalAdmin gives the hash of the local administrator's secret.
func (tx *Tx) LocalAdmin() (hash []byte, err error) {
	err = tx.one("local administrator", "SELECT hash FROM local_admin WHERE id = 1", nil, &hash)
	return hash, err
}

// PutLocalAdmin writes it.
func (tx *Tx) PutLocalAdmin(hash []byte) error {
	_, err := tx.exec(`INSERT INTO local_admin (id, hash, created) VALUES (1, $1, $2)
		ON CONFLICT (id) DO UPDATE SET hash = excluded.hash, created = excluded.created`, hash, nanos(tx.now))
	if err != nil {
		return fmt.Errorf("put local administrator: %w", err)
	}
	tx.touch(TopicAccess)
	return nil
}
