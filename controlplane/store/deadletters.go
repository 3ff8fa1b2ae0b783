package store

import (
	"context"
	"database/sql"
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// DeadLetters gives at most limit notifications that were given up, of one
// receiver or of all when it is empty, the last first; limit 0 means all.
func (tx *Tx) DeadLetters(receiver string, limit int) ([]*controlv1.DeadLetter, error) {
	var all []*controlv1.DeadLetter
	err := tx.each("dead letters", `SELECT notification_id, incident_id, receiver, incident_state, tries, created, failed, error
		FROM outbox WHERE state = $1 AND ($2 = '' OR receiver = $2) ORDER BY failed DESC, notification_id LIMIT $3`,
		[]any{failed, receiver, rowsUpTo(limit)}, func(rows *sql.Rows) error {
			l := &controlv1.DeadLetter{}
			var created, failed int64
			err := rows.Scan(&l.NotificationId, &l.IncidentId, &l.Receiver, &l.IncidentState, &l.Tries, &created, &failed, &l.Error)
			l.Created, l.Failed = timestampOf(created), timestampOf(failed)
			all = append(all, l)
			return err
		})
	return all, err
}

// Replay has a notification that was given up sent again, from now on for as
// long as a new one. It fails with [fault.NotFound] when there is no such
// notification, and with [fault.Precondition] when it is not given up or when
// the receiver has been told a later state of the incident since.
func (o *Outbox) Replay(ctx context.Context, id string) error {
	return o.store.Update(ctx, func(tx *Tx) error {
		var incident, receiver string
		var position, later int64
		var told controlv1.IncidentState
		var state controlv1.NotificationState
		err := tx.one("notification "+id, `SELECT incident_id, receiver, position, incident_state, state
			FROM outbox WHERE notification_id = $1`, []any{id}, &incident, &receiver, &position, &told, &state)
		if err != nil {
			return err
		}
		if state != failed {
			return fault.New(fault.Precondition, "notification %s is not a dead letter", id)
		}
		err = tx.one("later notifications", `SELECT COUNT(*) FROM outbox WHERE incident_id = $1 AND receiver = $2
			AND position > $3 AND state = $4`, []any{incident, receiver, position, delivered}, &later)
		if err != nil {
			return err
		}
		if later > 0 {
			return fault.New(fault.Precondition, "notification %s is out of date: %s was told a later state of %s", id, receiver, incident)
		}
		_, err = tx.exec(`UPDATE outbox SET state = $2, tries = 0, since = $3, not_before = 0, leased_until = 0, failed = 0, told = 0
			WHERE notification_id = $1`, id, pending, nanos(tx.now))
		if err != nil {
			return fmt.Errorf("replay notification %s: %w", id, err)
		}
		tx.touch(TopicOutbox)
		return tx.AddTimeline(incident, &controlv1.TimelineEntry{Time: timestamppb.New(tx.now), Action: "notify-replayed",
			Text: fmt.Sprintf("%s is told again that it is %s.", receiver, alert.State(told))})
	})
}

// Queued gives how many notifications wait for each receiver, and how many were
// given up.
func (tx *Tx) Queued() (waiting, dead map[string]int64, err error) {
	waiting, dead = map[string]int64{}, map[string]int64{}
	err = tx.each("waiting notifications", `SELECT receiver, state, COUNT(*) FROM outbox WHERE state <> $1 GROUP BY receiver, state`,
		[]any{delivered}, func(rows *sql.Rows) error {
			var receiver string
			var state controlv1.NotificationState
			var n int64
			err := rows.Scan(&receiver, &state, &n)
			if state == pending {
				waiting[receiver] = n
			} else {
				dead[receiver] = n
			}
			return err
		})
	return waiting, dead, err
}
