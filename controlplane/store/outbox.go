package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// The states of a notification.
const (
	pending   = controlv1.NotificationState_NOTIFICATION_STATE_PENDING
	delivered = controlv1.NotificationState_NOTIFICATION_STATE_DELIVERED
	failed    = controlv1.NotificationState_NOTIFICATION_STATE_FAILED
)

// Notification is one state of an incident to be told to one receiver.
type Notification struct {
	IncidentID  string
	Receiver    string
	State       controlv1.IncidentState // what is told
	Created     time.Time
	Traceparent string // W3C trace context of its cause; may be empty

	// Group is what is told of a group whose first incident is IncidentID; nil for
	// the incident alone.
	Group *controlv1.GroupNotification
}

// groupKey orders notifications: those of one key and receiver are sent one
// after the other.
func (n Notification) groupKey() string {
	if n.Group.GetKey() == "" {
		return n.IncidentID
	}
	return n.Group.GetKey()
}

// InsertNotification puts a notification behind those of the same incident or
// group and receiver.
func (tx *Tx) InsertNotification(n Notification) error {
	var position int64
	err := tx.one("place in the outbox",
		`SELECT COALESCE(MAX(position), 0) + 1 FROM outbox WHERE (incident_id = $1 AND receiver = $2)
		OR (group_key = $3 AND receiver = $2)`,
		[]any{n.IncidentID, n.Receiver, n.groupKey()}, &position)
	if err != nil {
		return err
	}
	body, err := tx.marshal(n.Group)
	if err != nil {
		return err
	}
	tx.touch(TopicOutbox)
	tx.touch(TopicIncidents)
	id := fmt.Sprintf("%s/%s/%d", n.IncidentID, n.Receiver, position)
	_, err = tx.exec(`INSERT INTO outbox (notification_id, incident_id, receiver, position, incident_state, state,
		tries, created, not_before, leased_until, delivered, traceparent, error, group_key, body)
		VALUES ($1, $2, $3, $4, $5, $6, 0, $7, 0, 0, 0, $8, '', $9, $10)`,
		id, n.IncidentID, n.Receiver, position, n.State, pending, nanos(n.Created), n.Traceparent, n.groupKey(), append([]byte{}, body...))
	if err != nil {
		return fmt.Errorf("insert notification %s: %w", id, err)
	}
	return nil
}

// notifications gives what was told of an incident, the oldest first.
func (tx *Tx) notifications(incidentID string) ([]*controlv1.Notification, error) {
	var all []*controlv1.Notification
	err := tx.each("notifications of incident "+incidentID, `SELECT notification_id, receiver, incident_state, state,
		tries, delivered, error FROM outbox WHERE incident_id = $1 ORDER BY created, position, receiver`,
		[]any{incidentID}, func(rows *sql.Rows) error {
			n, at := &controlv1.Notification{}, int64(0)
			err := rows.Scan(&n.NotificationId, &n.Receiver, &n.IncidentState, &n.State, &n.Tries, &at, &n.Error)
			n.Delivered = timestampOf(at)
			all = append(all, n)
			return err
		})
	return all, err
}

// Outbox is the notifications that wait to be sent; alerting takes them from
// here. It is safe for concurrent use.
type Outbox struct{ store *Store }

// Outbox gives the store's outbox.
func (s *Store) Outbox() *Outbox { return &Outbox{s} }

// Changed is closed after the next commit that touches the outbox.
func (o *Outbox) Changed() <-chan struct{} { return o.store.Changed(TopicOutbox) }

// Lease gives at most limit notifications that are due, the oldest first, but
// none for the receivers in except. For the lease's length nobody else gets
// them; when it has passed without an answer they are due again. Of one
// incident and receiver only the first that is not done is ever given, so that
// what they say comes in order.
func (o *Outbox) Lease(ctx context.Context, limit int, lease time.Duration, except ...string) ([]alert.Delivery, error) {
	var leased []alert.Delivery
	err := o.store.Update(ctx, func(tx *Tx) (err error) {
		if leased, err = tx.due(limit, except); err != nil {
			return err
		}
		incidents := map[string]*controlv1.Incident{}
		for i, d := range leased {
			_, err := tx.exec("UPDATE outbox SET tries = tries + 1, leased_until = $1 WHERE notification_id = $2",
				nanos(tx.now.Add(lease)), d.ID)
			if err != nil {
				return fmt.Errorf("lease notification %s: %w", d.ID, err)
			}
			id := d.Incident.GetIncidentId()
			if incidents[id] == nil { // several receivers are told of one incident
				if incidents[id], err = tx.Incident(id); err != nil {
					return fmt.Errorf("lease notification %s: %w", d.ID, err)
				}
			}
			leased[i].Incident = incidents[id]
			completeGroup(&leased[i])
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return leased, nil
}

// Release ends every lease and gives how many there were. It is for the start of
// a process that has the store to itself: what a process that died had leased is
// due at once. The try that it may have made counts.
func (o *Outbox) Release(ctx context.Context) (released int64, err error) {
	err = o.store.Update(ctx, func(tx *Tx) error {
		released, err = tx.exec("UPDATE outbox SET leased_until = 0 WHERE state = $1 AND leased_until > $2", pending, nanos(tx.now))
		if err != nil {
			return fmt.Errorf("release leases: %w", err)
		}
		tx.touch(TopicOutbox)
		return nil
	})
	return released, err
}
