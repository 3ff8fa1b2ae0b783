package trainer_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

const aTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// progress finds the report that a checkpoint reached a state.
func progress(agent *trainertest.Agent, id string, state commonv1.CheckpointState) *commonv1.Event {
	for _, event := range agent.Events() {
		if p := event.GetCheckpoint(); p.GetCheckpointId() == id && p.GetState() == state {
			return event
		}
	}
	return nil
}

func emergency(id string) *commonv1.CheckpointOrder {
	return &commonv1.CheckpointOrder{
		RunId: "run-1", CheckpointId: id, Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_EMERGENCY,
		After: commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART, Failure: commonv1.FailureKind_FAILURE_KIND_NONFINITE,
	}
}

func TestNonFiniteIsReportedAtOnceAndGetsTheOrderThatAnswersIt(t *testing.T) {
	agent := trainertest.New(t)
	agent.OnEvent = func(event *commonv1.Event) {
		if event.GetNonFinite() == nil {
			return
		}
		agent.Order("operator", &commonv1.CheckpointOrder{CheckpointId: "by-hand", After: commonv1.AfterCheckpoint_AFTER_CHECKPOINT_CONTINUE})
		agent.Order("answer", emergency("rescue"))
	}
	agent.Start(t)
	s := connect(t, agent, func(c *trainer.Config) { c.FlushInterval = time.Hour })
	s.Step(trainer.StepReport{Step: 1}) // what waits goes before what is urgent
	order := s.NonFinite(t.Context(), &commonv1.NonFinite{Step: 2, Tensor: "encoder.1.weight.grad"})
	if order.CheckpointID != "rescue" || !order.Ends() || order.Stops() || order.Failure != commonv1.FailureKind_FAILURE_KIND_NONFINITE {
		t.Fatalf("order is %+v", order)
	}
	if other := s.PendingOrder(); other == nil || other.CheckpointID != "by-hand" {
		t.Errorf("the operator's order is %+v, want it still waiting", other)
	}
	events := agent.Events()
	if events[0].GetStep() == nil || events[1].GetNonFinite().GetTensor() != "encoder.1.weight.grad" {
		t.Errorf("events are %v", events)
	}
	testkit.Eventually(t, "DIRECTED of both", func() bool {
		return progress(agent, "rescue", commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED) != nil &&
			progress(agent, "by-hand", commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED) != nil
	})
}

func TestNonFiniteGivesUpWaiting(t *testing.T) {
	agent := trainertest.New(t)
	agent.Hold = time.Millisecond
	agent.Start(t)
	s := connect(t, agent, nil)
	if order := s.NonFinite(t.Context(), &commonv1.NonFinite{Step: 2}); order.CheckpointID != "" || !order.Ends() {
		t.Errorf("order is %+v, want the process' own", order)
	}
	agent2 := trainertest.New(t)
	agent2.Hold = time.Hour
	agent2.Start(t)
	s2 := connect(t, agent2, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if order := s2.NonFinite(ctx, &commonv1.NonFinite{Step: 2}); order.CheckpointID != "" {
		t.Errorf("order is %+v, want the process' own", order)
	}
}

func TestOneTraceGoesThroughEventOrderAndCommit(t *testing.T) {
	agent := trainertest.New(t)
	agent.OnEvent = func(event *commonv1.Event) {
		if event.GetNonFinite() != nil {
			agent.Direct(&commonv1.Directive{
				DirectiveId: "d", Traceparent: event.GetTraceparent(),
				Verb: &commonv1.Directive_Checkpoint{Checkpoint: emergency("c")},
			})
		}
	}
	agent.Start(t)
	provider := sdktrace.NewTracerProvider()
	s, err := trainer.Connect(t.Context(), trainer.Config{Socket: agent.Socket, RunID: "run-1"},
		trainer.Deps{Tracer: provider.Tracer("test"), Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	order := s.NonFinite(t.Context(), &commonv1.NonFinite{Step: 2})
	if _, err := s.Save(t.Context(), order, &commonv1.CheckpointMetadata{Step: 1}, func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	traceOf := func(traceparent string) string {
		if len(traceparent) != len(aTrace) {
			t.Fatalf("traceparent is %q", traceparent)
		}
		return traceparent[3:35]
	}
	want := traceOf(agent.Events()[0].GetTraceparent())
	directed := progress(agent, "c", commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED)
	if got := traceOf(directed.GetTraceparent()); got != want {
		t.Errorf("DIRECTED is of trace %s, want %s", got, want)
	}
	if got := traceOf(agent.Commits()[0].GetTraceparent()); got != want {
		t.Errorf("commit is of trace %s, want %s", got, want)
	}
}

func TestDirectivesAreDoneOnceAndInOrder(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := connect(t, agent, nil)
	agent.Direct(&commonv1.Directive{DirectiveId: "a", Traceparent: aTrace, Verb: &commonv1.Directive_Checkpoint{Checkpoint: &commonv1.CheckpointOrder{CheckpointId: "1"}}})
	agent.Direct(&commonv1.Directive{DirectiveId: "later version"})
	agent.Order("a", &commonv1.CheckpointOrder{CheckpointId: "1"})
	agent.Direct(&commonv1.Directive{DirectiveId: "late", Deadline: timestamppb.New(time.Unix(1, 0)), Verb: &commonv1.Directive_Checkpoint{Checkpoint: &commonv1.CheckpointOrder{CheckpointId: "2"}}})
	agent.Order("b", &commonv1.CheckpointOrder{CheckpointId: "3"})
	testkit.Eventually(t, "all directives", func() bool { return progress(agent, "3", commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED) != nil })

	first, second, third := s.PendingOrder(), s.PendingOrder(), s.PendingOrder()
	if first.CheckpointID != "1" || second.CheckpointID != "3" || third != nil {
		t.Errorf("orders are %+v, %+v, %+v", first, second, third)
	}
	if got := progress(agent, "1", commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED).GetTraceparent(); got != aTrace {
		t.Errorf("DIRECTED carries %q, want the directive's trace", got)
	}
	testkit.Eventually(t, "the word on the one past its deadline", func() bool {
		return strings.Contains(progress(agent, "2", commonv1.CheckpointState_CHECKPOINT_STATE_FAILED).GetCheckpoint().GetError(), "deadline")
	})
}

func TestTooManyOrdersAreRefusedAndThoseLeftAreAnsweredAtTheEnd(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := connect(t, agent, nil)
	ids := strings.Split("abcdefghi", "") // one more than there is room for
	for _, id := range ids {
		agent.Order(id, &commonv1.CheckpointOrder{CheckpointId: id})
	}
	testkit.Eventually(t, "the refusal", func() bool { return progress(agent, "i", commonv1.CheckpointState_CHECKPOINT_STATE_FAILED) != nil })
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if progress(agent, id, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED) == nil {
			t.Errorf("nobody says what became of checkpoint %s", id)
		}
	}
}

func TestSaveThenResume(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := connect(t, agent, nil)
	if ref, _, err := s.Resume(t.Context()); ref != nil || err != nil {
		t.Fatalf("Resume = %v, %v before anything was saved", ref, err)
	}
	order := trainer.Own(commonv1.CheckpointReason_CHECKPOINT_REASON_PERIODIC, commonv1.AfterCheckpoint_AFTER_CHECKPOINT_CONTINUE)
	id, err := s.Save(t.Context(), order, &commonv1.CheckpointMetadata{Step: 7, Format: "test/1"}, func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "state"), []byte("seven"), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	ref, _, err := s.Resume(t.Context())
	if err != nil || ref.GetCheckpointId() != id || ref.GetMetadata().GetStep() != 7 || ref.GetMetadata().GetRank() != 1 || ref.GetMetadata().GetWorldSize() != 4 {
		t.Fatalf("Resume = %v, %v", ref, err)
	}
	if data, err := os.ReadFile(filepath.Join(ref.GetDirectory(), "state")); string(data) != "seven" {
		t.Errorf("state is %q, %v", data, err)
	}
}

func TestSaveThatCannotWriteSaysSoAndLeavesNothing(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := connect(t, agent, nil)
	full := errors.New("no space left")
	for _, ordered := range []string{"c", ""} { // the agent makes room again for either
		id, err := s.Save(t.Context(), &trainer.Order{CheckpointID: ordered}, &commonv1.CheckpointMetadata{Step: 7}, func(string) error { return full })
		if !errors.Is(err, full) || id == "" {
			t.Errorf("Save = %q, %v", id, err)
		}
		testkit.Eventually(t, "FAILED", func() bool {
			return progress(agent, id, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED).GetCheckpoint().GetError() == "no space left"
		})
		if _, err := os.Stat(agent.Directory(id)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the directory is still there: %v", err)
		}
	}
	if len(agent.Commits()) != 0 {
		t.Error("it was committed all the same")
	}
}

func TestACommitWithoutAnAnswerIsNoFailure(t *testing.T) {
	for name, c := range map[string]struct {
		kept   bool
		answer fault.Kind
		failed bool
	}{
		"the answer was lost": {true, fault.Unavailable, false},
		"it came too late":    {true, fault.Deadline, false},
		"refused":             {false, fault.Precondition, true},
	} {
		t.Run(name, func(t *testing.T) {
			agent := trainertest.New(t)
			agent.OnCommit = func() (bool, error) { return c.kept, fault.New(c.answer, "no") }
			agent.Start(t)
			s := connect(t, agent, nil)
			id, err := s.Save(t.Context(), &trainer.Order{}, &commonv1.CheckpointMetadata{Step: 7}, func(string) error { return nil })
			if !fault.Is(err, c.answer) {
				t.Errorf("Save = %q, %v; want %v", id, err, c.answer)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if failed := progress(agent, id, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED); (failed != nil) != c.failed {
				t.Errorf("reported %v, want a failure: %v", failed, c.failed)
			}
		})
	}
}

// The second answer to a commit proves nothing when the first one was lost.
func TestARefusalAfterALostAnswerIsNoFailure(t *testing.T) {
	agent := trainertest.New(t)
	var asked atomic.Int32
	agent.OnCommit = func() (bool, error) {
		if asked.Add(1) == 3 { // of the second checkpoint
			return true, fault.New(fault.Unavailable, "gone")
		}
		return false, fault.New(fault.NotFound, "there is no such checkpoint")
	}
	agent.Start(t)
	s := connect(t, agent, func(c *trainer.Config) { c.Kind = trainerv1.SessionKind_SESSION_KIND_SUPERVISOR })
	save := func() string {
		id, err := s.Save(t.Context(), &trainer.Order{}, &commonv1.CheckpointMetadata{}, func(string) error { return nil })
		if !fault.Is(err, fault.NotFound) {
			t.Errorf("Save = %q, %v; want not found", id, err)
		}
		return id
	}
	refused, lost := save(), save()
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if progress(agent, refused, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED) == nil {
		t.Error("a checkpoint that was refused twice is not reported as failed")
	}
	if progress(agent, lost, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED) != nil {
		t.Error("a checkpoint that may have been taken is reported as failed")
	}
}

func TestAnImpatientSaveGivesUpOnAnAbsentAgent(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := connect(t, agent, nil)
	agent.Stop()
	_, err := s.Save(t.Context(), &trainer.Order{Patience: time.Millisecond}, &commonv1.CheckpointMetadata{}, nil)
	if !fault.Is(err, fault.Unavailable) || t.Context().Err() != nil {
		t.Errorf("Save = %v, want unavailable", err)
	}
}

func TestSaveOutlivesARestartOfTheAgent(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := connect(t, agent, nil)
	id, err := s.Save(t.Context(), &trainer.Order{}, &commonv1.CheckpointMetadata{Step: 7}, func(string) error {
		agent.Stop()
		agent.Start(t)
		return nil
	})
	if err != nil || len(agent.Commits()) != 1 || agent.Commits()[0].GetCheckpointId() != id {
		t.Errorf("Save = %q, %v with commits %v", id, err, agent.Commits())
	}
}

func TestRequestCheckpoint(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := connect(t, agent, nil)
	ask := func() (string, error) {
		return s.RequestCheckpoint(t.Context(), commonv1.CheckpointReason_CHECKPOINT_REASON_PREEMPTION,
			commonv1.AfterCheckpoint_AFTER_CHECKPOINT_STOP, time.Minute)
	}
	if _, err := ask(); !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "no trainer") {
		t.Errorf("RequestCheckpoint = %v, want not found in the agent's words", err)
	}
	agent.Stop()
	agent.OnRequest = func(r *trainerv1.RequestCheckpointRequest) (string, error) {
		return r.GetReason().String() + " " + r.GetTimeout().AsDuration().String(), nil
	}
	agent.Start(t)
	if id, err := ask(); err != nil || id != "CHECKPOINT_REASON_PREEMPTION 1m0s" {
		t.Errorf("RequestCheckpoint = %q, %v", id, err)
	}
}

// A supervisor has no watch that breaks off when the agent restarts.
func TestASupervisorsRequestOutlivesARestartOfTheAgent(t *testing.T) {
	agent := trainertest.New(t)
	agent.OnRequest = func(*trainerv1.RequestCheckpointRequest) (string, error) { return "c", nil }
	agent.Start(t)
	s := connect(t, agent, func(c *trainer.Config) { c.Kind = trainerv1.SessionKind_SESSION_KIND_SUPERVISOR })
	agent.Stop()
	agent.Start(t)
	id, err := s.RequestCheckpoint(t.Context(), commonv1.CheckpointReason_CHECKPOINT_REASON_PREEMPTION,
		commonv1.AfterCheckpoint_AFTER_CHECKPOINT_STOP, time.Minute)
	if err != nil || id != "c" {
		t.Errorf("RequestCheckpoint = %q, %v", id, err)
	}
}
