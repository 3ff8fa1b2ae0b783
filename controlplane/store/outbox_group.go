package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/alert"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// addGroup gives a delivery what was kept of the group that it tells of.
func (tx *Tx) addGroup(d *alert.Delivery, body []byte) error {
	if len(body) == 0 {
		return nil
	}
	kept := &controlv1.GroupNotification{}
	if err := tx.unmarshal("notification "+d.ID, body, kept); err != nil {
		return err
	}
	d.Occasion = alert.Occasion(kept.GetOccasion())
	d.Group = alert.Group{
		Key: kept.GetKey(), Labels: kept.GetLabels(), Truncated: int(kept.GetTruncated()), Reason: kept.GetReason(),
	}
	if d.Group.Labels[alert.LabelIncident] == "" {
		sum := sha256.Sum256([]byte(kept.GetKey()))
		d.Key = "group-" + hex.EncodeToString(sum[:10]) + "/" + d.Receiver
	}
	for _, a := range kept.GetAlerts() {
		d.Group.Alerts = append(d.Group.Alerts, alert.Alert{
			IncidentID: a.GetIncidentId(), Key: a.GetIncidentId() + "/" + d.Receiver, State: a.GetState(),
			Labels: a.GetLabels(), Annotations: a.GetAnnotations(), StartsAt: momentOf(a.GetStarts()),
			EndsAt: momentOf(a.GetEnds()), GeneratorURL: a.GetGeneratorUrl(), Fingerprint: a.GetFingerprint(),
		})
	}
	return nil
}

// completeGroup gives the only alert of a delivery what its incident has to say
// by now, such as what was done about it.
func completeGroup(d *alert.Delivery) {
	if len(d.Group.Alerts) == 1 && len(d.Incident.GetAnnotations()) == 0 {
		d.Group.Alerts[0].Annotations = d.Annotations()
	}
}

func momentOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// ForgetNotifications deletes what was told of an incident but the last, and
// what is in its timeline, and tells whether something still waits: of a
// heartbeat only the newest counts.
func (tx *Tx) ForgetNotifications(incidentID string) (waits bool, err error) {
	_, err = tx.exec(`DELETE FROM outbox WHERE incident_id = $1 AND state <> $2 AND position <
		(SELECT MAX(position) FROM outbox WHERE incident_id = $1)`, incidentID, pending)
	if err == nil {
		_, err = tx.exec("DELETE FROM timeline WHERE incident_id = $1", incidentID)
	}
	var count int64
	if err == nil {
		err = tx.one("notifications", "SELECT COUNT(*) FROM outbox WHERE incident_id = $1 AND state = $2", []any{incidentID, pending}, &count)
	}
	if err != nil {
		return false, fmt.Errorf("forget notifications of %s: %w", incidentID, err)
	}
	return count > 0, nil
}
