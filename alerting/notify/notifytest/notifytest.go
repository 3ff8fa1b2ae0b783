// Package notifytest is what every notifier that speaks HTTP must pass, run
// against a real server that behaves as badly as receivers do.
package notifytest

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/alert"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// began is when the sample incident was opened.
func began() time.Time { return time.Date(2026, 3, 1, 3, 12, 9, 0, time.UTC) }

// Firing is a delivery that says that an incident began, with all that one
// can hold.
func Firing() alert.Delivery {
	after := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(began().Add(d)) }
	summary := "Rank 3 on node gpu-07 met 3 NaN of 64 values in the gradient of encoder.0.weight at step 412; " +
		"the parameters are as the last good step left them."
	return alert.Delivery{
		ID: "inc-1/oncall/1", Receiver: "oncall", Key: "inc-1/oncall",
		State: controlv1.IncidentState_INCIDENT_STATE_FIRING, Created: began(),
		Incident: &controlv1.Incident{
			IncidentId: "inc-1", RunId: "digits-7", Kind: "nonfinite",
			Severity: commonv1.Severity_SEVERITY_CRITICAL, State: controlv1.IncidentState_INCIDENT_STATE_FIRING,
			Summary: summary, Opened: after(0),
			Findings: []*controlv1.Finding{{
				FindingId: "f-1", RunId: "digits-7", Kind: "nonfinite", Severity: commonv1.Severity_SEVERITY_CRITICAL,
				OnsetStep: 412, Step: 412, Rank: 3, Node: "gpu-07", Summary: summary,
				Evidence: map[string]float64{"nan_count": 3},
			}},
			Timeline: []*controlv1.TimelineEntry{
				{Time: after(0), Action: "opened", Text: summary},
				{Time: after(2 * time.Millisecond), Action: "checkpoint", Text: "Asked for emergency checkpoint c-1 and a restart from it."},
				{Time: after(840 * time.Millisecond), Action: "checkpoint", Text: "Checkpoint c-1 of step 411 is verified after 840 ms."},
			},
		},
	}
}

// Resolved is the delivery that says that the same incident is over.
func Resolved() alert.Delivery {
	d := Firing()
	d.ID, d.State = "inc-1/oncall/2", controlv1.IncidentState_INCIDENT_STATE_RESOLVED
	d.Incident.State = d.State
	d.Incident.Resolved = timestamppb.New(began().Add(12400 * time.Millisecond))
	d.Incident.Timeline = append(d.Incident.Timeline,
		&controlv1.TimelineEntry{Time: d.Incident.Resolved, Action: "resolved", Text: "Attempt 1 passed step 412 with a finite loss."})
	d.Created = began().Add(12400 * time.Millisecond)
	return d
}

// Golden compares JSON with testdata/<name>.json, which UPDATE_GOLDEN=1
// writes anew.
func Golden(t *testing.T, name string, got []byte) {
	t.Helper()
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, got, "", "  "); err != nil {
		t.Fatalf("indent %s: %v\n%s", name, err, got)
	}
	pretty.WriteByte('\n')
	path := filepath.Join("testdata", name+".json")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, pretty.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; UPDATE_GOLDEN=1 writes it", err)
	}
	if diff := cmp.Diff(string(want), pretty.String()); diff != "" {
		t.Errorf("%s: -want +got:\n%s", path, diff)
	}
}
