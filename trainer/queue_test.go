package trainer

import (
	"context"
	"testing"
	"time"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func TestFullQueueOfEventsDropsTheOldest(t *testing.T) {
	q := newQueue(2)
	for n := range int64(maxQueuedEvents + 3) {
		q.putEvent(&commonv1.Event{Body: &commonv1.Event_Resumed{Resumed: &commonv1.Resumed{Step: n}}})
	}
	var slots [1]item
	if q.take(slots[:]) != 1 || slots[0].event.GetResumed().GetStep() != 3 || q.drops() != 3 {
		t.Errorf("first is %v after %d drops, want 3 and 3", slots[0].event, q.drops())
	}
}

// TestTelemetryPushesOutNoOtherEvent, and leaves in its order.
func TestTelemetryPushesOutNoOtherEvent(t *testing.T) {
	q := newQueue(2)
	q.putEvent(&commonv1.Event{Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{}}})
	for n := range maxQueuedEvents + 1 {
		q.putEvent(&commonv1.Event{Body: &commonv1.Event_Telemetry{Telemetry: &commonv1.Telemetry{Otlp: []byte{byte(n)}}}})
	}
	slots := make([]item, maxQueuedEvents)
	n := q.take(slots)
	if n != 1+maxQueuedTelemetry || slots[0].event.GetRunEnded() == nil || q.drops() != maxQueuedEvents+1-maxQueuedTelemetry || !q.empty() {
		t.Errorf("%d items, the first %v, %d dropped", n, slots[0].event, q.drops())
	}
	if got := slots[n-1].event.GetTelemetry().GetOtlp(); len(got) != 1 || got[0] != maxQueuedEvents&0xff {
		t.Errorf("the last is %v, want what was said last", got)
	}
}

func TestQueueKeepsStepsAndEventsInOneOrder(t *testing.T) {
	q := newQueue(8)
	for n := range int64(4) {
		q.putStep(time.Time{}, &StepReport{Step: n})
		q.putEvent(&commonv1.Event{Body: &commonv1.Event_Resumed{Resumed: &commonv1.Resumed{Step: n}}})
	}
	var slots [3]item
	var got []int64
	for n := q.take(slots[:]); n > 0; n = q.take(slots[:]) {
		for i := range n {
			if slots[i].event != nil {
				got = append(got, 100+slots[i].event.GetResumed().GetStep())
			} else {
				got = append(got, slots[i].step.Step)
			}
		}
	}
	want := []int64{0, 100, 1, 101, 2, 102, 3, 103}
	for i := range want {
		if len(got) != len(want) || got[i] != want[i] {
			t.Fatalf("order is %v, want %v", got, want)
		}
	}
	if !q.empty() {
		t.Error("the queue is not empty after all was taken")
	}
}

// full gives a session whose queue is full and whose agent never answers.
func full(tb testing.TB) (*Session, StepReport) {
	tb.Helper()
	s, err := Connect(tb.Context(), Config{Socket: tb.TempDir() + "/none.sock", RunID: "r", QueueSteps: 64}, Deps{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Close(ctx)
	})
	report := StepReport{
		Step: 1, Loss: Known(1.0), GradientNorm: Known(1.0), LearningRate: Known(0.1), StepTime: Known(time.Second),
		Tasks: []Task{{Name: "left", Loss: Known(1.0)}, {Name: "right", Loss: Known(1.0)}, {Name: "ink", Loss: Known(1.0)}},
	}
	for range 200 {
		s.Step(report)
	}
	return s, report
}

func TestStepAllocatesNothing(t *testing.T) {
	s, report := full(t)
	if n := testing.AllocsPerRun(1000, func() { s.Step(report) }); n > 0 {
		t.Errorf("Step allocates %v times", n)
	}
}

func BenchmarkStep(b *testing.B) {
	s, report := full(b)
	b.ReportAllocs()
	for b.Loop() {
		s.Step(report)
	}
}
