package localapi_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// ticking runs body in a bubble with a node that looks for processes without
// steps.
func ticking(t *testing.T, body func(t *testing.T, n *node)) {
	synctest.Test(t, func(t *testing.T) {
		n := makeNode(t)
		n.stop()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		stopped := make(chan error, 1)
		go func() { stopped <- n.api.WatchSteps(ctx) }()
		body(t, n)
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// ticks gives when a run's ticks came, since a time, and their last steps.
func (n *node) ticks(run string, since time.Time) (at []time.Duration, last []int64) {
	for _, e := range n.list(run) {
		if tick := e.GetTick(); tick != nil {
			at, last = append(at, e.GetTime().AsTime().Sub(since)), append(last, tick.GetLastStep())
		}
	}
	return at, last
}

func (n *node) steps(session string, from, to int64, each time.Duration) {
	for step := from; step <= to; step++ {
		n.say(session, &commonv1.Event{Time: timestamppb.Now(), Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: step}}})
		time.Sleep(each)
	}
}

// TestTicksBackOff stops a process for an hour: it is told of after ten of its
// steps, ten seconds at least, and then ever more rarely.
func TestTicksBackOff(t *testing.T) {
	for name, tc := range map[string]struct{ step, first time.Duration }{
		"fast": {10 * time.Millisecond, 10 * time.Second},
		"slow": {5 * time.Second, 50 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			ticking(t, func(t *testing.T, n *node) {
				session, die := n.process(registration("r", 0))
				defer die()
				n.steps(session, 1, 100, tc.step)
				if at, _ := n.ticks("r", time.Now()); at != nil {
					t.Errorf("ticks at %v of a process that trains", at)
				}
				still := time.Now().Add(-tc.step)
				time.Sleep(time.Hour)
				at, last := n.ticks("r", still)
				if len(at) < 10 || len(at) > 80 {
					t.Fatalf("%d ticks in an hour, want 10 to 80", len(at))
				}
				if at[0] < tc.first || at[0] > tc.first+3*time.Second {
					t.Errorf("the first tick came after %v, want %v", at[0], tc.first)
				}
				for i := 2; i < len(at); i++ {
					if at[i]-at[i-1] < at[i-1]-at[i-2]-3*time.Second {
						t.Fatalf("tick %d came sooner after the last than that one: %v", i, at)
					}
				}
				if last[0] != 100 || last[len(last)-1] != 100 {
					t.Errorf("last steps %v, want 100", last)
				}
			})
		})
	}
}

// TestTicksEndWithTheTrouble has a process go on, end its run, and die.
func TestTicksEndWithTheTrouble(t *testing.T) {
	ticking(t, func(t *testing.T, n *node) {
		session, die := n.process(registration("r", 0))
		n.steps(session, 1, 20, 100*time.Millisecond)
		time.Sleep(30 * time.Second)
		before, _ := n.ticks("r", time.Now())
		n.steps(session, 21, 100, 100*time.Millisecond)
		after, _ := n.ticks("r", time.Now())
		if len(before) == 0 || len(after) != len(before) {
			t.Errorf("%d ticks in the pause and %d after it", len(before), len(after)-len(before))
		}
		time.Sleep(30 * time.Second) // what was learnt of the pause must not silence the next
		again, _ := n.ticks("r", time.Now())
		if len(again) == len(after) {
			t.Error("no tick in the second pause")
		}
		n.say(session, &commonv1.Event{Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{}}})
		time.Sleep(time.Hour)
		if ended, _ := n.ticks("r", time.Now()); len(ended) != len(again) {
			t.Errorf("%d ticks of a run that ended", len(ended)-len(again))
		}
		die()

		_, die = n.process(registration("gone", 0))
		die()
		_, die = n.process(registration("begins", 0))
		defer die()
		time.Sleep(time.Hour)
		if gone, _ := n.ticks("gone", time.Now()); gone != nil {
			t.Errorf("ticks at %v of a process that is away", gone)
		}
		if _, last := n.ticks("begins", time.Now()); len(last) == 0 || last[0] != 0 {
			t.Errorf("ticks with last steps %v of a process that never made one, want 0", last)
		}
		synctest.Wait()
	})
}

// TestASlowDiskIsNoHang: while a report waits to be written, its process has
// finished steps, and nothing else is said of it.
func TestASlowDiskIsNoHang(t *testing.T) {
	ticking(t, func(t *testing.T, n *node) {
		session, die := n.process(registration("r", 0))
		defer die()
		n.steps(session, 1, 20, 100*time.Millisecond)
		n.slow(time.Minute)
		n.steps(session, 21, 21, 0)
		n.slow(0)
		written := time.Now()
		time.Sleep(time.Minute) // what began meanwhile is written too
		if at, _ := n.ticks("r", written); len(at) == 0 || at[0] < 0 {
			t.Errorf("ticks at %v of the report's end, want none before it", at)
		}
	})
}
