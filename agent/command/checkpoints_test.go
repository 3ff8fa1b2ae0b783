package command_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

func TestOrderIsVerified(t *testing.T) {
	n := newNode(t, t.TempDir())
	defer n.stop()
	n.seal()
	a, b := n.train(1, 0, 0, 2), n.train(2, 0, 1, 2)
	defer a.die()
	defer b.die()
	done := n.order(order("ck"), time.Minute)
	for _, tr := range []*trainer{a, b} {
		d := <-tr.got
		if d.DirectiveId != "cmd-ck" || d.GetCheckpoint().After != commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART {
			t.Errorf("directive %v", d)
		}
		select {
		case err := <-done:
			t.Fatalf("the order ended before rank %d saved: %v", tr.rank, err)
		default:
		}
		tr.save(d)
	}
	if err := <-done; err != nil {
		t.Errorf("order: %v", err)
	}
	if told := n.told("ck"); strings.Count(told, "STAGED") != 2 || strings.Count(told, "VERIFIED") != 2 || strings.Contains(told, "REQUESTED") {
		t.Errorf("told %s", told)
	}
	for _, e := range n.events {
		if c := e.GetCheckpoint(); c != nil && (c.CommandId != "cmd-ck" || c.Failure != commonv1.FailureKind_FAILURE_KIND_NONFINITE ||
			c.Reason != commonv1.CheckpointReason_CHECKPOINT_REASON_EMERGENCY) {
			t.Errorf("the event does not carry its order: %v", c)
		}
	}
	// The same again, as after a restart of the agent: it is there.
	if err := <-n.order(order("ck"), time.Minute); err != nil {
		t.Errorf("order of what is saved: %v", err)
	}
	if len(a.got) > 0 {
		t.Error("a trainer was told to save what is saved")
	}
}

func TestOrderFails(t *testing.T) {
	const start = "run run did not reach a step boundary within 30s"
	for _, tc := range []struct {
		name string
		do   func(n *node, tr *trainer, d *commonv1.Directive)
		kind fault.Kind
		says string // of the error
		told string // of the events
	}{
		{"no step boundary", func(*node, *trainer, *commonv1.Directive) {}, fault.Deadline, start, "FAILED: " + start},
		{"went away", func(_ *node, tr *trainer, _ *commonv1.Directive) { tr.die() }, fault.Unavailable,
			"trainer of run run (pid 7) went away before it saved", "FAILED: trainer of run run (pid 7) went away before it saved"},
		{"replaced by another attempt", func(n *node, _ *trainer, _ *commonv1.Directive) { n.train(8, 1, 0, 1) }, fault.Unavailable,
			"(pid 7) went away", "FAILED: trainer of run run (pid 7) went away before it saved"},
		{"the trainer says so", func(_ *node, tr *trainer, _ *commonv1.Directive) {
			tr.report(&commonv1.Event{Body: &commonv1.Event_Checkpoint{Checkpoint: &commonv1.CheckpointProgress{
				CheckpointId: "ck", State: commonv1.CheckpointState_CHECKPOINT_STATE_FAILED, Error: "no space left"}}})
		}, fault.Precondition, "rank 0: no space left", "FAILED: no space left"},
		{"not sealed in time", func(_ *node, tr *trainer, d *commonv1.Directive) { tr.save(d) }, fault.Deadline,
			"checkpoint ck of run run is staged and was not verified within 30s", "STAGED"},
		{"another checkpoint fails", func(_ *node, tr *trainer, _ *commonv1.Directive) {
			tr.report(&commonv1.Event{Body: &commonv1.Event_Checkpoint{Checkpoint: &commonv1.CheckpointProgress{
				CheckpointId: "other", State: commonv1.CheckpointState_CHECKPOINT_STATE_FAILED}}})
		}, fault.Deadline, start, "FAILED: " + start},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, dir) // whose vault does not seal
				tr := n.train(7, 0, 0, 1)
				done := n.order(order("ck"), 30*time.Second)
				tc.do(n, tr, <-tr.got)
				err := <-done
				if fault.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("order: %v (%s); want %s (%s)", err, fault.KindOf(err), tc.says, tc.kind)
				}
				if got := n.told("ck"); got != tc.told {
					t.Errorf("told %s; want %s", got, tc.told)
				}
				if _, ok := n.checkpoints.Lookup("ck"); ok {
					t.Error("an order that ended is still known")
				}
				tr.die()
				end(n)
			})
		})
	}
}

func TestOrderSaysThatTheTrainerDoesNotWatch(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, dir)
		if _, err := n.api.Register(t.Context(), &trainerv1.RegisterRequest{RunId: "run",
			Trainer: &commonv1.TrainerRegistered{WorldSize: 1, Pid: 7}}); err != nil {
			t.Fatal(err)
		}
		err := <-n.order(order("ck"), 30*time.Second)
		const says = "trainer of run run (pid 7) does not watch for directives"
		if !fault.Is(err, fault.Deadline) || !strings.Contains(err.Error(), says) || !strings.Contains(n.told("ck"), says) {
			t.Errorf("order: %v; told %s", err, n.told("ck"))
		}
		n.stop()
	})
}

// end ends the watches that a test left, with their agent.
func end(n *node) {
	for _, s := range n.sessions.Trainers("run") {
		n.train(s.PID, s.Attempt, s.Rank, s.Rank+1).die()
	}
	n.stop()
}

func TestOrderFollowsAProcessThatLostItsConnection(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, dir)
		n.seal()
		tr := n.train(7, 0, 0, 1)
		done := n.order(order("ck"), time.Minute)
		d := <-tr.got
		tr.die()
		time.Sleep(100 * time.Millisecond)
		again := n.train(7, 0, 0, 1)
		time.Sleep(10 * time.Second)
		again.save(d)
		again.die() // it is committed: the process is not needed any more
		if err := <-done; err != nil {
			t.Errorf("order: %v", err)
		}
		n.stop()
	})
}

// Once it is committed the process is not needed, however long sealing takes.
func TestTrainerEndsBeforeItsCheckpointIsSealed(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, dir)
		tr := n.train(7, 0, 0, 1)
		done := n.order(order("ck"), time.Minute)
		tr.save(<-tr.got)
		tr.die()
		time.Sleep(10 * time.Second)
		n.seal()
		if err := <-done; err != nil {
			t.Errorf("order: %v", err)
		}
		n.stop()
	})
}

func TestOneRankGoesAway(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, dir)
		n.seal()
		a, b := n.train(1, 0, 0, 2), n.train(2, 0, 1, 2)
		done := n.order(order("ck"), time.Minute)
		a.save(<-a.got)
		<-b.got
		b.die()
		if err := <-done; !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "pid 2") {
			t.Errorf("order: %v", err)
		}
		a.die()
		n.stop()
	})
}

func TestOrderIsRefused(t *testing.T) {
	n := newNode(t, t.TempDir())
	defer n.stop()
	deadline := time.Now().Add(time.Minute)
	try := func(o *commonv1.CheckpointOrder, deadline time.Time) error {
		return n.checkpoints.Order(t.Context(), o, "", "", deadline)
	}
	if err := try(order("none"), deadline); !fault.Is(err, fault.NotFound) {
		t.Errorf("without a trainer: %v", err)
	}
	if got := n.told("none"); got != "REQUESTED, FAILED: no trainer of run run is registered on this node" {
		t.Errorf("told %s", got)
	}
	for _, o := range []*commonv1.CheckpointOrder{nil, {RunId: "run"}, {CheckpointId: "ck"}, {RunId: "../x", CheckpointId: "ck"}} {
		if err := try(o, deadline); !fault.Is(err, fault.Invalid) {
			t.Errorf("%v: %v", o, err)
		}
	}
	tr := n.train(1, 0, 0, 1)
	defer tr.die()
	if err := try(order("late"), time.Now().Add(-time.Second)); !fault.Is(err, fault.Deadline) {
		t.Errorf("past its deadline: %v", err)
	}
	if err := n.checkpoints.Start(t.Context(), order("twice"), "", deadline); err != nil {
		t.Fatal(err)
	}
	if err := try(order("twice"), deadline); !fault.Is(err, fault.Exists) {
		t.Errorf("twice: %v", err)
	}
}

// The failure of an attempt is answered once: a command that comes when the
// next attempt runs would restart it for nothing.
func TestFailureOfAnEarlierAttempt(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, dir)
		n.seal()
		first := n.train(1, 0, 0, 1)
		first.report(&commonv1.Event{Body: &commonv1.Event_NonFinite{NonFinite: &commonv1.NonFinite{Step: 3}}})
		if n.checkpoints.Answered("run", time.Now()) {
			t.Error("answered before any order")
		}
		since := time.Now()
		done := n.order(order("answer"), time.Minute)
		d := <-first.got
		if !n.checkpoints.Answered("run", since.Add(time.Hour)) {
			t.Error("an order that is being carried out is no answer")
		}
		first.save(d)
		first.die()
		if err := <-done; err != nil {
			t.Errorf("order: %v", err)
		}
		if !n.checkpoints.Answered("run", since) || n.checkpoints.Answered("run", time.Now().Add(time.Second)) {
			t.Error("an order answers what came before it, and nothing else")
		}
		second := n.train(2, 1, 0, 1)
		if err := <-n.order(order("late"), time.Minute); !fault.Is(err, fault.Precondition) {
			t.Errorf("late order: %v", err)
		}
		person := order("person")
		person.Failure, person.After = 0, commonv1.AfterCheckpoint_AFTER_CHECKPOINT_CONTINUE
		done = n.order(person, time.Minute)
		second.save(<-second.got)
		if err := <-done; err != nil {
			t.Errorf("a person's order: %v", err)
		}
		// A run that ends soon was answered all the same: the reflex asks only later.
		second.report(&commonv1.Event{Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{}}})
		if !n.checkpoints.Answered("run", since) || !n.checkpoints.Saved("run", since) {
			t.Error("with the run's end it is forgotten that it was answered")
		}
		second.die()
		n.stop()
	})
}

func TestStopIsNoFailure(t *testing.T) {
	n := newNode(t, t.TempDir())
	tr := n.train(1, 0, 0, 1)
	if err := n.checkpoints.Start(t.Context(), order("ck"), "", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	<-tr.got
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.checkpoints.Order(ctx, order("other"), "cmd", "", time.Now().Add(time.Hour)) }()
	<-tr.got
	cancel()
	if err := <-done; !fault.Is(err, fault.Canceled) {
		t.Errorf("order: %v", err)
	}
	n.stop()
	if told := n.told("ck") + n.told("other"); strings.Contains(told, "FAILED") {
		t.Errorf("told %s", told)
	}
	tr.die()
}

func TestOneTraceFromOrderToVerified(t *testing.T) {
	n := newNode(t, t.TempDir())
	defer n.stop()
	n.seal()
	tr := n.train(1, 0, 0, 1)
	defer tr.die()
	const asked = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	done := make(chan error, 1)
	go func() {
		done <- n.checkpoints.Order(t.Context(), order("ck"), "cmd", asked, time.Now().Add(time.Minute))
	}()
	d := <-tr.got
	d.Traceparent = "" // even a trainer that passes nothing on stays in the trace
	tr.save(d)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	parents := map[string]string{}
	ids := map[string]string{"b7ad6b7169203331": "asked"}
	for _, s := range n.spans.Ended() {
		ids[s.SpanContext().SpanID().String()] = s.Name()
		parents[s.Name()] = s.Parent().SpanID().String()
	}
	for span, want := range map[string]string{"vigil.command": "asked", "vigil.seal": "vigil.command", "vigil.verify": "vigil.command"} {
		if got := ids[parents[span]]; got != want {
			t.Errorf("the span above %s is %q; want %q", span, got, want)
		}
	}
}
