package standing

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// clock is set by the test.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func reached(run, id string, state commonv1.CheckpointState, step int64, at time.Time) *commonv1.Event {
	return &commonv1.Event{RunId: run, Time: timestamppb.New(at), Body: &commonv1.Event_Checkpoint{
		Checkpoint: &commonv1.CheckpointProgress{CheckpointId: id, State: state, Step: step}}}
}

const (
	directed = commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED
	staged   = commonv1.CheckpointState_CHECKPOINT_STATE_STAGED
	durable  = commonv1.CheckpointState_CHECKPOINT_STATE_DURABLE
	verified = commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED
	failed   = commonv1.CheckpointState_CHECKPOINT_STATE_FAILED
)

func TestTimesAndTheLastCheckpoint(t *testing.T) {
	c := &clock{now: time.Unix(1000, 0)}
	at := func(seconds int) time.Time { return c.now.Add(time.Duration(seconds) * time.Second) }
	b := New(c.Now)
	if got := b.Of("run", time.Time{}, "a"); got.Last != nil || got.Asked != nil || got.StageTime != nil || got.SealTime != nil {
		t.Errorf("of an unknown run: %v", got)
	}
	b.Began("run", "a") // the run's own schedule
	b.Observe(reached("run", "a", staged, 10, at(2)))
	b.Observe(reached("run", "a", verified, 10, at(5)))
	b.Observe(reached("run", "b", directed, 0, at(10))) // somebody asked for it
	b.Began("run", "b")
	b.Observe(reached("run", "b", staged, 20, at(17)))
	b.Observe(reached("run", "b", durable, 20, at(18)))
	b.Observe(reached("run", "c", directed, 0, at(20)))
	b.Observe(reached("run", "c", failed, 30, at(21)))
	got := b.Of("run", time.Time{}, "b")
	if got.Last.GetCheckpointId() != "b" || got.Last.GetState() != durable || got.Asked.GetStep() != 20 {
		t.Errorf("last is %v, asked %v", got.Last, got.Asked)
	}
	if got.StageTime.AsDuration() != 7*time.Second || got.SealTime.AsDuration() != 3*time.Second {
		t.Errorf("stage %v, seal %v; want the longest, 7s and 3s", got.StageTime.AsDuration(), got.SealTime.AsDuration())
	}
	if other := b.Of("other", time.Time{}, "a"); other.Last != nil || other.Asked != nil {
		t.Errorf("another run has %v", other)
	}
}

func TestFaultsOfOthersAreLeftOut(t *testing.T) {
	c := &clock{now: time.Unix(1000, 0)}
	b := New(c.Now)
	fault := func(run string, code int32) *commonv1.Event {
		return &commonv1.Event{Body: &commonv1.Event_NodeFault{NodeFault: &commonv1.NodeFault{RunId: run, Code: code}}}
	}
	b.Observe(fault("", 1))
	began := c.now.Add(time.Second)
	c.now = began
	b.Observe(fault("", 2))
	b.Observe(fault("run", 3))
	b.Observe(fault("other", 4))
	var codes []int32
	for _, f := range b.Of("run", began, "").Faults {
		codes = append(codes, f.Code)
	}
	if fmt.Sprint(codes) != "[2 3]" {
		t.Errorf("faults %v, want 2 and 3", codes)
	}
	if got := b.Of("run", time.Time{}, "").Faults; got != nil {
		t.Errorf("nobody asked for faults: %v", got)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	c := &clock{now: time.Unix(1000, 0)}
	b := New(c.Now)
	for n := range 2 * maxRuns {
		c.now = c.now.Add(time.Second)
		b.Observe(reached(fmt.Sprint("run-", n), "a", staged, 1, c.now))
		b.Observe(&commonv1.Event{Body: &commonv1.Event_NodeFault{NodeFault: &commonv1.NodeFault{}}})
		b.Began("busy", fmt.Sprint(n))
		b.Observe(reached("busy", fmt.Sprint(n), staged, int64(n), c.now))
	}
	busy := b.runs["busy"]
	if len(b.runs) != maxRuns || len(b.faults) != maxFaults || len(busy.checkpoints) != maxCheckpoints || len(busy.stage) != maxTimes {
		t.Errorf("%d runs, %d faults, %d checkpoints, %d times", len(b.runs), len(b.faults), len(busy.checkpoints), len(busy.stage))
	}
	if got := b.Of("busy", time.Time{}, "").Last.GetStep(); got != 2*maxRuns-1 {
		t.Errorf("the last one is of step %d", got)
	}
}
