package store

import (
	"fmt"
	"slices"
	"time"
)

// asked is how many names are looked for at once.
const asked = 64

// among is asked places for values.
const among = `(
	$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
	$17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32,
	$33, $34, $35, $36, $37, $38, $39, $40, $41, $42, $43, $44, $45, $46, $47, $48,
	$49, $50, $51, $52, $53, $54, $55, $56, $57, $58, $59, $60, $61, $62, $63, $64
	)`

// newestExternal is the condition for the newest incident of each of some
// fingerprints; groupsAsked that for some groups.
const (
	newestExternal = `fingerprint <> '' AND fingerprint IN ` + among + ` AND NOT EXISTS (SELECT 1 FROM incidents newer
		WHERE newer.fingerprint = incidents.fingerprint AND newer.fingerprint <> ''
		AND (newer.opened > incidents.opened OR (newer.opened = incidents.opened AND newer.incident_id > incidents.incident_id)))`
	groupsAsked = "group_id IN " + among
)

// manyOf gives values for all the places of among: the statement is the same for
// few as for many.
func manyOf(some []string) []any {
	args := make([]any, asked)
	for n := range args {
		args[n] = some[min(n, len(some)-1)]
	}
	return args
}

// ExternalIncident gives the newest incident of an external alert, open or
// over, if there is one.
func (tx *Tx) ExternalIncident(fingerprint string) (r IncidentRecord, found bool, err error) {
	if _, known := tx.cache.external[fingerprint]; !known {
		if err := tx.LookForExternal(fingerprint); err != nil {
			return IncidentRecord{}, false, err
		}
	}
	r, found = tx.keptIncident(tx.cache.external[fingerprint])
	return r, found, nil
}

// LookForExternal has the incidents of many external alerts at hand for
// [Tx.ExternalIncident], which else looks for each by itself.
func (tx *Tx) LookForExternal(fingerprints ...string) error {
	for some := range slices.Chunk(fingerprints, asked) {
		found, err := tx.incidentRecords("incidents of alerts", newestExternal, manyOf(some)...)
		if err != nil {
			return err
		}
		for _, fingerprint := range some {
			if _, known := tx.cache.external[fingerprint]; !known {
				tx.cache.external[fingerprint] = ""
			}
		}
		for _, r := range found {
			id := r.Incident.GetIncidentId()
			if _, put := tx.cache.incidents[id]; !put {
				tx.keepIncident(r)
			}
			tx.cache.external[r.Fingerprint] = id
		}
	}
	return nil
}

// ExpiredIncidents gives at most limit open incidents that nobody spoke of
// again in time, the oldest first.
func (tx *Tx) ExpiredIncidents(now time.Time, limit int) ([]IncidentRecord, error) {
	return tx.incidentRecords("expired incidents",
		"expires > 0 AND resolved = 0 AND expires <= $1 ORDER BY expires, incident_id LIMIT $2", nanos(now), limit)
}

// AllOpen gives at most limit incidents that are not resolved, external ones
// too, the newest first; limit 0 means all.
func (tx *Tx) AllOpen(limit int) ([]IncidentRecord, error) {
	// Found by the index of those that are open: in that of all by their time
	// most are over.
	return tx.incidentRecords("open incidents", "resolved = 0 AND expires >= 0 ORDER BY +opened DESC, incident_id LIMIT $1", rowsUpTo(limit))
}

// SetExpiry has an incident be over at a time unless it is heard of again.
func (tx *Tx) SetExpiry(incidentID string, expires time.Time) error {
	_, err := tx.exec("UPDATE incidents SET expires = $1 WHERE incident_id = $2", nanos(expires), incidentID)
	if err != nil {
		return fmt.Errorf("set expiry of incident %s: %w", incidentID, err)
	}
	if r, ok := tx.cache.incidents[incidentID]; ok {
		r.Expires = expires
		tx.cache.incidents[incidentID] = r
	}
	return nil
}
