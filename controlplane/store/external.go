package store

import (
	"fmt"
	"time"
)

// ExternalIncident gives the newest incident of an external alert, open or
// over.
func (tx *Tx) ExternalIncident(fingerprint string) (IncidentRecord, error) {
	found, err := tx.incidentRecords("incident of alert "+fingerprint,
		"fingerprint = $1 AND fingerprint <> '' ORDER BY opened DESC, incident_id DESC LIMIT 1", fingerprint)
	if err == nil && len(found) == 0 {
		err = notFound("incident of alert " + fingerprint)
	}
	if err != nil {
		return IncidentRecord{}, err
	}
	return found[0], nil
}

// ExpiredIncidents gives at most limit open incidents that nobody spoke of
// again in time, the oldest first.
func (tx *Tx) ExpiredIncidents(now time.Time, limit int) ([]IncidentRecord, error) {
	return tx.incidentRecords("expired incidents",
		"expires <> 0 AND resolved = 0 AND expires <= $1 ORDER BY expires, incident_id LIMIT $2", nanos(now), limit)
}

// AllOpen gives at most limit incidents that are not resolved, external ones
// too, the newest first; limit 0 means all.
func (tx *Tx) AllOpen(limit int) ([]IncidentRecord, error) {
	return tx.incidentRecords("open incidents", "resolved = 0 ORDER BY opened DESC, incident_id LIMIT $1", rowsUpTo(limit))
}

// SetExpiry has an incident be over at a time unless it is heard of again.
func (tx *Tx) SetExpiry(incidentID string, expires time.Time) error {
	_, err := tx.exec("UPDATE incidents SET expires = $1 WHERE incident_id = $2", nanos(expires), incidentID)
	if err != nil {
		return fmt.Errorf("set expiry of incident %s: %w", incidentID, err)
	}
	return nil
}
