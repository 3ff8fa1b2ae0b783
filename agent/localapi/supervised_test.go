package localapi_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/agent/localapi"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// A command without the SDK is known by what its supervisor says of it.
func TestWhatASupervisorLaunchedIsKnown(t *testing.T) {
	n := serve(t)
	session := n.register(&trainerv1.RegisterRequest{RunId: "run", Kind: trainerv1.SessionKind_SESSION_KIND_SUPERVISOR})
	report := func(event *commonv1.Event) {
		t.Helper()
		if _, err := n.client.Report(t.Context(), &trainerv1.ReportRequest{SessionId: session, Events: []*commonv1.Event{event}}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, list ...localapi.Supervised) {
		t.Helper()
		if diff := cmp.Diff(list, n.sessions.Supervised()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	want("before the first attempt")
	for attempt := range uint32(2) {
		report(&commonv1.Event{EventId: string(rune('a' + attempt)), Attempt: attempt, Body: &commonv1.Event_AttemptStarted{AttemptStarted: &commonv1.AttemptStarted{Pid: 4711}}})
		want("while it runs", localapi.Supervised{RunID: "run", Attempt: attempt, PID: 4711})
	}
	report(&commonv1.Event{EventId: "z", Attempt: 1, Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{Outcome: commonv1.Outcome_OUTCOME_SUCCEEDED}}})
	want("after its end")
}
