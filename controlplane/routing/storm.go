package routing

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/telemetry"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	// stormRoute is the route id of the group in which a receiver's storm is
	// gathered; stormPrefix begins the ids of the incidents that tell of storms.
	stormRoute  = "storm:"
	stormPrefix = "storm-"
	// stormWait is how long the first message about a storm waits for company. The
	// next comes when the storm is twice as old, and at least every stormEvery.
	stormWait  = 2 * time.Second
	stormEvery = 30 * time.Second
	// stormSample is how many of the problems are looked at to say what they are;
	// stormNamed is how many the message names.
	stormSample = 200
	stormNamed  = 10
)

// tides tells when too much begins at once. It is in memory: after a restart
// counting begins anew, while what has been rolled up is in the store.
type tides struct {
	config route.StormConfig
	mu     sync.Mutex
	of     map[tideKey]*tide
}

// tideKey has what is counted by itself: a storm of warnings must not hide
// what is worse.
type tideKey struct {
	receiver string
	severity commonv1.Severity
}

// tide is what began of late.
type tide struct {
	since, last time.Time
	count       int
}

func newTides(config route.StormConfig) *tides {
	return &tides{config: config, of: map[tideKey]*tide{}}
}

// high notes that a problem begins for a receiver, and tells whether it is one
// too many.
func (t *tides) high(receiver string, severity commonv1.Severity, now time.Time) bool {
	if t.config.After <= 0 || slices.Contains(t.config.Except, receiver) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key := tideKey{receiver, severity}
	of := t.of[key]
	if of == nil {
		of = &tide{}
		t.of[key] = of
	}
	high := of.count > t.config.After
	if (high && now.Sub(of.last) > t.config.Within) || (!high && now.Sub(of.since) > t.config.Within) {
		of.since, of.count = now, 0
	}
	of.last = now
	of.count++
	return of.count > t.config.After
}

// rollUp makes what a group has to tell for the first time part of its
// receiver's storm instead. The group itself tells nothing, until something of
// it changes.
func (r *Router) rollUp(tx *store.Tx, g store.AlertGroup, v view, now time.Time) error {
	storm, err := r.storm(tx, g.Receiver, now)
	if err != nil {
		return err
	}
	for n, m := range v.members {
		if m.Muted || m.State != firing {
			continue
		}
		id := v.told[n].IncidentID
		joined, err := tx.JoinGroup(storm.ID, id)
		if err != nil {
			return err
		}
		if joined {
			r.rolledUp.WithLabelValues(g.Receiver).Inc()
			if err := note(tx, id, now, "rolled-up", "Too much begins at once: %s is told of it in %s.", g.Receiver, storm.Labels[alert.LabelIncident]); err != nil {
				return err
			}
		}
	}
	return nil
}

// storm gives the group of a receiver's storm, and begins it where there is
// none.
func (r *Router) storm(tx *store.Tx, receiver string, now time.Time) (store.AlertGroup, error) {
	sum := sha256.Sum256([]byte(stormRoute + receiver))
	g := store.AlertGroup{ID: hex.EncodeToString(sum[:12]), Route: stormRoute, Receiver: receiver}
	known, found, err := tx.AlertGroup(g.ID)
	if err != nil || found {
		return known, err
	}
	sum = sha256.Sum256(fmt.Appendf(nil, "%s %d", receiver, now.UnixNano()))
	id := stormPrefix + hex.EncodeToString(sum[:4])
	g.Labels = map[string]string{alert.LabelIncident: id}
	g.Due = now.Add(stormWait)
	record := store.IncidentRecord{
		Findings: 1, Occurrences: 1, Changed: now, Fingerprint: stormRoute + id,
		Incident: &controlv1.Incident{
			IncidentId: id, Kind: "storm", Severity: commonv1.Severity_SEVERITY_CRITICAL, State: firing, Opened: timestamppb.New(now),
			Labels: map[string]string{alert.LabelName: "storm", "receiver": receiver, alert.LabelSeverity: "critical", alert.LabelIncident: id},
		},
	}
	describeStorm(record.Incident, "Too much begins at once.")
	if err := tx.OpenIncident(record); err != nil {
		return g, err
	}
	if err := note(tx, id, now, "opened", "Too much begins at once for %s: from here on it is told together.", receiver); err != nil {
		return g, err
	}
	return g, tx.PutAlertGroup(g)
}

func describeStorm(i *controlv1.Incident, summary string) {
	i.Summary, i.Annotations = summary, map[string]string{"title": "Storm", "summary": summary}
}

// lookAtStorm tells what was rolled up since the last time, and when all of it
// is over.
func (r *Router) lookAtStorm(ctx context.Context, tx *store.Tx, g store.AlertGroup, now time.Time) error {
	record, err := tx.IncidentRecord(g.Labels[alert.LabelIncident])
	if fault.Is(err, fault.NotFound) {
		return tx.DeleteAlertGroup(g.ID)
	}
	if err != nil {
		return err
	}
	count, err := tx.CountMembers(g.ID)
	if err != nil {
		return err
	}
	why := alert.Update
	if g.Told.IsZero() {
		why = alert.First
	}
	switch {
	case count.Open == 0 || record.Incident.GetState() == resolved:
		if record.Incident.GetState() != resolved {
			record.Incident.State, record.Incident.Resolved, record.Changed = resolved, timestamppb.New(now), now
			describeStorm(record.Incident, "All that began at once is over.")
			if err := note(tx, record.Incident.GetIncidentId(), now, "resolved", "All of it is over."); err != nil {
				return err
			}
		}
		if err := tx.PutIncident(record); err != nil {
			return err
		}
		if !g.Told.IsZero() && r.plan.SendResolved[g.Receiver] {
			if err := r.tellStorm(ctx, tx, g, record, alert.Over, now); err != nil {
				return err
			}
		}
		return tx.DeleteAlertGroup(g.ID)
	case count.Untold > 0:
		text, err := r.stormText(tx, g, count, now)
		if err != nil {
			return err
		}
		describeStorm(record.Incident, text)
		if err := tx.PutIncident(record); err != nil {
			return err
		}
		if err := r.tellStorm(ctx, tx, g, record, why, now); err != nil {
			return err
		}
		g.Told = now
	}
	if err := tx.TellMembers(g.ID); err != nil {
		return err
	}
	age := now.Sub(record.Incident.GetOpened().AsTime())
	g.Looked, g.Due = now, now.Add(min(max(age, stormWait), stormEvery))
	return tx.PutAlertGroup(g)
}

// stormText says what was rolled up since the last time: how much, what of, and
// the first few.
func (r *Router) stormText(tx *store.Tx, g store.AlertGroup, count store.MemberCount, now time.Time) (string, error) {
	some, err := tx.UntoldMembers(g.ID, stormSample)
	if err != nil {
		return "", err
	}
	kinds, named := map[string]int{}, []string{}
	for _, id := range some {
		record, err := tx.IncidentRecord(id)
		if err != nil {
			return "", err
		}
		i := record.Incident
		kinds[i.GetKind()]++
		if len(named) < stormNamed {
			named = append(named, strings.Join(strings.Fields(fmt.Sprintf("%s (%s %s %s)", id, i.GetKind(), i.GetRunId(), i.GetNode())), " "))
		}
	}
	most := slices.SortedFunc(maps.Keys(kinds), func(a, b string) int { return cmp.Or(kinds[b]-kinds[a], cmp.Compare(a, b)) })
	var parts []string
	for _, kind := range most[:min(len(most), stormNamed)] {
		parts = append(parts, fmt.Sprintf("%s %d", kind, kinds[kind]))
	}
	text := fmt.Sprintf("%d more problems began at once and are told together; %d of them are open. ", count.Untold, count.UntoldOpen)
	if len(some) < int(count.Untold) {
		text += fmt.Sprintf("Of the first %d: ", len(some))
	}
	return text + strings.Join(parts, ", ") + ". Among them " + strings.Join(named, ", ") +
		". agentctl incidents list has all of them. Seen at " + now.UTC().Format("15:04:05 MST") + ".", nil
}

func (r *Router) tellStorm(ctx context.Context, tx *store.Tx, g store.AlertGroup, record store.IncidentRecord, why alert.Occasion, now time.Time) error {
	i := record.Incident
	state := i.GetState()
	return tx.InsertNotification(store.Notification{
		IncidentID: i.GetIncidentId(), Receiver: g.Receiver, State: state, Created: now, Traceparent: telemetry.Traceparent(ctx),
		Group: &controlv1.GroupNotification{
			Key: stormRoute + route.LabelText(g.Labels), Labels: g.Labels, Occasion: int32(why), Reason: "storm",
			Alerts: []*controlv1.Alert{snapshot(record, i.GetLabels())},
		},
	})
}

// isStorm tells whether an incident tells of a storm: it has a message of its
// own and is not routed.
func isStorm(i *controlv1.Incident) bool { return strings.HasPrefix(i.GetIncidentId(), stormPrefix) }
