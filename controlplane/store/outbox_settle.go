package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// waiting is what settling needs to know of a notification.
type waiting struct {
	id, incident, group, receiver, traceparent string

	told         controlv1.IncidentState
	created      time.Time
	tries, entry int64
}

// what is what was to be told.
func (w waiting) what() string {
	if w.told == 0 {
		return "what happened"
	}
	return "that it is " + alert.State(w.told)
}

// Settle writes down what became of leased notifications, and says so in the
// timelines of their incidents, all in one transaction. One that is delivered
// or given up already stays as it is, and so does one that there is not.
func (o *Outbox) Settle(ctx context.Context, outcomes ...alert.Outcome) error {
	return o.store.Update(ctx, func(tx *Tx) error {
		for _, outcome := range outcomes {
			if err := tx.settle(outcome); err != nil {
				return fmt.Errorf("settle notification %s: %w", outcome.ID, err)
			}
		}
		return nil
	})
}

func (tx *Tx) settle(o alert.Outcome) error {
	w := waiting{id: o.ID}
	var state controlv1.NotificationState
	var created int64
	err := tx.one("notification "+o.ID, `SELECT incident_id, group_key, receiver, incident_state, state, created, traceparent, tries, told
		FROM outbox WHERE notification_id = $1`, []any{o.ID},
		&w.incident, &w.group, &w.receiver, &w.told, &state, &created, &w.traceparent, &w.tries, &w.entry)
	if fault.Is(err, fault.NotFound) || (err == nil && state != pending) {
		return nil
	}
	if err != nil {
		return err
	}
	w.created = timeOf(created)
	tx.touch(TopicOutbox)
	tx.touch(TopicIncidents)
	switch o.Result {
	case alert.Delivered:
		err = tx.delivered(w, o)
	case alert.Failed:
		err = tx.failed(w, o)
	case alert.Retry:
		err = tx.retry(w, o)
	default:
		_, err = tx.exec(`UPDATE outbox SET leased_until = 0, not_before = $2, tries = tries - 1 WHERE notification_id = $1`,
			o.ID, nanos(o.NotBefore))
	}
	if err != nil || o.StandIn == "" {
		return err
	}
	return tx.standIn(w, o)
}

func (tx *Tx) delivered(w waiting, o alert.Outcome) error {
	_, err := tx.exec(`UPDATE outbox SET state = $2, delivered = $3, error = '' WHERE notification_id = $1`,
		w.id, delivered, nanos(o.At))
	if err != nil {
		return err
	}
	if w.told == 0 {
		return nil // it told what the timeline has
	}
	err = tx.AddTimeline(w.incident, &controlv1.TimelineEntry{Time: timestamppb.New(o.At), Action: "notified",
		Text: fmt.Sprintf("%s was told %s, after %d ms.", w.receiver, w.what(), o.At.Sub(w.created).Milliseconds())})
	if err != nil || w.told != controlv1.IncidentState_INCIDENT_STATE_RESOLVED {
		return err
	}
	return tx.tellStandIn(w, o)
}

// tellStandIn has the one who was told in a receiver's place that an incident
// began also told that it is over.
func (tx *Tx) tellStandIn(w waiting, o alert.Outcome) error {
	var standIn string
	err := tx.one("stand-in", `SELECT COALESCE(MAX(other.receiver), '') FROM outbox own
		JOIN outbox other ON other.stands_in_for = own.notification_id
		WHERE own.group_key = $1 AND own.receiver = $2`, []any{w.group, w.receiver}, &standIn)
	if err != nil || standIn == "" {
		return err
	}
	o.StandIn, o.Cause = standIn, ""
	return tx.standIn(w, o)
}

func (tx *Tx) failed(w waiting, o alert.Outcome) error {
	_, err := tx.exec(`UPDATE outbox SET state = $2, error = $3, failed = $4 WHERE notification_id = $1`,
		w.id, failed, o.Cause, nanos(o.At))
	if err != nil {
		return err
	}
	return tx.AddTimeline(w.incident, &controlv1.TimelineEntry{Time: timestamppb.New(o.At), Action: "notify-failed",
		Text: fmt.Sprintf("%s could not be told %s: %s.", w.receiver, w.what(), strings.TrimSuffix(o.Cause, "."))})
}

// retry has a notification sent again. However often that is, it is one entry
// in the timeline, which counts.
func (tx *Tx) retry(w waiting, o alert.Outcome) error {
	entry := &controlv1.TimelineEntry{Time: timestamppb.New(o.At), Action: "notify-tried",
		Text: fmt.Sprintf("%s did not take %s, %s: %s.", w.receiver, w.what(), times(w.tries), strings.TrimSuffix(o.Cause, "."))}
	if w.entry == 0 {
		if err := tx.AddTimeline(w.incident, entry); err != nil {
			return err
		}
		err := tx.one("place in timeline", "SELECT MAX(position) FROM timeline WHERE incident_id = $1", []any{w.incident}, &w.entry)
		if err != nil {
			return err
		}
	} else {
		body, err := tx.marshal(entry)
		if err != nil {
			return err
		}
		if _, err := tx.exec("UPDATE timeline SET body = $3 WHERE incident_id = $1 AND position = $2", w.incident, w.entry, body); err != nil {
			return err
		}
	}
	_, err := tx.exec(`UPDATE outbox SET leased_until = 0, not_before = $2, error = $3, told = $4 WHERE notification_id = $1`,
		w.id, nanos(o.NotBefore), o.Cause, w.entry)
	return err
}

func times(n int64) string {
	if n == 1 {
		return "tried once"
	}
	return fmt.Sprintf("tried %d times", n)
}

// standIn puts a copy of a notification for another receiver into the outbox,
// unless it is there.
func (tx *Tx) standIn(w waiting, o alert.Outcome) error {
	var already int64
	err := tx.one("stand-in", "SELECT COUNT(*) FROM outbox WHERE stands_in_for = $1", []any{w.id}, &already)
	if err != nil || already > 0 {
		return err
	}
	var position int64
	err = tx.one("place in the outbox", `SELECT COALESCE(MAX(position), 0) + 1 FROM outbox
		WHERE (incident_id = $1 OR group_key = $3) AND receiver = $2`, []any{w.incident, o.StandIn, w.group}, &position)
	if err != nil {
		return err
	}
	id := fmt.Sprintf("%s/%s/%d", w.incident, o.StandIn, position)
	_, err = tx.exec(`INSERT INTO outbox (notification_id, incident_id, receiver, position, incident_state, state,
		tries, created, not_before, leased_until, delivered, traceparent, error, group_key, body, stands_in_for)
		SELECT $1, incident_id, $2, $3, incident_state, $4, 0, $5, 0, 0, 0, traceparent, '', group_key, body, notification_id
		FROM outbox WHERE notification_id = $6`, id, o.StandIn, position, pending, nanos(o.At), w.id)
	if err != nil || o.Cause == "" {
		return err
	}
	return tx.AddTimeline(w.incident, &controlv1.TimelineEntry{Time: timestamppb.New(o.At), Action: "notify-fallback",
		Text: fmt.Sprintf("%s is told in the place of %s: %s.", o.StandIn, w.receiver, strings.TrimSuffix(o.Cause, "."))})
}
