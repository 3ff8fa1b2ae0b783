package api

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// putFinding writes a finding of run r that is part of incident inc-1, or a
// shadow one.
func (in *installation) putFinding(t *testing.T, id string, shadow bool) {
	t.Helper()
	in.update(t, func(tx *store.Tx) error {
		f := &controlv1.Finding{FindingId: id, RunId: "r", Kind: "spike", OnsetStep: 7, Step: 9, Shadow: shadow, EventTime: timestamppb.Now()}
		if _, err := tx.PutFinding(f); err != nil || shadow {
			return err
		}
		if err := tx.AttachFinding("inc-1", id); err != nil {
			return err
		}
		return tx.PutIncident(store.IncidentRecord{Incident: &controlv1.Incident{IncidentId: "inc-1", RunId: "r"}})
	})
}

func TestAFindingIsJudged(t *testing.T) {
	in := install(t)
	in.putRun(t, "r", controlv1.RunState_RUN_STATE_RUNNING)
	in.putFinding(t, "f-1", false)
	in.putFinding(t, "f-2", true)
	client := controlv1.NewFindingServiceClient(in.conn)
	for _, id := range []string{"f-1", "f-2"} {
		out, err := client.JudgeFinding(t.Context(), &controlv1.JudgeFindingRequest{
			FindingId: id, Verdict: controlv1.Verdict_VERDICT_FALSE_ALARM, Note: "a new curriculum.", Author: "ada"})
		if err != nil {
			t.Fatal(err)
		}
		if said := out.Finding.Feedback; said.Verdict != controlv1.Verdict_VERDICT_FALSE_ALARM || said.Author != "ada" || said.Time == nil {
			t.Errorf("said %v", said)
		}
	}
	listed, err := client.ListFindings(t.Context(), &controlv1.ListFindingsRequest{RunId: "r", Kind: "spike"})
	if err != nil || len(listed.Findings) != 2 || listed.Findings[1].Feedback.GetNote() != "a new curriculum." {
		t.Errorf("listed %v, %v", listed, err)
	}
	incident, err := controlv1.NewIncidentServiceClient(in.conn).GetIncident(t.Context(), &controlv1.GetIncidentRequest{IncidentId: "inc-1"})
	if err != nil {
		t.Fatal(err)
	}
	timeline := incident.Incident.Timeline
	const want = "ada called finding f-1 (spike, step 7) a false alarm: a new curriculum."
	if len(timeline) != 1 || timeline[0].Action != "feedback" || timeline[0].Text != want {
		t.Errorf("timeline %v, want %q", timeline, want)
	}
	if _, err := client.JudgeFinding(t.Context(), &controlv1.JudgeFindingRequest{FindingId: "f-1", Verdict: controlv1.Verdict_VERDICT_CONFIRMED}); err != nil {
		t.Fatal(err)
	}
	one, err := client.GetFinding(t.Context(), &controlv1.GetFindingRequest{FindingId: "f-1"})
	if err != nil || one.Finding.Feedback.Verdict != controlv1.Verdict_VERDICT_CONFIRMED || one.Finding.IncidentId != "inc-1" {
		t.Errorf("after the second word: %v, %v", one, err)
	}
}

func TestFindingCallsThatAreRefused(t *testing.T) {
	in := install(t)
	in.putRun(t, "r", controlv1.RunState_RUN_STATE_RUNNING)
	in.putFinding(t, "f-1", false)
	client := controlv1.NewFindingServiceClient(in.conn)
	const alarm = controlv1.Verdict_VERDICT_FALSE_ALARM
	for name, tc := range map[string]struct {
		call func() error
		want codes.Code
	}{
		"no verdict": {func() error {
			_, err := client.JudgeFinding(t.Context(), &controlv1.JudgeFindingRequest{FindingId: "f-1"})
			return err
		}, codes.InvalidArgument},
		"a long note": {func() error {
			_, err := client.JudgeFinding(t.Context(), &controlv1.JudgeFindingRequest{FindingId: "f-1", Verdict: alarm, Note: strings.Repeat("x", 5000)})
			return err
		}, codes.InvalidArgument},
		"no such finding": {func() error {
			_, err := client.JudgeFinding(t.Context(), &controlv1.JudgeFindingRequest{FindingId: "f-9", Verdict: alarm})
			return err
		}, codes.NotFound},
		"no id": {func() error {
			_, err := client.GetFinding(t.Context(), &controlv1.GetFindingRequest{})
			return err
		}, codes.InvalidArgument},
		"no such run": {func() error {
			_, err := client.ListFindings(t.Context(), &controlv1.ListFindingsRequest{RunId: "q"})
			return err
		}, codes.NotFound},
		"settings of no such run": {func() error {
			_, err := client.GetDetectionSettings(t.Context(), &controlv1.GetDetectionSettingsRequest{RunId: "q"})
			return err
		}, codes.NotFound},
	} {
		if err := tc.call(); status.Code(err) != tc.want {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	out, err := client.GetDetectionSettings(t.Context(), &controlv1.GetDetectionSettingsRequest{})
	if err != nil || !strings.Contains(out.GetYaml(), "spike:") || len(out.GetSources()) > 0 {
		t.Errorf("settings %v, %v", out, err)
	}
}
