package runs_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/runs"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// at is so many seconds after a moment.
func at(seconds int64) *timestamppb.Timestamp {
	return &timestamppb.Timestamp{Seconds: 1_772_334_720 + seconds}
}

// what makes an event of run "r", at a second, with a body.
func what(node string, attempt, rank uint32, seconds int64, body any) *commonv1.Event {
	e := &commonv1.Event{EventId: fmt.Sprint(seconds), Time: at(seconds), RunId: "r", Node: node, Attempt: attempt, Rank: rank}
	switch body := body.(type) {
	case *commonv1.TrainerRegistered:
		e.Body = &commonv1.Event_TrainerRegistered{TrainerRegistered: body}
	case *commonv1.StepReport:
		e.Body = &commonv1.Event_Step{Step: body}
	case *commonv1.NonFinite:
		e.Body = &commonv1.Event_NonFinite{NonFinite: body}
	case *commonv1.CheckpointProgress:
		e.Body = &commonv1.Event_Checkpoint{Checkpoint: body}
	case *commonv1.CommandResult:
		e.Body = &commonv1.Event_CommandResult{CommandResult: body}
	case *commonv1.AttemptStarted:
		e.Body = &commonv1.Event_AttemptStarted{AttemptStarted: body}
	case *commonv1.AttemptEnded:
		e.Body = &commonv1.Event_AttemptEnded{AttemptEnded: body}
	case *commonv1.Resumed:
		e.Body = &commonv1.Event_Resumed{Resumed: body}
	case *commonv1.RunEnded:
		e.Body = &commonv1.Event_RunEnded{RunEnded: body}
	}
	return e
}

func step(n int64, loss float64) *commonv1.StepReport {
	return &commonv1.StepReport{Step: n, Loss: &loss}
}

func registered(world uint32) *commonv1.TrainerRegistered {
	return &commonv1.TrainerRegistered{WorldSize: world, TotalSteps: 900, Name: "digits", Settings: map[string]string{"seed": "7"}}
}

func ended(code int32, failure commonv1.FailureKind, again bool) *commonv1.AttemptEnded {
	return &commonv1.AttemptEnded{ExitCode: &code, Failure: failure, Restarting: again, Explanation: fmt.Sprintf("exit code %d", code)}
}

func openStore(t testing.TB) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "vigil.db")}, store.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func apply(t testing.TB, s *store.Store, events ...*commonv1.Event) {
	t.Helper()
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		for i, e := range events {
			if err := runs.Apply(t.Context(), tx, uint64(i)+100, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// records gives the run and its attempts.
func records(t testing.TB, s *store.Store) (run *controlv1.Run, attempts []*controlv1.Attempt) {
	t.Helper()
	err := s.View(t.Context(), func(tx *store.Tx) (err error) {
		if run, err = tx.Run("r"); err != nil {
			return err
		}
		attempts, err = tx.Attempts("r")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return run, attempts
}

const (
	running    = controlv1.RunState_RUN_STATE_RUNNING
	restarting = controlv1.RunState_RUN_STATE_RESTARTING
	succeeded  = controlv1.RunState_RUN_STATE_SUCCEEDED
	failed     = controlv1.RunState_RUN_STATE_FAILED
	stopped    = controlv1.RunState_RUN_STATE_STOPPED
	nonfinite  = commonv1.FailureKind_FAILURE_KIND_NONFINITE
	crash      = commonv1.FailureKind_FAILURE_KIND_CRASH
)

func TestRun(t *testing.T) {
	quarter := 0.25
	base := func(change func(*controlv1.Run)) *controlv1.Run {
		r := &controlv1.Run{RunId: "r", State: running, Started: at(1)}
		change(r)
		return r
	}
	full := func(r *controlv1.Run) {
		r.Name, r.TotalSteps, r.WorldSize, r.Nodes, r.Settings = "digits", 900, 1, []string{"n1"}, map[string]string{"seed": "7"}
	}
	tests := []struct {
		name   string
		events []*commonv1.Event
		want   *controlv1.Run
	}{
		{"attempt started", []*commonv1.Event{
			what("n1", 0, 0, 1, &commonv1.AttemptStarted{}),
		}, base(func(*controlv1.Run) {})},
		{"registered", []*commonv1.Event{
			what("n1", 0, 0, 1, registered(1)),
		}, base(full)},
		{"steps", []*commonv1.Event{
			what("n1", 0, 0, 1, registered(1)), what("n1", 0, 0, 2, step(1, 0.5)), what("n1", 0, 0, 3, step(2, quarter)),
		}, base(func(r *controlv1.Run) { full(r); r.Step, r.Loss = 2, &quarter })},
		{"a step report without its start", []*commonv1.Event{
			what("n1", 2, 0, 1, step(70, quarter)),
		}, base(func(r *controlv1.Run) { r.Attempt, r.Step, r.Loss, r.Nodes = 2, 70, &quarter, []string{"n1"} })},
		{"another rank's steps do not count", []*commonv1.Event{
			what("n2", 0, 1, 1, step(70, quarter)),
		}, base(func(r *controlv1.Run) { r.Nodes = []string{"n2"} })},
		{"restarting", []*commonv1.Event{
			what("n1", 0, 0, 1, registered(1)), what("n1", 0, 0, 2, ended(75, nonfinite, true)),
		}, base(func(r *controlv1.Run) { full(r); r.State = restarting })},
		{"resumed", []*commonv1.Event{
			what("n1", 0, 0, 1, registered(1)), what("n1", 0, 0, 2, step(9, quarter)), what("n1", 0, 0, 3, ended(75, nonfinite, true)),
			what("n1", 1, 0, 4, registered(1)), what("n1", 1, 0, 5, &commonv1.Resumed{CheckpointId: "c", Step: 7}),
		}, base(func(r *controlv1.Run) { full(r); r.Attempt, r.Step, r.Loss = 1, 7, &quarter })},
		{"a new attempt on another node", []*commonv1.Event{
			what("n1", 0, 0, 1, registered(1)), what("n2", 1, 0, 2, &commonv1.AttemptStarted{}),
			what("n2", 1, 0, 3, registered(1)), what("n1", 0, 0, 4, step(99, quarter)),
		}, base(func(r *controlv1.Run) { full(r); r.Attempt, r.Nodes = 1, []string{"n2"} })},
		{"failed without word of the run's end", []*commonv1.Event{
			what("n1", 0, 0, 1, registered(1)), what("n1", 0, 0, 2, ended(1, crash, false)),
		}, base(func(r *controlv1.Run) { full(r); r.State, r.Ended, r.Explanation = failed, at(2), "exit code 1" })},
		{"succeeded without word of the run's end", []*commonv1.Event{
			what("n1", 0, 0, 1, registered(1)), what("n1", 0, 0, 2, ended(0, 0, false)),
		}, base(func(r *controlv1.Run) { full(r); r.State, r.Ended, r.Explanation = succeeded, at(2), "exit code 0" })},
		{"stopped by a signal", []*commonv1.Event{
			what("n1", 0, 0, 1, registered(1)), what("n1", 0, 0, 2, &commonv1.AttemptEnded{}),
			what("n1", 0, 0, 3, &commonv1.RunEnded{Outcome: commonv1.Outcome_OUTCOME_STOPPED, Explanation: "asked to"}),
		}, base(func(r *controlv1.Run) { full(r); r.State, r.Ended, r.Explanation = stopped, at(3), "asked to" })},
		{"ended", []*commonv1.Event{
			what("n1", 0, 0, 1, registered(1)), what("n1", 0, 0, 2, ended(0, 0, false)),
			what("n1", 0, 0, 3, &commonv1.RunEnded{Outcome: commonv1.Outcome_OUTCOME_SUCCEEDED, Step: 900, ParametersSha256: "ab", Explanation: "done"}),
			what("n1", 0, 0, 4, &commonv1.RunEnded{Outcome: commonv1.Outcome_OUTCOME_SUCCEEDED, Explanation: "done"}),
		}, base(func(r *controlv1.Run) {
			full(r)
			r.State, r.Ended, r.Explanation, r.Step, r.ParametersSha256 = succeeded, at(4), "done", 900, "ab"
		})},
		{"begun again after its end", []*commonv1.Event{
			what("n1", 0, 0, 1, ended(1, crash, false)), what("n1", 1, 0, 2, &commonv1.AttemptStarted{}),
		}, base(func(r *controlv1.Run) { r.Attempt = 1 })},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := openStore(t)
			apply(t, s, test.events...)
			run, _ := records(t, s)
			if diff := cmp.Diff(test.want, run, protocmp.Transform()); diff != "" {
				t.Errorf("run (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAttempts(t *testing.T) {
	s := openStore(t)
	apply(t, s,
		what("n1", 0, 0, 1, &commonv1.AttemptStarted{}),
		what("n1", 0, 0, 2, step(1, 1)),
		what("n1", 0, 0, 3, ended(75, nonfinite, true)),
		what("n1", 1, 0, 4, &commonv1.AttemptStarted{AfterFailure: nonfinite}),
		what("n1", 1, 0, 5, &commonv1.Resumed{CheckpointId: "c", Step: 7}),
		what("n1", 3, 0, 6, step(9, 1)),
	)
	_, attempts := records(t, s)
	want := []*controlv1.Attempt{
		{Attempt: 0, Started: at(1), Ended: at(3), Failure: nonfinite, Explanation: "exit code 75"},
		{Attempt: 1, Started: at(4), ResumedCheckpointId: "c", ResumedStep: 7},
		{Attempt: 3, Started: at(6)},
	}
	if diff := cmp.Diff(want, attempts, protocmp.Transform()); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
}

// TestInterleaving has the events of two nodes in random order, each node's
// own in order: the records are always the same.
func TestInterleaving(t *testing.T) {
	outcome := func(o commonv1.Outcome) *commonv1.RunEnded {
		return &commonv1.RunEnded{Outcome: o, Step: 20, Explanation: o.String()}
	}
	one := []*commonv1.Event{
		what("n1", 0, 0, 2, &commonv1.AttemptStarted{}), what("n1", 0, 0, 4, registered(2)), what("n1", 0, 0, 6, step(1, 3)),
		what("n1", 0, 0, 8, step(2, 2)), what("n1", 0, 0, 10, ended(1, crash, true)),
		what("n1", 1, 0, 12, &commonv1.AttemptStarted{}), what("n1", 1, 0, 14, registered(2)),
		what("n1", 1, 0, 16, &commonv1.Resumed{CheckpointId: "c", Step: 1}), what("n1", 1, 0, 18, step(2, 2)),
		what("n1", 1, 0, 20, ended(0, 0, false)), what("n1", 1, 0, 22, outcome(commonv1.Outcome_OUTCOME_SUCCEEDED)),
	}
	two := []*commonv1.Event{
		what("n2", 0, 1, 1, &commonv1.AttemptStarted{}), what("n2", 0, 1, 5, registered(2)), what("n2", 0, 1, 7, step(1, 9)),
		what("n2", 0, 1, 11, ended(75, nonfinite, true)),
		what("n2", 1, 1, 13, &commonv1.AttemptStarted{}), what("n2", 1, 1, 15, registered(2)),
		what("n2", 1, 1, 17, &commonv1.Resumed{CheckpointId: "c", Step: 1}), what("n2", 1, 1, 19, step(2, 9)),
		what("n2", 1, 1, 21, ended(1, crash, false)), what("n2", 1, 1, 23, outcome(commonv1.Outcome_OUTCOME_FAILED)),
	}
	var wantRun *controlv1.Run
	var wantAttempts []*controlv1.Attempt
	random := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		a, b, mixed := one, two, []*commonv1.Event(nil)
		for len(a)+len(b) > 0 {
			if random.IntN(len(a)+len(b)) < len(a) {
				mixed, a = append(mixed, a[0]), a[1:]
			} else {
				mixed, b = append(mixed, b[0]), b[1:]
			}
		}
		s := openStore(t)
		apply(t, s, mixed...)
		run, attempts := records(t, s)
		if wantRun == nil {
			wantRun, wantAttempts = run, attempts
		}
		if diff := cmp.Diff(wantRun, run, protocmp.Transform()) + cmp.Diff(wantAttempts, attempts, protocmp.Transform()); diff != "" {
			t.Fatalf("another order gives (-first +this):\n%s\norder: %v", diff, mixed)
		}
	}
	if wantRun.GetState() != failed || wantRun.GetStep() != 20 || wantAttempts[0].GetFailure() != nonfinite {
		t.Errorf("got %v and %v", wantRun, wantAttempts)
	}
}

func TestFirstSequence(t *testing.T) {
	s := openStore(t)
	apply(t, s, what("n1", 0, 0, 1, &commonv1.AttemptStarted{}), what("n1", 0, 0, 2, step(1, 1)))
	err := s.View(t.Context(), func(tx *store.Tx) error {
		sequence, open, err := tx.FirstOpenSequence()
		if sequence != 100 || !open {
			t.Errorf("first open sequence is %d (%v), want 100", sequence, open)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCommandAndCheckpoint(t *testing.T) {
	s := openStore(t)
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		_, err := tx.InsertCommand(store.Command{ID: "k", IdempotencyKey: "k", Wire: &agentv1.Command{}, Created: time.Now()})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	const durable = commonv1.CheckpointState_CHECKPOINT_STATE_DURABLE
	accepted := &commonv1.CommandResult{CommandId: "k", Stage: commonv1.CommandStage_COMMAND_STAGE_ACCEPTED}
	gaveUp := &commonv1.CommandResult{CommandId: "k", Stage: commonv1.CommandStage_COMMAND_STAGE_FAILED, Error: "no trainer"}
	unknown := proto.CloneOf(accepted)
	unknown.CommandId = "the agent's own"
	apply(t, s,
		what("n1", 0, 0, 1, registered(2)),
		what("n1", 0, 0, 2, accepted), what("n1", 0, 0, 2, unknown), what("n1", 0, 0, 3, gaveUp),
		what("n1", 0, 0, 4, &commonv1.CommandResult{CommandId: "k"}),
		what("n1", 0, 0, 4, &commonv1.CheckpointProgress{CheckpointId: "c", State: durable}),
		what("n2", 0, 1, 5, &commonv1.CheckpointProgress{CheckpointId: "c", State: durable}),
		what("n2", 0, 1, 6, &commonv1.CheckpointProgress{CheckpointId: "c2", State: durable}),
	)
	err = s.View(t.Context(), func(tx *store.Tx) error {
		command, err := tx.Command("k")
		if err != nil || command.State != store.CommandFailed || command.Error != "no trainer" {
			t.Errorf("command is %+v (%v), want it failed for want of a trainer", command, err)
		}
		for id, want := range map[string]commonv1.CheckpointState{"c": durable, "c2": 0} {
			checkpoint, err := tx.Checkpoint(id)
			if err != nil || checkpoint.GetState() != want {
				t.Errorf("checkpoint %s is %v (%v), want %v: the run has two ranks", id, checkpoint, err, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestFailedCommandFailsItsCheckpoint: an agent that gives a command up before
// it has begun says nothing of the checkpoint, and somebody waits for it.
func TestFailedCommandFailsItsCheckpoint(t *testing.T) {
	const (
		requested = commonv1.CheckpointState_CHECKPOINT_STATE_REQUESTED
		staged    = commonv1.CheckpointState_CHECKPOINT_STATE_STAGED
		failed    = commonv1.CheckpointState_CHECKPOINT_STATE_FAILED
	)
	for before, want := range map[commonv1.CheckpointState]commonv1.CheckpointState{requested: failed, staged: staged} {
		s := openStore(t)
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			if err := tx.PutCheckpoint(&controlv1.Checkpoint{CheckpointId: "c", RunId: "r", State: before}); err != nil {
				return err
			}
			_, err := tx.InsertCommand(store.Command{ID: "k", IdempotencyKey: "k", Node: "n1", RunID: "r", CheckpointID: "c", Wire: &agentv1.Command{}})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		apply(t, s, what("n1", 0, 0, 3, &commonv1.CommandResult{
			CommandId: "k", Stage: commonv1.CommandStage_COMMAND_STAGE_FAILED, Error: "the queue is full",
		}))
		err = s.View(t.Context(), func(tx *store.Tx) error {
			c, err := tx.Checkpoint("c")
			if c.GetState() != want || (want == failed && c.GetError() != "the queue is full") {
				t.Errorf("after %v the checkpoint is %v with error %q, want %v", before, c.GetState(), c.GetError(), want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestOdd applies what should not come: nothing fails and no run is made up.
func TestOdd(t *testing.T) {
	s := openStore(t)
	apply(t, s,
		&commonv1.Event{},
		&commonv1.Event{RunId: "r"},
		what("n1", 0, 0, 1, &commonv1.CommandResult{CommandId: "x", Stage: 99}),
		&commonv1.Event{Body: &commonv1.Event_Step{Step: step(1, 1)}},
		what("n1", 0, 0, 2, &commonv1.CheckpointProgress{CheckpointId: "c", State: commonv1.CheckpointState_CHECKPOINT_STATE_STAGED}),
	)
	apply(t, s, &commonv1.Event{RunId: "nan", Body: &commonv1.Event_Step{Step: step(1, math.NaN())}})
	err := s.View(t.Context(), func(tx *store.Tx) error {
		all, err := tx.Runs(0)
		if len(all) != 1 || all[0].GetRunId() != "nan" {
			t.Errorf("runs are %v, want only the one with a step", all)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
