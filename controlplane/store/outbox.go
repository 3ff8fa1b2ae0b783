package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

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
	body, err := marshal(n.Group)
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

// Lease gives at most limit notifications that are due, the oldest first. For
// the lease's length nobody else gets them; when it has passed without an
// answer they are due again. Of one incident and receiver only the first that
// is not done is ever given, so that what they say comes in order.
func (o *Outbox) Lease(ctx context.Context, limit int, lease time.Duration) ([]alert.Delivery, error) {
	var leased []alert.Delivery
	err := o.store.Update(ctx, func(tx *Tx) (err error) {
		if leased, err = tx.due(limit); err != nil {
			return err
		}
		for i, d := range leased {
			_, err := tx.exec("UPDATE outbox SET tries = tries + 1, leased_until = $1 WHERE notification_id = $2",
				nanos(tx.now.Add(lease)), d.ID)
			if err != nil {
				return fmt.Errorf("lease notification %s: %w", d.ID, err)
			}
			if leased[i].Incident, err = tx.Incident(d.Incident.GetIncidentId()); err != nil {
				return fmt.Errorf("lease notification %s: %w", d.ID, err)
			}
			completeGroup(&leased[i])
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return leased, nil
}

// due gives the notifications to lease, their incidents with only the id.
func (tx *Tx) due(limit int) ([]alert.Delivery, error) {
	var all []alert.Delivery
	err := tx.each("due notifications", `SELECT notification_id, incident_id, receiver, incident_state, tries, created, traceparent, body
		FROM outbox o WHERE state = $1 AND not_before <= $2 AND leased_until <= $2 AND NOT EXISTS (
			SELECT 1 FROM outbox before WHERE before.group_key = o.group_key AND before.receiver = o.receiver
			AND before.position < o.position AND before.state = $1)
		ORDER BY created, notification_id LIMIT $3`, []any{pending, nanos(tx.now), limit},
		func(rows *sql.Rows) error {
			d, created := alert.Delivery{Incident: &controlv1.Incident{}}, int64(0)
			var body []byte
			err := rows.Scan(&d.ID, &d.Incident.IncidentId, &d.Receiver, &d.State, &d.Tries, &created, &d.Traceparent, &body)
			if err != nil {
				return err
			}
			d.Key = d.Incident.GetIncidentId() + "/" + d.Receiver
			d.Created = timeOf(created)
			err = addGroup(&d, body)
			all = append(all, d)
			return err
		})
	return all, err
}

// Delivered notes that the receiver took a notification, and says so in the
// incident's timeline.
func (o *Outbox) Delivered(ctx context.Context, id string, at time.Time) error {
	return o.settle(ctx, id, "state = $3, delivered = $4, error = ''", []any{delivered, nanos(at)},
		func(receiver, state string, created time.Time) *controlv1.TimelineEntry {
			return &controlv1.TimelineEntry{Time: timestamppb.New(at), Action: "notified",
				Text: fmt.Sprintf("%s was told that it is %s, after %d ms.", receiver, state, at.Sub(created).Milliseconds())}
		})
}

// Retry has a notification sent again, at the earliest at notBefore; cause is
// for a person.
func (o *Outbox) Retry(ctx context.Context, id string, notBefore time.Time, cause string) error {
	return o.settle(ctx, id, "leased_until = 0, not_before = $3, error = $4", []any{nanos(notBefore), cause}, nil)
}

// Fail gives a notification up; cause is for a person and goes into the
// incident's timeline. The next one of the same incident and receiver is then
// due.
func (o *Outbox) Fail(ctx context.Context, id string, cause string) error {
	return o.settle(ctx, id, "state = $3, error = $4", []any{failed, cause},
		func(receiver, state string, _ time.Time) *controlv1.TimelineEntry {
			return &controlv1.TimelineEntry{Time: timestamppb.New(o.store.clock()), Action: "notify-failed",
				Text: fmt.Sprintf("%s could not be told that it is %s: %s.", receiver, state, strings.TrimSuffix(cause, "."))}
		})
}

// settle changes a notification that waits and, where tell is given, adds its
// entry to the timeline. One that is delivered or given up already stays as it
// is.
func (o *Outbox) settle(ctx context.Context, id, set string, args []any,
	tell func(receiver, state string, created time.Time) *controlv1.TimelineEntry,
) error {
	return o.store.Update(ctx, func(tx *Tx) error {
		var incident, receiver string
		var told controlv1.IncidentState
		var state controlv1.NotificationState
		var created int64
		err := tx.one("notification "+id, `SELECT incident_id, receiver, incident_state, state, created
			FROM outbox WHERE notification_id = $1`, []any{id}, &incident, &receiver, &told, &state, &created)
		if err != nil || state != pending {
			return err
		}
		_, err = tx.exec("UPDATE outbox SET "+set+" WHERE notification_id = $1 AND state = $2", append([]any{id, pending}, args...)...)
		if err != nil {
			return fmt.Errorf("settle notification %s: %w", id, err)
		}
		tx.touch(TopicOutbox)
		tx.touch(TopicIncidents)
		if tell == nil {
			return nil
		}
		word := strings.ToLower(strings.TrimPrefix(told.String(), "INCIDENT_STATE_"))
		return tx.AddTimeline(incident, tell(receiver, word, timeOf(created)))
	})
}
