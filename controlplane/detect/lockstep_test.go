package detect_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/controlplane/detect"
)

// put is a report: rank r of step s, of attempt a where it is not 0.
type put struct {
	rank uint32
	step int64
	a    uint32
}

// handed gives what a lockstep hands over for these reports, as "step:ranks".
func handed(puts ...put) string {
	var said []string
	var l *detect.Lockstep[uint32]
	l = detect.NewLockstep(func(j *detect.Joint[uint32]) {
		text := fmt.Sprint(j.Step, ":")
		for place, has := range j.Has {
			if has {
				text += fmt.Sprint(j.Rows[place])
			}
			if has && j.Rows[place] != l.Rank(place) {
				text += "?"
			}
		}
		said = append(said, text)
	})
	for _, p := range puts {
		l.Put(p.a, p.rank, "n", p.step, p.rank)
	}
	return strings.Join(said, " ")
}

// steps has steps of ranks, one after the other.
func steps(from, to int64, ranks ...uint32) (puts []put) {
	for s := from; s <= to; s++ {
		for _, r := range ranks {
			puts = append(puts, put{r, s, 0})
		}
	}
	return puts
}

func TestLockstepHandsOverEachStepOnce(t *testing.T) {
	three := steps(1, 2, 0, 1, 2) // the first step of all: each rank seems alone until the next is seen
	tests := map[string]struct {
		more []put
		want string
	}{
		"in order":                    {steps(3, 4, 0, 1, 2), "3:012 4:012"},
		"in any order":                {[]put{{2, 3, 0}, {0, 3, 0}, {0, 4, 0}, {1, 3, 0}, {1, 4, 0}, {2, 4, 0}}, "3:012 4:012"},
		"a row is lost":               {[]put{{0, 3, 0}, {1, 3, 0}, {0, 4, 0}, {1, 4, 0}, {2, 4, 0}}, "3:01 4:012"},
		"a row comes too late":        {[]put{{0, 3, 0}, {1, 3, 0}, {0, 4, 0}, {1, 4, 0}, {2, 4, 0}, {2, 3, 0}, {0, 5, 0}}, "3:01 4:012"},
		"a row comes twice":           {[]put{{0, 3, 0}, {0, 3, 0}, {1, 3, 0}, {2, 3, 0}}, "3:012"},
		"one rank is far ahead":       {steps(3, 8, 0), "3:0 4:0"},
		"a rank falls silent":         {steps(3, 9, 0, 1), "3:01 4:01 5:01"},
		"a rank more":                 {[]put{{3, 3, 0}, {0, 3, 0}, {1, 3, 0}, {2, 3, 0}, {3, 4, 0}, {0, 4, 0}, {1, 4, 0}, {2, 4, 0}}, "3:0123 4:0123"},
		"a new attempt forgets ranks": {[]put{{0, 3, 0}, {5, 1, 1}, {1, 3, 0}, {2, 3, 0}, {5, 2, 1}}, "1:5 2:5"},
		"a rollback":                  {append(steps(3, 20, 0, 1, 2), put{1, 5, 0}, put{0, 5, 0}, put{2, 5, 0}), strings.TrimPrefix(handed(steps(1, 20, 0, 1, 2)...), handed(steps(1, 2, 0, 1, 2)...)+" ") + " 5:012"},
	}
	before := handed(three...)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := strings.TrimPrefix(handed(append(three[:len(three):len(three)], test.more...)...), before+" ")
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestNobodyWaitsForARankThatIsGone(t *testing.T) {
	got := handed(steps(1, 2, 0, 1, 2)...)
	got = strings.TrimPrefix(handed(append(steps(1, 2, 0, 1, 2), steps(3, 60, 0, 1)...)...), got+" ")
	if !strings.HasSuffix(got, "59:01 60:01") {
		t.Errorf("of 60 steps without rank 2, the last that was handed over is %s", got[max(0, len(got)-20):])
	}
}

func TestSettleHandsOverWhatThereIs(t *testing.T) {
	var got []int64
	l := detect.NewLockstep(func(j *detect.Joint[int]) { got = append(got, j.Step) })
	for _, p := range append(steps(1, 1, 0, 1), put{0, 2, 0}, put{0, 3, 0}) {
		l.Put(0, p.rank, "", p.step, 0)
	}
	if l.Settle(2); !cmp.Equal(got, []int64{1, 2}) {
		t.Errorf("handed over %v, want 1 and 2", got)
	}
	if change := l.Put(0, 1, "", 2, 0); change != detect.Skip {
		t.Errorf("a row of a step that was settled: %v, want Skip", change)
	}
}

// TestLockstepAtRandom holds for any order: no step twice, none out of order
// within an attempt that goes forward, and no more steps kept than few.
func TestLockstepAtRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	last, count := int64(-1), 0
	l := detect.NewLockstep(func(j *detect.Joint[int64]) {
		if j.Step <= last {
			t.Fatalf("step %d after %d", j.Step, last)
		}
		for place, has := range j.Has {
			if has && j.Rows[place] != j.Step {
				t.Fatalf("step %d has a row of step %d", j.Step, j.Rows[place])
			}
		}
		last = j.Step
		count++
	})
	at := make([]int64, 16)
	for range 20000 {
		rank := random.IntN(len(at))
		if at[rank] > last+3 {
			continue // ranks wait for each other
		}
		at[rank]++
		if random.IntN(50) > 0 {
			l.Put(0, uint32(rank), "", at[rank], at[rank])
		}
	}
	if count < 100 {
		t.Errorf("handed over %d steps", count)
	}
}
