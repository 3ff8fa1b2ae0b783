package localapi_test

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// Four runs of 64 ranks each on one node: every rank has its own run's
// directive, once, and events keep their run and rank. Then one run's processes
// vanish, and one rank of another: the others do not notice.
func TestFourRunsOf64Ranks(t *testing.T) {
	const runs, ranks = 4, 64
	n := serve(t)
	sessions, watches, vanish := map[string]string{}, map[string]watch{}, map[string]context.CancelFunc{}
	name := func(run, rank int) string { return fmt.Sprintf("run-%d/%d", run, rank) }
	for run := range runs {
		for rank := range ranks {
			in := registration(fmt.Sprint("run-", run), uint32(rank))
			in.Trainer.WorldSize = ranks
			key := name(run, rank)
			sessions[key] = n.register(in)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			vanish[key], watches[key] = cancel, n.watch(ctx, sessions[key])
		}
	}
	direct := func(run, want int) {
		t.Helper()
		told, err := n.sessions.Direct(fmt.Sprint("run-", run), directive(fmt.Sprint("d-", run)))
		if err != nil || len(told) != want {
			t.Fatalf("run %d: %d processes were told, want %d: %v", run, len(told), want, err)
		}
	}
	hears := func(run, rank int) {
		t.Helper()
		got, err := watches[name(run, rank)].Recv()
		if err != nil || got.GetDirective().GetDirectiveId() != fmt.Sprint("d-", run) {
			t.Fatalf("%s hears %v, %v", name(run, rank), got, err)
		}
	}
	for run := range runs {
		direct(run, ranks)
		for rank := range ranks {
			hears(run, rank)
			_, err := n.client.Report(t.Context(), &trainerv1.ReportRequest{SessionId: sessions[name(run, rank)], Events: []*commonv1.Event{
				{RunId: "another's", Rank: 999, Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: int64(rank), Loss: proto.Float64(1)}}}}})
			if err != nil {
				t.Fatal(err)
			}
		}
		steps := 0
		for _, e := range n.list(fmt.Sprint("run-", run)) {
			if e.GetStep() == nil {
				continue
			}
			if steps++; e.GetStep().GetStep() != int64(e.Rank) {
				t.Errorf("event of rank %d is stamped as rank %d", e.GetStep().GetStep(), e.Rank)
			}
		}
		if steps != ranks {
			t.Errorf("run %d: %d events, want %d", run, steps, ranks)
		}
	}
	for rank := range ranks {
		vanish[name(0, rank)]()
	}
	vanish[name(1, 7)]()
	testkit.Eventually(t, "the agent to see it", func() bool {
		return len(n.sessions.Trainers("run-0")) == 0 && len(n.sessions.Trainers("run-1")) == ranks-1
	})
	if _, err := n.sessions.Direct("run-0", directive("d-0")); !fault.Is(err, fault.NotFound) {
		t.Errorf("direct a run that vanished: %v", err)
	}
	direct(1, ranks-1)
	direct(2, ranks)
	for rank := range ranks {
		if rank != 7 {
			hears(1, rank)
		}
		hears(2, rank)
	}
	if got := len(n.sessions.Everyone()); got != 3*ranks-1 {
		t.Errorf("%d processes are here, want %d", got, 3*ranks-1)
	}
}
