package store

import (
	"cmp"
	"database/sql"
	"slices"

	"github.com/vigil-ml/vigil/alerting/alert"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// dueNotifications reads notifications that are due. Those of a group go to a
// receiver in their order; what only goes on with a story (it has no incident's
// state) holds nothing up. That state 1 is the pending
// one stands in the text: the engine cannot take the index of what is pending for
// a value that it learns later.
const dueNotifications = `SELECT notification_id, incident_id, receiver, incident_state, tries, created, traceparent,
	body, since, stands_in_for
	FROM outbox o WHERE state = 1 AND not_before <= $1 AND leased_until <= $1 AND NOT EXISTS (
		SELECT 1 FROM outbox before WHERE before.group_key = o.group_key AND before.receiver = o.receiver
		AND before.position < o.position AND before.state = 1 AND before.incident_state <> 0)`

// due gives the notifications to lease, their incidents with only the id. When
// some receivers are left out each of the others is asked for by itself: what
// waits for those that are left out, however much it is, is not looked at.
func (tx *Tx) due(limit int, except []string) ([]alert.Delivery, error) {
	const inOrder = " ORDER BY created, notification_id LIMIT $2"
	if len(except) == 0 {
		return tx.dueWhere(inOrder, limit)
	}
	receivers, err := tx.receiversPending()
	if err != nil {
		return nil, err
	}
	var all []alert.Delivery
	for _, receiver := range receivers {
		if slices.Contains(except, receiver) {
			continue
		}
		some, err := tx.dueWhere(" AND receiver = $3"+inOrder, limit, receiver)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	slices.SortFunc(all, func(a, b alert.Delivery) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return all[:min(limit, len(all))], nil
}

// receiversPending gives the receivers that something waits for. It goes from
// each to the next in the index, which costs the same for many rows as for few.
func (tx *Tx) receiversPending() ([]string, error) {
	var all []string
	err := tx.each("receivers of the outbox", `WITH RECURSIVE waiting (name) AS (
		SELECT MIN(receiver) FROM outbox WHERE state = 1
		UNION ALL SELECT (SELECT MIN(receiver) FROM outbox WHERE state = 1 AND receiver > waiting.name)
		FROM waiting WHERE waiting.name IS NOT NULL) SELECT name FROM waiting WHERE name IS NOT NULL`,
		nil, func(rows *sql.Rows) error {
			var name string
			err := rows.Scan(&name)
			all = append(all, name)
			return err
		})
	return all, err
}

func (tx *Tx) dueWhere(behind string, limit int, args ...any) ([]alert.Delivery, error) {
	var all []alert.Delivery
	err := tx.each("due notifications", dueNotifications+behind+tx.traits.skipLocked,
		append([]any{nanos(tx.now), limit}, args...), func(rows *sql.Rows) error {
			d := alert.Delivery{Incident: &controlv1.Incident{}}
			var created, since int64
			var standsIn string
			var body []byte
			err := rows.Scan(&d.ID, &d.Incident.IncidentId, &d.Receiver, &d.State, &d.Tries, &created, &d.Traceparent,
				&body, &since, &standsIn)
			if err != nil {
				return err
			}
			d.Since, d.StandsIn = timeOf(since), standsIn != ""
			d.Key = d.Incident.GetIncidentId() + "/" + d.Receiver
			d.Created = timeOf(created)
			err = tx.addGroup(&d, body)
			all = append(all, d)
			return err
		})
	return all, err
}
