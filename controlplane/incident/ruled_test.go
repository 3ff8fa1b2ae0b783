package incident_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// ruled gives an engine an alert of a rule.
func (d *desk) ruled(a incident.Ruled) {
	d.Helper()
	if err := d.store.Update(d.Context(), func(tx *store.Tx) error { return d.engine.Ruled(d.Context(), tx, a) }); err != nil {
		d.Fatal(err)
	}
}

func (d *desk) findings() (all []*controlv1.FindingRecord) {
	d.Helper()
	err := d.store.View(d.Context(), func(tx *store.Tx) (err error) {
		all, err = tx.Findings("", "LossHigh", 0)
		return err
	})
	if err != nil {
		d.Fatal(err)
	}
	return all
}

// TestRuledAlertsAreFindings: each time that a rule's alert begins to fire there
// is a finding, part of an incident that ends with the alert.
func TestRuledAlertsAreFindings(t *testing.T) {
	d := newDesk(t)
	a := incident.Ruled{Value: 3.5, External: incident.External{
		Labels:      map[string]string{"alertname": "LossHigh", "severity": "warning", "run": "r", "node": "n1", "rank": "2"},
		Annotations: map[string]string{"summary": "the loss is 3.5"}, Starts: d.now.Add(-time.Minute), Ends: d.now.Add(4 * time.Minute),
	}}
	for range 3 { // told again while it fires
		d.ruled(a)
		d.now = d.now.Add(time.Minute)
		a.Ends = d.now.Add(4 * time.Minute)
	}
	all := d.findings()
	if len(all) != 1 {
		t.Fatalf("%d findings, want 1", len(all))
	}
	f := all[0].GetFinding()
	d.same("its incident", all[0].GetIncidentId(), d.only().GetIncidentId())
	d.same("run, node, rank", []any{f.GetRunId(), f.GetNode(), f.GetRank(), f.GetBlameUnknown()}, []any{"r", "n1", uint32(2), false})
	d.same("severity", f.GetSeverity(), commonv1.Severity_SEVERITY_WARNING)
	d.same("summary", f.GetSummary(), "the loss is 3.5")
	d.same("when", f.GetEventTime().AsTime(), a.Starts)
	if diff := cmp.Diff(map[string]float64{"value": 3.5}, f.GetEvidence()); diff != "" {
		t.Error(diff)
	}
	over := a
	over.Ends = d.now
	d.ruled(over)
	d.same("state", d.only().GetState(), controlv1.IncidentState_INCIDENT_STATE_RESOLVED)
	d.ruled(over) // its end is told again
	d.same("findings after its end", len(d.findings()), 1)

	d.now = d.now.Add(time.Second)
	a.Starts, a.Ends = d.now, d.now.Add(4*time.Minute)
	d.ruled(a)
	d.same("incidents when it fires again", len(d.all()), 1)
	d.same("findings when it fires again", len(d.findings()), 2)
	d.same("state", d.only().GetState(), controlv1.IncidentState_INCIDENT_STATE_FIRING)
}
