package alert

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	firing       = controlv1.IncidentState_INCIDENT_STATE_FIRING
	acknowledged = controlv1.IncidentState_INCIDENT_STATE_ACKNOWLEDGED
	resolved     = controlv1.IncidentState_INCIDENT_STATE_RESOLVED
)

// after is a time so long after the incident was opened.
func after(d time.Duration) *timestamppb.Timestamp {
	return timestamppb.New(time.Date(2026, 3, 1, 3, 12, 9, 0, time.UTC).Add(d))
}

func incident(state controlv1.IncidentState) Delivery {
	return Delivery{State: state, Incident: &controlv1.Incident{
		IncidentId: "inc-1", RunId: "digits-7", Kind: "divergence", Severity: commonv1.Severity_SEVERITY_CRITICAL,
		Summary: "The loss rose.", Opened: after(0), Resolved: after(200 * time.Second),
		Findings: []*controlv1.Finding{{OnsetStep: 7, Step: 15, Attempt: 1, Rank: 2, Node: "n2", Summary: "Finding."}},
		Timeline: []*controlv1.TimelineEntry{
			{Time: after(0), Action: "opened", Text: "Opened."},
			{Time: after(time.Millisecond), Action: "checkpoint", Text: "Commanded."},
			{Time: after(2 * time.Millisecond), Action: "directive", Text: "Directed."},
			{Time: after(time.Second), Action: "notified", Text: "Told."},
			{Action: "restart", Text: "Restarted."},
			{Time: after(200 * time.Second), Action: "resolved", Text: "Trains again."},
		},
	}}
}

func TestWords(t *testing.T) {
	bare := Delivery{State: firing, Incident: &controlv1.Incident{RunId: "r"}}
	unsummed := incident(firing)
	unsummed.Incident.Summary = ""
	type words struct{ Title, Status, Summary string }
	for name, test := range map[string]struct {
		delivery Delivery
		want     words
	}{
		"firing": {incident(firing), words{
			"Critical: divergence in run digits-7", "Firing since 2026-03-01 03:12:09 UTC.", "The loss rose."}},
		"acknowledged": {incident(acknowledged), words{
			"Critical: divergence in run digits-7", "Acknowledged; firing since 2026-03-01 03:12:09 UTC.", "The loss rose."}},
		"resolved": {incident(resolved), words{
			"Resolved: divergence in run digits-7", "Resolved after 3 min 20 s.", "The loss rose."}},
		"without a summary": {unsummed, words{
			"Critical: divergence in run digits-7", "Firing since 2026-03-01 03:12:09 UTC.", "Finding."}},
		"bare":          {bare, words{"Alert: incident in run r", "Firing.", "Alert: incident in run r."}},
		"bare resolved": {Delivery{State: resolved, Incident: bare.Incident}, words{"Resolved: incident in run r", "Resolved.", "Resolved: incident in run r."}},
		"no state":      {Delivery{Incident: bare.Incident}, words{"Alert: incident in run r", "", "Alert: incident in run r."}},
	} {
		got := words{test.delivery.Title(), test.delivery.Status(), test.delivery.Summary()}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

func TestFieldsLeaveOutWhatIsNotKnown(t *testing.T) {
	same := incident(firing)
	same.Incident.Findings[0].Step, same.Incident.Findings[0].Node = 7, ""
	same.Incident.Findings = append(same.Incident.Findings, &controlv1.Finding{})
	for name, test := range map[string]struct {
		delivery Delivery
		want     []Field
	}{
		"full": {incident(firing), []Field{
			{"Run", "digits-7"}, {"Severity", "Critical"}, {"Node", "n2"}, {"Rank", "2"}, {"Step", "7 (seen at 15)"}, {"Attempt", "1"}}},
		"two findings, no node": {same, []Field{
			{"Run", "digits-7"}, {"Severity", "Critical"}, {"Rank", "2"}, {"Step", "7"}, {"Attempt", "1"}, {"Findings", "2"}}},
		"nothing": {Delivery{Incident: &controlv1.Incident{}}, []Field{}},
	} {
		if diff := cmp.Diff(test.want, test.delivery.Fields()); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

func TestActions(t *testing.T) {
	want := []string{"Commanded.", "Directed.", "Restarted."}
	if diff := cmp.Diff(want, incident(firing).Actions()); diff != "" {
		t.Errorf("firing: -want +got:\n%s", diff)
	}
	want = append(want, "Trains again.")
	if diff := cmp.Diff(want, incident(resolved).Actions()); diff != "" {
		t.Errorf("resolved: -want +got:\n%s", diff)
	}
}

func TestDuration(t *testing.T) {
	backwards := incident(resolved)
	backwards.Incident.Resolved = after(-time.Second)
	unknown := incident(resolved)
	unknown.Incident.Resolved = nil
	for name, test := range map[string]struct {
		delivery Delivery
		want     time.Duration
		known    bool
	}{
		"resolved":                 {incident(resolved), 200 * time.Second, true},
		"firing":                   {incident(firing), 0, false},
		"resolved at no time":      {unknown, 0, false},
		"resolved before it began": {backwards, 0, true},
	} {
		if got, known := test.delivery.Duration(); got != test.want || known != test.known {
			t.Errorf("%s: %v, %v; want %v, %v", name, got, known, test.want, test.known)
		}
	}
}

func TestLasted(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 ms", 40 * time.Millisecond: "40 ms", 99999 * time.Microsecond: "99 ms",
		100 * time.Millisecond: "0.1 s", 12440 * time.Millisecond: "12.4 s", time.Minute - 1: "59.9 s",
		time.Minute: "1 min 0 s", 200 * time.Second: "3 min 20 s", time.Hour: "1 h 0 min", 125 * time.Minute: "2 h 5 min",
	} {
		if got := Lasted(d); got != want {
			t.Errorf("Lasted(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestStateAndSeverityHaveWords(t *testing.T) {
	for i, want := range []string{"", "Info", "Warning", "Critical"} {
		if got := Severity(commonv1.Severity(i)); got != want {
			t.Errorf("Severity(%d) = %q, want %q", i, got, want)
		}
	}
	if got := State(acknowledged); got != "acknowledged" {
		t.Errorf("State = %q", got)
	}
}
