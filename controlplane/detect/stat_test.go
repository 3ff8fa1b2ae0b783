package detect_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// TestWindowAgainstSorting compares the window with what sorting gives.
func TestWindowAgainstSorting(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{1, 2, 5, 32} {
		w := detect.NewWindow(size)
		var last []float64
		for range 300 {
			x := float64(random.IntN(6)) // ties matter
			w.Add(x)
			if last = append(last, x); len(last) > size {
				last = last[1:]
			}
			sorted := slices.Sorted(slices.Values(last))
			n := len(sorted)
			median, above := (sorted[(n-1)/2]+sorted[n/2])/2, 0
			for _, v := range last {
				if v > 3 {
					above++
				}
			}
			got := []float64{float64(w.Len()), w.Median(), w.Min(), w.Max(), w.Oldest(), float64(w.Above(3))}
			want := []float64{float64(n), median, sorted[0], sorted[n-1], last[0], float64(above)}
			if !slices.Equal(got, want) || w.Full() != (n == size) {
				t.Fatalf("size %d, %v: length, median, least, greatest, oldest, above = %v, want %v", size, last, got, want)
			}
		}
		w.Clear()
		if w.Add(7); w.Len() != 1 || w.Median() != 7 || w.Oldest() != 7 {
			t.Errorf("size %d: after Clear and 7: %d values, median %v, oldest %v", size, w.Len(), w.Median(), w.Oldest())
		}
	}
}

func TestLevelFindsMeanAndSigma(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	l := detect.Level{Rate: 1.0 / 512}
	for range 20000 {
		l.Add(5 + 2*random.NormFloat64())
	}
	if math.Abs(l.Mean()-5) > 0.4 || math.Abs(l.Sigma()-2) > 0.2 {
		t.Errorf("of N(5, 2) the level is %v and sigma %v", l.Mean(), l.Sigma())
	}
}

// TestLevelBelievesDownNotUp: one outlier above moves the level by what 3
// sigmas do; one below moves it by what it is.
func TestLevelBelievesDownNotUp(t *testing.T) {
	settled := func() detect.Level {
		l := detect.Level{Rate: 1.0 / 16}
		for i := range 200 {
			l.Add(float64(i % 2))
		}
		return l
	}
	before, up, down := settled(), settled(), settled()
	up.Add(1000)
	down.Add(-1000)
	if moved := up.Mean() - before.Mean(); moved > 3*before.Sigma()/16+1e-9 {
		t.Errorf("an outlier above moved the level by %v", moved)
	}
	if moved := before.Mean() - down.Mean(); moved < 60 {
		t.Errorf("a fall moved the level by %v only", moved)
	}
	if up.Clear(); up.N() != 0 || up.Rate != 1.0/16 {
		t.Errorf("after Clear: %+v", up)
	}
}

func TestTheFirstValuesCountAlike(t *testing.T) {
	l := detect.Level{Rate: 0.01}
	for _, x := range []float64{1, 2, 3, 4} {
		l.Add(x)
	}
	if l.Mean() != 2.5 {
		t.Errorf("mean of 1 to 4 = %v", l.Mean())
	}
}

func TestSeries(t *testing.T) {
	const skip, next, restart = detect.Skip, detect.Next, detect.Restart
	type report struct {
		attempt uint32
		step    int64
		want    detect.Change
	}
	for name, reports := range map[string][]report{
		"steps":            {{0, 1, restart}, {0, 2, next}, {0, 3, next}},
		"rollback":         {{0, 8, restart}, {0, 9, next}, {0, 4, restart}, {0, 5, next}},
		"twice":            {{0, 8, restart}, {0, 8, restart}},
		"new attempt":      {{0, 8, restart}, {1, 9, restart}, {0, 10, skip}, {1, 10, next}},
		"a lost report":    {{0, 1, restart}, {0, 2, next}, {0, 9, next}, {0, 10, next}, {0, 11, next}},
		"another distance": {{0, 1, restart}, {0, 2, next}, {0, 102, next}, {0, 202, restart}, {0, 302, next}},
		"somewhat uneven":  {{0, 10, restart}, {0, 20, next}, {0, 50, next}, {0, 53, next}, {0, 70, next}},
	} {
		var s detect.Series
		for i, r := range reports {
			if got := s.Take(r.attempt, r.step); got != r.want {
				t.Errorf("%s: report %d, %+v: %v", name, i, r, got)
			}
		}
	}
}

func TestOnset(t *testing.T) {
	for marks, want := range map[string]int64{
		"": -1, "....": -1, "..x": 2, "..xx..x": 2, "..x...": -1, "..x...x": 6, "x.x.x.x": 0, "x..": 0,
	} {
		var o detect.Onset
		for i, mark := range marks {
			o.Mark(int64(i), mark == 'x')
		}
		if got := o.Step(-1); got != want {
			t.Errorf("%s: onset %d, want %d", marks, got, want)
		}
	}
}

func TestTheLowestRankLeads(t *testing.T) {
	var l detect.Lead
	for i, r := range []struct {
		rank, attempt uint32
		step          int64
		want          detect.Change
	}{
		{3, 0, 1, detect.Restart}, {5, 0, 1, detect.Skip}, {3, 0, 2, detect.Next}, {1, 0, 2, detect.Restart},
		{3, 0, 3, detect.Skip}, {1, 0, 3, detect.Next}, {2, 1, 3, detect.Restart}, {1, 0, 4, detect.Skip},
	} {
		event := &commonv1.Event{Rank: r.rank, Attempt: r.attempt}
		if got := l.Take(event, r.step); got != r.want {
			t.Errorf("report %d, %+v: %v", i, r, got)
		}
	}
}
