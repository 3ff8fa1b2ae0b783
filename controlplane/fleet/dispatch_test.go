package fleet

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// commandState reads the state of a checkpoint's only command.
func commandState(t *testing.T, s *store.Store, checkpointID string) store.CommandState {
	t.Helper()
	return view(t, s, func(tx *store.Tx) ([]store.Command, error) { return tx.CommandsOf(checkpointID) })[0].State
}

func TestCommandsGoOutAsTheyAppear(t *testing.T) {
	s := openStore(t)
	f := newFleet(t, s)
	putRun(t, s, "r1", controlv1.RunState_RUN_STATE_RUNNING, "n1")
	run(t, f)
	a := connect(t, f, "n1")
	var ids []string
	for range 3 {
		checkpoint := mustSave(t, f, SaveRequest{RunID: "r1", RequireConnected: true})
		ids = append(ids, checkpoint.CheckpointId)
	}
	for _, id := range ids {
		if got := a.next(t).GetCheckpoint().GetCheckpointId(); got != id {
			t.Errorf("command for checkpoint %s, want %s: the oldest goes first", got, id)
		}
	}
	for _, id := range ids {
		testkit.Eventually(t, "the command to be marked sent", func() bool { return commandState(t, s, id) == store.CommandSent })
	}
	if got := testutil.ToFloat64(f.commands.WithLabelValues("sent")); got != 3 || len(a.commands) != 0 {
		t.Errorf("%v commands were sent and %d more wait, want 3 and 0", got, len(a.commands))
	}
}

func TestOpenCommandsGoOutAgainOnAReconnect(t *testing.T) {
	s := openStore(t)
	f := newFleet(t, s)
	putRun(t, s, "r1", controlv1.RunState_RUN_STATE_RUNNING, "n1")
	stop := run(t, f)
	open := mustSave(t, f, SaveRequest{RunID: "r1"})
	a := connect(t, f, "n1")
	first := a.next(t)
	a.release()
	a = connect(t, f, "n1")
	if again := a.next(t); again.CommandId != first.CommandId || again.IdempotencyKey != first.IdempotencyKey {
		t.Errorf("the reconnect brought %v, want %v again", again, first)
	}
	stop()

	// Also on a control plane that was started anew; not once it is done.
	f = newFleet(t, s)
	done := mustSave(t, f, SaveRequest{RunID: "r1"})
	command := view(t, s, func(tx *store.Tx) ([]store.Command, error) { return tx.CommandsOf(done.CheckpointId) })[0]
	update(t, s, func(tx *store.Tx) error { return tx.SetCommandState(command.ID, store.CommandDone, "") })
	last := mustSave(t, f, SaveRequest{RunID: "r1"})
	run(t, f)
	a = connect(t, f, "n1")
	for _, want := range []string{open.CheckpointId, last.CheckpointId} {
		if got := a.next(t).GetCheckpoint().GetCheckpointId(); got != want {
			t.Errorf("command for checkpoint %s, want %s", got, want)
		}
	}
}

func TestCommandsAreCountedByHowTheyEnd(t *testing.T) {
	s := openStore(t)
	f := newFleet(t, s)
	putRun(t, s, "r1", controlv1.RunState_RUN_STATE_RUNNING, "n1")
	run(t, f)
	a := connect(t, f, "n1")
	for result, end := range map[string]store.CommandState{"done": store.CommandDone, "failed": store.CommandFailed} {
		mustSave(t, f, SaveRequest{RunID: "r1"})
		id := a.next(t).CommandId
		update(t, s, func(tx *store.Tx) error { return tx.SetCommandState(id, end, "") })
		testkit.Eventually(t, "the command to be counted as "+result, func() bool {
			return testutil.ToFloat64(f.commands.WithLabelValues(result)) == 1
		})
	}
}

func TestAStuckAgentHoldsUpNobodyElse(t *testing.T) {
	s := openStore(t)
	f := newFleet(t, s)
	putRun(t, s, "r1", controlv1.RunState_RUN_STATE_RUNNING, "stuck", "n1")
	run(t, f)
	var live context.Context
	live, release := f.Connected(t.Context(), &agentv1.Hello{Node: "stuck"}, func(*agentv1.ConnectResponse) error {
		<-live.Done()
		return errors.New("stream is over")
	})
	a := connect(t, f, "n1")
	for range 3 {
		mustSave(t, f, SaveRequest{RunID: "r1"})
		a.next(t)
	}
	release()
	replacement := connect(t, f, "stuck")
	for range 3 {
		replacement.next(t)
	}
}

func TestLateCommandsAreGivenUp(t *testing.T) {
	const timeout = 30 * time.Millisecond
	for _, tc := range []struct {
		name    string
		connect bool
		reached commonv1.CheckpointState // what the trainers got to
		want    commonv1.CheckpointState
		says    string
	}{
		{"nobody is connected", false, 0, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED, "agent of node n1 was not connected for 30ms; is it running?"},
		{"the agent is silent", true, 0, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED, "agent of node n1 did not answer within 30ms; is it running?"},
		{"no trainer listens", true, commonv1.CheckpointState_CHECKPOINT_STATE_REQUESTED, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED, "is the trainer alive?"},
		{"the trainer is stuck", true, commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED, "does it still make steps?"},
		{"the vault is slow", true, commonv1.CheckpointState_CHECKPOINT_STATE_STAGED, commonv1.CheckpointState_CHECKPOINT_STATE_STAGED, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t)
			f := newFleet(t, s)
			putRun(t, s, "r1", controlv1.RunState_RUN_STATE_RUNNING, "n1")
			if tc.connect {
				connect(t, f, "n1")
			}
			checkpoint := mustSave(t, f, SaveRequest{RunID: "r1", Timeout: timeout})
			if tc.reached != 0 { // so the agent has taken the command
				update(t, s, func(tx *store.Tx) error {
					command, err := tx.CommandsOf(checkpoint.CheckpointId)
					if err != nil {
						return err
					}
					if err := tx.SetCommandState(command[0].ID, store.CommandAccepted, ""); err != nil {
						return err
					}
					_, err = tx.AdvanceCheckpoint(&commonv1.CheckpointProgress{CheckpointId: checkpoint.CheckpointId, State: tc.reached}, "r1", 0, 1, "n1", time.Now())
					return err
				})
			}
			run(t, f)
			testkit.Eventually(t, "the command to be given up", func() bool {
				return commandState(t, s, checkpoint.CheckpointId) == store.CommandExpired
			})
			testkit.Eventually(t, "the command to be counted as expired", func() bool {
				return testutil.ToFloat64(f.commands.WithLabelValues("expired")) == 1
			})
			got := view(t, s, func(tx *store.Tx) (*controlv1.Checkpoint, error) { return tx.Checkpoint(checkpoint.CheckpointId) })
			if got.State != tc.want || !strings.Contains(got.Error, tc.says) || (tc.says == "") != (got.Error == "") {
				t.Errorf("checkpoint is %v: %q, want %v: %q", got.State, got.Error, tc.want, tc.says)
			}
		})
	}
}

func TestSendingIsPartOfTheTrace(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	s := openStore(t)
	f := newFleet(t, s)
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	f.deps.Tracer = provider.Tracer("")
	putRun(t, s, "r1", controlv1.RunState_RUN_STATE_RUNNING, "n1")
	run(t, f)
	a := connect(t, f, "n1")
	mustSave(t, f, SaveRequest{RunID: "r1"})
	if got := a.next(t).Traceparent; got != "" {
		t.Errorf("a request without a trace was sent with %q", got)
	}
	mustSave(t, f, SaveRequest{RunID: "r1", Traceparent: parent})
	got := a.next(t).Traceparent
	testkit.Eventually(t, "the span to end", func() bool { return len(spans.Ended()) == 1 })
	span := spans.Ended()[0]
	if span.Name() != "vigil.command.send" || span.Parent().SpanID().String() != "b7ad6b7169203331" {
		t.Errorf("span %s below %v", span.Name(), span.Parent().SpanID())
	}
	if !strings.Contains(got, span.SpanContext().SpanID().String()) {
		t.Errorf("the agent got %q, want the span's own context", got)
	}
}
