package supervise

import (
	"strings"
	"testing"
	"time"
)

func TestBackoffGrowsToItsCapAndJitters(t *testing.T) {
	b := Defaults().Backoff
	for n, want := range []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second} {
		if got := b.Wait(n, 0); got != want {
			t.Errorf("wait %d is %s, want %s", n, got, want)
		}
		if got := b.Wait(n, 1); got != want/2 {
			t.Errorf("wait %d with full jitter is %s, want %s", n, got, want/2)
		}
	}
	for _, n := range []int{8, 100, 1 << 20} {
		if got := b.Wait(n, 0); got != time.Minute {
			t.Errorf("wait %d is %s, want the cap", n, got)
		}
	}
}

// at is an ending at a known step, crashed one at an unknown step.
func at(step int64, why string) ending {
	return ending{code: 75, explanation: why, step: step, stepKnown: true}
}

func crashed(lasted time.Duration) ending {
	return ending{code: 1, explanation: "exit code 1", lasted: lasted}
}

// said is an ending that the process explained before its first step.
func said(why string, lasted time.Duration) ending {
	return ending{code: 75, explanation: why, said: true, lasted: lasted}
}

func TestWhatFollowsAnEnding(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		endings []ending
		waits   []time.Duration // of the restarts, without jitter
		why     string          // part of why there is no further one; empty: there is
	}{
		"the same failure at the same step": {
			[]ending{at(39, "NaN"), at(39, "NaN"), at(39, "NaN")}, []time.Duration{250 * ms, 500 * ms}, "same failure 3 times in a row: NaN"},
		"the same failure further on each time": {
			[]ending{at(10, "killed"), at(20, "killed"), at(30, "killed"), at(40, "killed")},
			[]time.Duration{250 * ms, 250 * ms, 250 * ms, 250 * ms}, ""},
		"different failures at the same step": {
			[]ending{at(5, "a"), at(5, "b"), at(5, "a"), at(5, "b")}, []time.Duration{250 * ms, 500 * ms, 1000 * ms, 2000 * ms}, ""},
		"no steps known": {
			[]ending{crashed(0), crashed(0), crashed(0), crashed(0), crashed(0)},
			[]time.Duration{250 * ms, 500 * ms, 1000 * ms, 2000 * ms}, "gave up after 4 restarts"},
		"no steps known, but it lasted": {
			[]ending{crashed(0), crashed(0), crashed(time.Hour)}, []time.Duration{250 * ms, 500 * ms, 250 * ms}, ""},
		"the same failure before any step": {
			[]ending{said("no agent", 0), said("no agent", 0), said("no agent", 0)}, []time.Duration{250 * ms, 500 * ms}, "same failure 3 times"},
		"the same failure before it resumed": {
			[]ending{crashed(0), at(39, "exit code 1"), crashed(time.Hour), crashed(time.Hour)},
			[]time.Duration{250 * ms, 250 * ms, 500 * ms}, "same failure 3 times"},
		"told to stop": {[]ending{{code: 75, stop: true, explanation: "enough"}}, nil, "enough"},
	} {
		t.Run(name, func(t *testing.T) {
			config := Defaults()
			config.MaxRestarts = 4
			h := history{config: config, random: func() float64 { return 0 }}
			var last verdict
			var waits []time.Duration
			for _, e := range c.endings {
				if last = h.next(&e); last.restart {
					waits = append(waits, last.wait)
				}
			}
			if len(waits) != len(c.waits) {
				t.Fatalf("waits are %v, want %v", waits, c.waits)
			}
			for i := range waits {
				if waits[i] != c.waits[i] {
					t.Errorf("waits are %v, want %v", waits, c.waits)
				}
			}
			if last.restart != (c.why == "") || !strings.Contains(last.why, c.why) {
				t.Errorf("verdict is %+v, want %q", last, c.why)
			}
		})
	}
}
