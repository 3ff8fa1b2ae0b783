package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vigil-ml/vigil/agent/spool"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func step(id string) *commonv1.Event {
	return &commonv1.Event{EventId: id, Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: 1}}}
}

// ids gives the ids of the events that are in a spool.
func ids(t *testing.T, b *bench, frameCount int) (ids []string) {
	t.Helper()
	for _, frame := range frames(t, b.events, frameCount) {
		for _, event := range frame.GetEvents().Events {
			ids = append(ids, frame.GetEvents().RunId+"/"+event.EventId)
		}
	}
	return ids
}

func TestEventsThatAreSentAgainAreLeftOut(t *testing.T) {
	b := start(t, t.TempDir(), noTrace())
	for _, call := range []struct {
		run string
		ids []string
	}{
		{"r", []string{"a", "b", "a"}}, {"r", []string{"b", "c"}}, {"r", []string{"a"}}, {"other", []string{"a"}},
	} {
		var events []*commonv1.Event
		for _, id := range call.ids {
			events = append(events, step(id))
		}
		if err := b.Events(t.Context(), call.run, events...); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(ids(t, b, 3)); got != "[r/a r/b r/c other/a]" {
		t.Errorf("the spool has %s", got)
	}
	if n := testutil.ToFloat64(b.doubled); n != 3 {
		t.Errorf("%v events were counted as repeated; want 3", n)
	}
}

// An agent that is killed before its answer is out finds the event again in
// its spool, whether the control plane has it by then or not.
func TestEventsOfAnEarlierAgentAreKnown(t *testing.T) {
	for _, acknowledged := range []bool{false, true} {
		t.Run(fmt.Sprint("acknowledged=", acknowledged), func(t *testing.T) {
			dir := t.TempDir()
			b := start(t, dir, noTrace())
			if err := b.Events(t.Context(), "r", step("a")); err != nil {
				t.Fatal(err)
			}
			if acknowledged {
				if err := b.events.Acknowledge(b.events.Last()); err != nil {
					t.Fatal(err)
				}
			}
			before := b.events.Stats().Frames
			b.stop()
			b = start(t, dir, noTrace())
			if err := b.Events(t.Context(), "r", step("a")); err != nil {
				t.Fatal(err)
			}
			if got := b.events.Stats().Frames; got != before {
				t.Errorf("%d frames wait; want %d", got, before)
			}
			if err := b.Events(t.Context(), "r", step("new")); err != nil || b.events.Stats().Frames != before+1 {
				t.Errorf("a new event: %v", err)
			}
		})
	}
}

// gate is an event spool whose appends a test holds back.
type gate struct {
	*spool.Spool
	entered chan struct{}
	result  chan error
}

func (g *gate) Append(payload []byte) (spool.Position, error) {
	g.entered <- struct{}{}
	if err := <-g.result; err != nil {
		return spool.Position{}, err
	}
	return g.Spool.Append(payload)
}

// Two calls bring one event: the second has its answer only when the event is
// on disk, and writes it when the first could not.
func TestRepeatWaitsForTheFirst(t *testing.T) {
	b := start(t, t.TempDir(), noTrace())
	g := &gate{Spool: b.events, entered: make(chan struct{}), result: make(chan error)}
	b.deps.Events = g
	var wg sync.WaitGroup
	answers := make(chan error, 2)
	for range 2 {
		wg.Go(func() { answers <- b.Events(t.Context(), "r", step("a")) })
	}
	<-g.entered
	if len(answers) > 0 {
		t.Error("a call was answered before the event was on disk")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Events(ended, "r", step("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was given up: %v", err)
	}
	full := errors.New("disk is full")
	g.result <- full
	<-g.entered // the other one's turn
	g.result <- nil
	wg.Wait()
	if first, second := <-answers, <-answers; !errors.Is(first, full) || second != nil {
		t.Errorf("answers %v and %v", first, second)
	}
	if got := fmt.Sprint(ids(t, b, 1)); got != "[r/a]" {
		t.Errorf("the spool has %s", got)
	}
}

func TestTakenForgetsTheOldest(t *testing.T) {
	k := newTaken(3)
	for i := range 10 {
		k.add([]*commonv1.Event{step(fmt.Sprint(i))})
	}
	for i, known := range map[int]bool{6: false, 7: true, 9: true} {
		if k.known[markOf(step(fmt.Sprint(i)))] != known {
			t.Errorf("event %d: known is %v", i, !known)
		}
	}
	if len(k.known) != 3 || len(k.ring) != 3 {
		t.Errorf("%d ids are remembered", len(k.known))
	}
}
