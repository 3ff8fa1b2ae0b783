package storetest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	firing   = controlv1.IncidentState_INCIDENT_STATE_FIRING
	resolved = controlv1.IncidentState_INCIDENT_STATE_RESOLVED
)

func finding(id string, onset int64, severity commonv1.Severity, ms int) *controlv1.Finding {
	return &controlv1.Finding{FindingId: id, RunId: "r", OnsetStep: onset, Severity: severity, EventTime: stamp(ms),
		Evidence: map[string]float64{"loss": 3}}
}

func record(id, run string, openedMS int) store.IncidentRecord {
	return store.IncidentRecord{Attempt: 2, OnsetStep: 40, Findings: 1, Incident: &controlv1.Incident{
		IncidentId: id, RunId: run, Kind: "nonfinite", State: firing, Opened: stamp(openedMS), Summary: "bad",
	}}
}

func testFindings(t *testing.T, b *bench) {
	const warning, critical = commonv1.Severity_SEVERITY_WARNING, commonv1.Severity_SEVERITY_CRITICAL
	b.update(func(tx *store.Tx) error {
		return errors.Join(tx.PutIncident(record("i1", "r", 10)), tx.PutIncident(record("i2", "q", 30)), tx.PutIncident(record("i3", "r", 20)))
	})
	cause := finding("f4", 39, warning, 9)
	want := []*controlv1.Finding{cause, finding("f3", 40, critical, 5), finding("f2", 40, warning, 3), finding("f1", 40, warning, 4)}
	b.update(func(tx *store.Tx) error {
		for _, f := range []*controlv1.Finding{want[3], want[2], want[1], want[0], finding("alone", 1, critical, 1)} {
			inserted, err := tx.PutFinding(f)
			again, errAgain := tx.PutFinding(finding(f.GetFindingId(), 0, 0, 0))
			b.same("inserted", []bool{inserted, again}, []bool{true, false})
			if f.GetFindingId() != "alone" {
				err = errors.Join(err, tx.AttachFinding("i1", f.GetFindingId()))
			}
			if err := errors.Join(err, errAgain); err != nil {
				return err
			}
		}
		return nil
	})
	b.view(func(tx *store.Tx) error {
		got, err := tx.Incident("i1")
		b.same("findings, the cause first", got.GetFindings(), want)
		return err
	})
	b.view(func(tx *store.Tx) error {
		got, err := tx.Cause("i1")
		b.same("cause", got, cause)
		return err
	})
	b.update(func(tx *store.Tx) error {
		for n := range 2 * store.FindingsShown {
			f := finding(fmt.Sprintf("many-%d", n), 50, commonv1.Severity_SEVERITY_WARNING, n+1)
			if _, err := tx.PutFinding(f); err != nil {
				return err
			}
			if err := tx.AttachFinding("i3", f.GetFindingId()); err != nil {
				return err
			}
		}
		got, err := tx.Incident("i3")
		b.same("findings shown", len(got.GetFindings()), store.FindingsShown)
		return err
	})
}

func testIncidentRecords(t *testing.T, b *bench) {
	b.update(func(tx *store.Tx) error {
		return errors.Join(tx.PutIncident(record("i1", "r", 10)), tx.PutIncident(record("i2", "q", 30)), tx.PutIncident(record("i3", "r", 20)))
	})
	over := record("i1", "r", 10)
	over.Incident.State, over.Incident.Resolved, over.Findings = resolved, stamp(99), 4
	b.update(func(tx *store.Tx) error { return tx.PutIncident(over) })
	b.view(func(tx *store.Tx) error {
		open, err := tx.OpenIncidents("r")
		b.same("open", open, []store.IncidentRecord{record("i3", "r", 20)})
		got, errGot := tx.IncidentRecord("i1")
		b.same("record", got, over)
		n, errCount := tx.CountIncidents(firing)
		b.same("firing", n, int64(2))
		return errors.Join(err, errGot, errCount)
	})
	id := func(i *controlv1.Incident) string { return i.GetIncidentId() }
	b.view(func(tx *store.Tx) error {
		all, err := tx.Incidents("", 2)
		b.same("newest first", ids(all, id), []string{"i2", "i3"})
		own, errOwn := tx.Incidents("r", 0)
		b.same("of one run", ids(own, id), []string{"i3", "i1"})
		return errors.Join(err, errOwn)
	})
}

func testTimeline(t *testing.T, b *bench) {
	var want []*controlv1.TimelineEntry
	b.update(func(tx *store.Tx) error { return tx.PutIncident(record("i", "r", 1)) })
	for n := range 12 { // more than nine, so that a sort by text would show
		entry := &controlv1.TimelineEntry{Time: stamp(100 - n), Action: "finding", Text: fmt.Sprint(n)}
		want = append(want, entry)
		b.update(func(tx *store.Tx) error { return tx.AddTimeline("i", entry) })
	}
	b.view(func(tx *store.Tx) error {
		got, err := tx.Incident("i")
		b.same("timeline", got.GetTimeline(), want)
		return err
	})
}

func testAwaited(t *testing.T, b *bench) {
	for _, want := range []store.Awaited{{CheckpointID: "c", IncidentID: "i"}, {CheckpointID: "c", IncidentID: "i", Noted: 1<<5 | 1<<7}} {
		b.update(func(tx *store.Tx) error { return tx.PutAwaited(want) })
		b.view(func(tx *store.Tx) error {
			got, err := tx.Awaited("c")
			b.same("awaited", got, want)
			return err
		})
	}
}
