package rules_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func TestFailed(t *testing.T) {
	end := func(attempt uint32, failure commonv1.FailureKind, restarting, page bool) *commonv1.Event {
		e := at(0, nil)
		e.Attempt, e.Body = attempt, &commonv1.Event_AttemptEnded{AttemptEnded: &commonv1.AttemptEnded{
			Failure: failure, Restarting: restarting, Recovery: &commonv1.Recovery{Page: page, Decision: "what was decided."},
		}}
		return e
	}
	const gpuOOM, hang = commonv1.FailureKind_FAILURE_KIND_GPU_OOM, commonv1.FailureKind_FAILURE_KIND_HANG
	for name, c := range map[string]struct {
		events []*commonv1.Event
		want   []string
	}{
		"nobody is called":          {[]*commonv1.Event{loss(0, 0, 1), end(0, gpuOOM, true, false)}, nil},
		"an end that is no failure": {[]*commonv1.Event{loss(0, 0, 1), end(0, 0, false, false)}, nil},
		"given up": {[]*commonv1.Event{loss(0, 40, 1), end(2, gpuOOM, false, true)},
			[]string{"SEVERITY_CRITICAL 41 Attempt 2 of run r failed after step 40 (gpu oom) and no other follows: what was decided."}},
		"the word of two nodes": {[]*commonv1.Event{loss(0, 0, 1), end(0, gpuOOM, true, true), end(0, gpuOOM, true, true), end(1, gpuOOM, true, true)},
			[]string{"SEVERITY_CRITICAL 1 Attempt 0 of run r failed after step 0 (gpu oom) and another follows: what was decided.",
				"SEVERITY_CRITICAL 1 Attempt 1 of run r failed after step 0 (gpu oom) and another follows: what was decided."}},
		"a hang that nobody is called for": {[]*commonv1.Event{loss(0, 0, 1), end(0, hang, true, false)},
			[]string{"SEVERITY_WARNING 1 Attempt 0 of run r failed after step 0 (hang) and another follows: what was decided."}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, f := range observe(detect.NewBank([]detect.Rule{rules.Failed()}), c.events...) {
				got = append(got, f.GetSeverity().String()+" "+fmt.Sprint(f.GetOnsetStep())+" "+f.GetSummary())
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
