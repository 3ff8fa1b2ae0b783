package routing

import (
	"fmt"
	"sync"
	"time"

	"github.com/vigil-ml/vigil/alerting/match"
	"github.com/vigil-ml/vigil/controlplane/store"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// silencesKept is how many silences' matchers are kept in memory.
const silencesKept = 4096

// silences keeps the matchers of silences that were read, by id and version.
type silences struct {
	mu   sync.Mutex
	read map[string]match.Matchers
}

func newSilences() *silences { return &silences{read: map[string]match.Matchers{}} }

func (s *silences) matchers(of *controlv1.Silence) (match.Matchers, error) {
	key := fmt.Sprintf("%s@%d", of.GetSilenceId(), of.GetUpdated().AsTime().UnixNano())
	s.mu.Lock()
	defer s.mu.Unlock()
	if ms, ok := s.read[key]; ok {
		return ms, nil
	}
	ms, err := match.Of(of.GetMatchers())
	if err != nil {
		return nil, err
	}
	if len(s.read) >= silencesKept {
		clear(s.read)
	}
	s.read[key] = ms
	return ms, nil
}

// quiet tells whether a silence or an inhibition keeps an alert from being
// told.
func (r *Router) quiet(tx *store.Tx, incidentID string, labels map[string]string, now time.Time) (bool, error) {
	silencedBy, inhibitedBy, err := r.Mutes(tx, incidentID, labels, now)
	return len(silencedBy)+len(inhibitedBy) > 0, err
}

// Mutes gives the silences and the incidents that keep an alert from being told
// at a time.
func (r *Router) Mutes(tx *store.Tx, incidentID string, labels map[string]string, now time.Time) (silencedBy, inhibitedBy []string, err error) {
	active, err := tx.ActiveSilences(now)
	if err != nil {
		return nil, nil, err
	}
	for _, silence := range active {
		ms, err := r.mutes.matchers(silence)
		if err != nil {
			return nil, nil, err
		}
		if len(ms) > 0 && ms.Match(labels) {
			silencedBy = append(silencedBy, silence.GetSilenceId())
		}
	}
	for _, rule := range r.plan.Inhibitions {
		if !rule.Target.Match(labels) {
			continue
		}
		sources, err := tx.Inhibitors(rule.ID, rule.Likeness(labels), 2)
		if err != nil {
			return nil, nil, err
		}
		// What matches both sides is inhibited by no other that does.
		both := rule.Source.Match(labels)
		for _, source := range sources {
			if source == incidentID {
				continue
			}
			if both {
				isTarget, err := r.isTarget(tx, source, rule.Target)
				if err != nil {
					return nil, nil, err
				}
				if isTarget {
					continue
				}
			}
			inhibitedBy = append(inhibitedBy, source)
		}
	}
	return silencedBy, inhibitedBy, nil
}

func (r *Router) isTarget(tx *store.Tx, incidentID string, target match.Matchers) (bool, error) {
	record, err := tx.IncidentRecord(incidentID)
	if err != nil {
		return false, err
	}
	labels, err := r.labels(tx, record.Incident)
	return target.Match(labels), err
}

// inhibits notes what an incident inhibits while it is not over.
func (r *Router) inhibits(tx *store.Tx, i *controlv1.Incident, labels map[string]string) error {
	if len(r.plan.Inhibitions) == 0 {
		return nil
	}
	if err := tx.DeleteInhibitor(i.GetIncidentId()); err != nil || i.GetState() == resolved {
		return err
	}
	for _, rule := range r.plan.Inhibitions {
		if !rule.Source.Match(labels) {
			continue
		}
		if err := tx.PutInhibitor(rule.ID, rule.Likeness(labels), i.GetIncidentId()); err != nil {
			return err
		}
	}
	return nil
}
