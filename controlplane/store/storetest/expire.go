package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/controlplane/store"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// testExpire lets go of what is old, and keeps what is needed however old it is.
func testExpire(t *testing.T, b *bench) {
	const critical = commonv1.Severity_SEVERITY_CRITICAL
	over := func(id, run string, resolvedMS int) store.IncidentRecord {
		r := record(id, run, 5)
		r.Incident.State, r.Incident.Resolved = resolved, stamp(resolvedMS)
		return r
	}
	found := func(tx *store.Tx, id, run, incident string, ms int) error {
		f := finding(id, 1, critical, ms)
		f.RunId = run
		_, err := tx.PutFinding(f)
		if incident != "" {
			err = errors.Join(err, tx.AttachFinding(incident, id))
		}
		return err
	}
	b.update(func(tx *store.Tx) error {
		ended, open := run("old", 1), run("open", 1)
		ended.Ended = stamp(20)
		late := run("late", 1)
		late.Ended = stamp(500)
		return errors.Join(
			tx.PutRun(ended, 1), tx.PutRun(open, 2), tx.PutRun(late, 3), tx.PutAttempt("old", &controlv1.Attempt{}),
			tx.PutIncident(over("gone", "old", 10)), tx.PutIncident(over("of-open", "open", 10)), tx.PutIncident(over("recent", "late", 400)),
			tx.PutIncident(record("firing", "late", 5)), tx.PutIncident(over("untold", "late", 10)),
			tx.InsertNotification(store.Notification{IncidentID: "untold", Receiver: "slack", State: resolved, Created: at(10)}),
			tx.AddTimeline("gone", &controlv1.TimelineEntry{Text: "x"}),
			found(tx, "f-gone", "old", "gone", 5), found(tx, "f-alone", "old", "", 5), found(tx, "f-open", "open", "", 5),
			found(tx, "f-recent", "late", "", 450), found(tx, "f-firing", "late", "firing", 5),
			tx.PutFeedback("f-gone", &controlv1.Feedback{}), agree(tx, "old"), agree(tx, "open"),
		)
	})
	b.tell("gone", "slack")
	b.remember("slack", "gone/slack", "changes/gone", "untold/slack", "changes/untold")
	var all store.Expired
	for range 3 { // a run goes only when its incidents and findings have
		b.update(func(tx *store.Tx) error {
			gone, err := tx.Expire(store.Cutoffs{Incidents: at(100), Findings: at(100), Runs: at(100)}, 10)
			all.Incidents, all.Findings, all.Runs = all.Incidents+gone.Incidents, all.Findings+gone.Findings, all.Runs+gone.Runs
			return err
		})
	}
	b.same("let go of", all, store.Expired{Incidents: 1, Findings: 1, Runs: 1})
	b.view(func(tx *store.Tx) error {
		incidents, err := tx.Incidents("", 0)
		b.same("incidents", inOrder(ids(incidents, (*controlv1.Incident).GetIncidentId)), []string{"firing", "of-open", "recent", "untold"})
		findings, err2 := tx.Findings("", "", 0)
		b.same("findings", inOrder(ids(findings, func(f *controlv1.FindingRecord) string { return f.GetFinding().GetFindingId() })),
			[]string{"f-firing", "f-open", "f-recent"})
		runs, err3 := tx.Runs(0)
		b.same("runs", inOrder(ids(runs, (*controlv1.Run).GetRunId)), []string{"late", "open"})
		return errors.Join(err, err2, err3)
	})
	b.remembered("slack", 0, "gone/slack", "changes/gone")
	b.remembered("slack", 2, "untold/slack", "changes/untold")
	b.agreed("old", 0)
	b.agreed("open", 1)
	testExpireSome(b, over)
}

// agree writes a note of a run's agreement, which says nothing.
func agree(tx *store.Tx, run string) error {
	_, err := tx.PostAgreement(run, &agentv1.AgreementNote{Round: 1, Name: "plan"})
	return err
}

// tell has a receiver be told that an incident is over.
func (b *bench) tell(incident, receiver string) {
	b.Helper()
	b.update(func(tx *store.Tx) error {
		return tx.InsertNotification(store.Notification{IncidentID: incident, Receiver: receiver, State: resolved, Created: at(10)})
	})
	b.lease(10)
	b.settle(alert.Outcome{ID: incident + "/" + receiver + "/1", Result: alert.Delivered, At: at(11)})
}

func (b *bench) remember(receiver string, keys ...string) {
	b.Helper()
	for _, key := range keys {
		b.must(b.store.Memory(receiver).Remember(b.Context(), key, "x"))
	}
}

// remembered wants so many of some keys in a receiver's memory.
func (b *bench) remembered(receiver string, want int, keys ...string) {
	b.Helper()
	all, err := b.store.Memory(receiver).All(b.Context())
	b.must(err)
	got := 0
	for _, key := range keys {
		if all[key] != "" {
			got++
		}
	}
	b.same(fmt.Sprint("remembered of ", keys), got, want)
}

func (b *bench) agreed(run string, want int) {
	b.Helper()
	b.view(func(tx *store.Tx) error {
		notes, err := tx.Agreement(run, 0)
		b.same("notes of the agreement of "+run, len(notes), want)
		return err
	})
}

// testExpireSome lets go of nothing, and of some of many.
func testExpireSome(b *bench, over func(id, run string, resolvedMS int) store.IncidentRecord) {
	b.update(func(tx *store.Tx) error { // 0 is for good
		gone, err := tx.Expire(store.Cutoffs{}, 10)
		b.same("without cutoffs", gone, store.Expired{})
		return err
	})
	b.update(func(tx *store.Tx) error {
		for i := range 5 {
			if err := tx.PutIncident(over(fmt.Sprint("many-", i), "", 10)); err != nil {
				return err
			}
		}
		return nil
	})
	b.update(func(tx *store.Tx) error {
		gone, err := tx.Expire(store.Cutoffs{Incidents: at(100)}, 3)
		b.same("at most", gone.Incidents, int64(3))
		return err
	})
}

func inOrder(all []string) []string {
	slices.Sort(all)
	return all
}
