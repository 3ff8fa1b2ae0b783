package runs

import (
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-3*math.Abs(b) }

// The figures are by hand: C = 20 s, M = 10,000 s gives Young 632.456 s and Daly
// 632.456 (1 + 0.0316228/3 + 0.001/9) - 20 = 619.19 s.
func TestYoungAndDaly(t *testing.T) {
	if got := Young(20, 10000); !near(got, 632.456) {
		t.Errorf("Young is %g", got)
	}
	if got := Daly(20, 10000); !near(got, 619.193) {
		t.Errorf("Daly is %g", got)
	}
	if got := Daly(300, 100); got != 100 {
		t.Errorf("Daly of a checkpoint that costs more than two failures' time is %g", got)
	}
	// No interval loses less than Daly's by more than what Young's formula leaves out.
	best := lost(20, 10000, Daly(20, 10000))
	for interval := 50.0; interval < 5000; interval *= 1.1 {
		if lost(20, 10000, interval) < best*0.999 {
			t.Errorf("an interval of %g loses %g, Daly's %g", interval, lost(20, 10000, interval), best)
		}
	}
}

func attempt(from, to time.Time, failure commonv1.FailureKind, pauses int64, seconds float64) *controlv1.Attempt {
	a := &controlv1.Attempt{Started: timestamppb.New(from), Failure: failure, CheckpointPauses: pauses, CheckpointPauseSeconds: seconds}
	if !to.IsZero() {
		a.Ended = timestamppb.New(to)
	}
	return a
}

func TestAdvise(t *testing.T) {
	began := time.Unix(1000, 0)
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	const none, killed = commonv1.FailureKind_FAILURE_KIND_UNSPECIFIED, commonv1.FailureKind_FAILURE_KIND_KILLED
	attempts := []*controlv1.Attempt{
		attempt(at(0), at(8000), killed, 8, 160), attempt(at(8100), at(20100), killed, 12, 240), attempt(at(20200), time.Time{}, none, 0, 0),
	}
	got := Advise(attempts, 2000, at(20200))
	if got.Failures != 2 || got.CheckpointCostSeconds != 20 || got.FailureIntervalSeconds != 10000 || got.CurrentSeconds != 1000 {
		t.Errorf("advice rests on %v", got)
	}
	if !near(got.DalySeconds, 619.193) || got.DalySteps != 62 || !(got.DalyLossRatio < got.CurrentLossRatio) {
		t.Errorf("advice is %v", got)
	}
	calm := Advise([]*controlv1.Attempt{attempt(at(0), time.Time{}, none, 10, 10)}, 100, at(1000))
	if calm.Failures != 0 || calm.FailureIntervalSeconds != 1000 || !near(calm.YoungSeconds, math.Sqrt(2000)) {
		t.Errorf("without a failure: %v", calm)
	}
	for name, attempts := range map[string][]*controlv1.Attempt{
		"nothing": nil, "never saved": {attempt(at(0), at(10), killed, 0, 0)}, "no time": {attempt(at(0), at(0), none, 1, 1)},
	} {
		if got := Advise(attempts, 1, at(10)); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestPausesForCheckpointsAreCounted(t *testing.T) {
	a := &controlv1.Attempt{}
	phase := func(rank uint32, kind commonv1.PhaseKind, edge commonv1.PhaseEdge, at int64) {
		event := &commonv1.Event{Rank: rank, Time: timestamppb.New(time.Unix(at, 0)), Body: &commonv1.Event_Phase{Phase: &commonv1.Phase{Kind: kind, Edge: edge}}}
		projectAttempt(a, event)
	}
	const begin, end = commonv1.PhaseEdge_PHASE_EDGE_BEGIN, commonv1.PhaseEdge_PHASE_EDGE_END
	const save, evaluate = commonv1.PhaseKind_PHASE_KIND_CHECKPOINT, commonv1.PhaseKind_PHASE_KIND_EVALUATION
	phase(0, save, end, 5) // of a pause that began before anyone listened
	phase(0, save, begin, 10)
	phase(1, save, begin, 11)
	phase(0, evaluate, begin, 11)
	phase(0, save, end, 13)
	phase(0, evaluate, end, 50)
	phase(0, save, begin, 60)
	phase(0, save, end, 61)
	if a.CheckpointPauses != 2 || a.CheckpointPauseSeconds != 4 || a.PauseBegan != nil {
		t.Errorf("%d pauses of %g s, open %v", a.CheckpointPauses, a.CheckpointPauseSeconds, a.PauseBegan)
	}
}
