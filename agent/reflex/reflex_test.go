package reflex_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/agent/reflex"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// post is a reflex whose orders a test sees.
type post struct {
	*reflex.Reflex
	connected atomic.Bool
	metrics   *prometheus.Registry
	takes     time.Duration // how long an order takes

	mu     sync.Mutex
	orders []*commonv1.CheckpointOrder
	traces []string
	runs   []string // that have a trainer here

	deadlines []time.Duration
	answers   map[string]time.Time
}

func (p *post) Order(ctx context.Context, o *commonv1.CheckpointOrder, commandID, traceparent string, deadline time.Time) error {
	p.mu.Lock()
	p.deadlines = append(p.deadlines, time.Until(deadline))
	p.orders = append(p.orders, o)
	p.traces = append(p.traces, commandID+traceparent)
	p.answers[o.RunId] = time.Now()
	p.mu.Unlock()
	select {
	case <-time.After(p.takes):
	case <-ctx.Done():
	}
	return ctx.Err()
}

func (p *post) Answered(run string, since time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.answers[run]
	return ok && !at.Before(since)
}

func (p *post) Saved(run string, since time.Time) bool { return p.Answered(run, since) }

func (p *post) answer(run string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers[run] = time.Now()
}

func (p *post) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.orders)
}

// within runs a test in a bubble with its own time.
func within(t *testing.T, connected bool, test func(t *testing.T, p *post)) {
	synctest.Test(t, func(t *testing.T) {
		p := &post{metrics: prometheus.NewRegistry(), takes: time.Second, answers: map[string]time.Time{}}
		p.connected.Store(connected)
		p.Reflex = reflex.New(reflex.Defaults(), reflex.Deps{
			Log: testkit.Logger(t), Metrics: p.metrics, Clock: time.Now, Orders: p, Connected: p.connected.Load,
			Runs: func() []string { return p.runs },
		})
		group := life.NewGroup(t.Context())
		group.Go("reflex", p.Run)
		test(t, p)
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func nonFinite(id, run string) *commonv1.Event {
	return &commonv1.Event{EventId: id, RunId: run, Time: timestamppb.Now(), Traceparent: "trace-" + id,
		Body: &commonv1.Event_NonFinite{NonFinite: &commonv1.NonFinite{Step: 5}}}
}

func TestAtOnceWithoutTheControlPlane(t *testing.T) {
	within(t, false, func(t *testing.T, p *post) {
		p.Observe(nonFinite("e", "run"))
		synctest.Wait()
		if p.count() != 1 {
			t.Fatalf("%d orders; want one at once", p.count())
		}
		o := p.orders[0]
		if o.RunId != "run" || len(o.CheckpointId) != 36 || o.Reason != commonv1.CheckpointReason_CHECKPOINT_REASON_REFLEX ||
			o.After != commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART || o.Failure != commonv1.FailureKind_FAILURE_KIND_NONFINITE {
			t.Errorf("order %v", o)
		}
		if p.traces[0] != "trace-e" {
			t.Errorf("command and trace %q", p.traces[0])
		}
		const want = `
# HELP vigil_agent_reflexes_total Checkpoints that the agent ordered by itself, by cause: non_finite, preemption, gpu_fault, memory.
# TYPE vigil_agent_reflexes_total counter
vigil_agent_reflexes_total{cause="non_finite"} 1
`
		if err := testutil.GatherAndCompare(p.metrics, strings.NewReader(want), "vigil_agent_reflexes_total"); err != nil {
			t.Error(err)
		}
	})
}

func TestWaitsForTheControlPlane(t *testing.T) {
	for name, tc := range map[string]struct {
		answer time.Duration // after the event; 0: never
		want   int
	}{
		"it answers":            {500 * time.Millisecond, 0},
		"it answers too late":   {2500 * time.Millisecond, 1},
		"it never answers":      {0, 1},
		"it answered before":    {-time.Second, 1},
		"it answers right then": {1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, true, func(t *testing.T, p *post) {
				if tc.answer < 0 {
					p.answer("run")
					time.Sleep(-tc.answer)
				}
				p.Observe(nonFinite("e", "run"))
				if tc.answer > 0 {
					time.Sleep(tc.answer)
					p.answer("run")
				}
				time.Sleep(2*time.Second - max(tc.answer, 0) - time.Millisecond)
				if tc.answer <= 2*time.Second && p.count() > 0 {
					t.Error("ordered before the control plane's time was over")
				}
				time.Sleep(time.Minute)
				if p.count() != tc.want {
					t.Errorf("%d orders; want %d", p.count(), tc.want)
				}
			})
		})
	}
}

func TestOneOrderForOneFailure(t *testing.T) {
	for _, connected := range []bool{false, true} {
		within(t, connected, func(t *testing.T, p *post) {
			p.Observe(nonFinite("same", "run"))
			time.Sleep(10 * time.Millisecond)
			for rank := range 8 { // the other ranks meet it a little later
				p.Observe(nonFinite(fmt.Sprint("rank-", rank), "run"))
			}
			p.Observe(nonFinite("elsewhere", "other"))
			time.Sleep(time.Minute)
			p.Observe(nonFinite("same", "run")) // reported again after a lost answer
			time.Sleep(time.Minute)
			if p.count() != 2 {
				t.Errorf("%d orders; want one for each run", p.count())
			}
			p.Observe(nonFinite("new", "run")) // the next attempt fails too
			time.Sleep(time.Minute)
			if p.count() != 3 {
				t.Errorf("%d orders; want one more for the new failure", p.count())
			}
		})
	}
}

func TestOtherEventsAreNoReason(t *testing.T) {
	within(t, false, func(t *testing.T, p *post) {
		p.Observe(&commonv1.Event{EventId: "a", RunId: "run", Body: &commonv1.Event_Step{Step: &commonv1.StepReport{}}})
		p.Observe(&commonv1.Event{EventId: "b", RunId: "run"})
		p.Observe(nil)
		time.Sleep(time.Minute)
		if p.count() != 0 {
			t.Errorf("orders %v", p.orders)
		}
	})
}

func TestBounded(t *testing.T) {
	within(t, true, func(t *testing.T, p *post) {
		for i := range 2000 {
			p.Observe(nonFinite(fmt.Sprint(i), fmt.Sprint("run-", i)))
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		time.Sleep(time.Minute)
		if got := p.count(); got != 256 {
			t.Errorf("%d orders; want as many as may wait", got)
		}
		dropped := fmt.Sprintf(`
# HELP vigil_agent_reflex_dropped_events_total Urgent events that the agent could not answer because too many waited.
# TYPE vigil_agent_reflex_dropped_events_total counter
vigil_agent_reflex_dropped_events_total %d
`, 2000-256)
		if err := testutil.GatherAndCompare(p.metrics, strings.NewReader(dropped), "vigil_agent_reflex_dropped_events_total"); err != nil {
			t.Error(err)
		}
	})
}

func TestConfigCheck(t *testing.T) {
	wrong := 0
	reflex.Config{}.Check(func(string, string, ...any) { wrong++ })
	if wrong != 4 {
		t.Errorf("%d mistakes; want 4", wrong)
	}
	reflex.Defaults().Check(func(key, format string, _ ...any) { t.Errorf("defaults: %s %s", key, format) })
}
