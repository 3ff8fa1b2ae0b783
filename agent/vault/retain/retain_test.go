package retain

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// saved is a healthy verified checkpoint of a step, one minute a step before noon
// at step 100.
func saved(step int64, change ...func(*Checkpoint)) Checkpoint {
	c := Checkpoint{
		ID: fmt.Sprintf("c%d", step), Step: step, SizeBytes: 10, Verified: true, Health: Healthy,
		Created: noon.Add(time.Duration(step-100) * time.Minute),
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

func health(h Health) func(*Checkpoint) { return func(c *Checkpoint) { c.Health = h } }
func pinned(c *Checkpoint)              { c.Pinned = true }
func inUse(c *Checkpoint)               { c.InUse = true }
func unverified(c *Checkpoint)          { c.Verified = false }
func metric(x float64) func(*Checkpoint) {
	return func(c *Checkpoint) { c.Metric = &x }
}

// kept gives the ids that are kept, newest first.
func kept(decisions []Decision) string {
	var ids []string
	for _, d := range decisions {
		if d.Keep {
			ids = append(ids, d.Checkpoint.ID)
		}
	}
	return strings.Join(ids, " ")
}

func TestPlan(t *testing.T) {
	five := []Checkpoint{saved(10), saved(20), saved(30), saved(40), saved(50)}
	tests := map[string]struct {
		list   []Checkpoint
		policy Policy
		free   int64
		want   string
	}{
		"nothing":                     {nil, Policy{KeepLast: 1}, 0, ""},
		"the zero policy keeps all":   {five, Policy{}, 0, "c50 c40 c30 c20 c10"},
		"the last two":                {five, Policy{KeepLast: 2}, 0, "c50 c40"},
		"in any order":                {[]Checkpoint{five[3], five[0], five[4]}, Policy{KeepLast: 1}, 0, "c50"},
		"pinned and in use":           {[]Checkpoint{saved(10, pinned), saved(20, inUse), saved(30), saved(40)}, Policy{KeepLast: 1}, 0, "c40 c20 c10"},
		"the last healthy one":        {[]Checkpoint{saved(10), saved(20), saved(30, health(Suspect)), saved(40, health(Suspect))}, Policy{KeepLast: 1}, 0, "c40 c20"},
		"healthy but never read back": {[]Checkpoint{saved(10), saved(20, unverified), saved(30, unverified)}, Policy{KeepLast: 1}, 0, "c30 c10"},
		"poisoned ones do not count":  {[]Checkpoint{saved(10), saved(20), saved(30, health(Poisoned)), saved(40, health(Poisoned))}, Policy{KeepLast: 2}, 0, "c20 c10"},
		"only poisoned ones":          {[]Checkpoint{saved(10, health(Poisoned)), saved(20, health(Poisoned))}, Policy{KeepLast: 2}, 0, ""},
		"only unknown ones":           {[]Checkpoint{saved(10, health(Unknown)), saved(20, health(Unknown))}, Policy{KeepLast: 1}, 0, "c20"},
		"milestones":                  {five, Policy{KeepLast: 1, KeepEverySteps: 25}, 0, "c50 c30 c10"},
		"best, smaller is better":     {[]Checkpoint{saved(10, metric(0.3)), saved(20, metric(0.1)), saved(30, metric(0.2)), saved(40)}, Policy{KeepLast: 1, KeepBest: 2}, 0, "c40 c30 c20"},
		"best, greater is better":     {[]Checkpoint{saved(10, metric(0.3)), saved(20, metric(0.1)), saved(30, metric(0.2)), saved(40)}, Policy{KeepLast: 1, KeepBest: 1, Greater: true}, 0, "c40 c10"},
		"of equal ones the newer":     {[]Checkpoint{saved(10, metric(1)), saved(20, metric(1)), saved(30)}, Policy{KeepLast: 1, KeepBest: 1}, 0, "c30 c20"},
		"hourly":                      {[]Checkpoint{saved(-80), saved(-30), saved(-20), saved(90), saved(100)}, Policy{KeepLast: 1, KeepHourly: 3}, 0, "c100 c90 c-20"},
		"daily":                       {[]Checkpoint{saved(-3000), saved(-2000), saved(-1990), saved(0), saved(100)}, Policy{KeepLast: 1, KeepDaily: 2}, 0, "c100 c-1990"},
		"young ones":                  {[]Checkpoint{saved(80), saved(95), saved(100)}, Policy{KeepLast: 1, MinAge: 10 * time.Minute}, 0, "c100 c95"},
		"space, the oldest first":     {five, Policy{MinFreeBytes: 25}, 0, "c50 c40"},
		"space that is there":         {five, Policy{MinFreeBytes: 25}, 25, "c50 c40 c30 c20 c10"},
		"space after the rules":       {five, Policy{KeepLast: 3, MinFreeBytes: 25}, 0, "c50 c40"},
		"space never takes the last":  {five, Policy{MinFreeBytes: 1000}, 0, "c50"},
		"space takes suspects first":  {[]Checkpoint{saved(10), saved(20, health(Suspect)), saved(30)}, Policy{MinFreeBytes: 10}, 0, "c30 c10"},
		"space spares what is pinned": {[]Checkpoint{saved(10, pinned), saved(20), saved(30)}, Policy{MinFreeBytes: 1000}, 0, "c30 c10"},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			decisions := Plan(c.list, c.policy, noon, c.free)
			if got := kept(decisions); got != c.want {
				t.Errorf("kept %q, want %q: %+v", got, c.want, decisions)
			}
			if len(decisions) != len(c.list) {
				t.Errorf("%d decisions on %d checkpoints", len(decisions), len(c.list))
			}
			for _, d := range decisions {
				if len(d.Reasons) == 0 {
					t.Errorf("%s: no reason", d.Checkpoint.ID)
				}
			}
		})
	}
}

func TestReasons(t *testing.T) {
	list := []Checkpoint{saved(10), saved(20, pinned), saved(30, health(Poisoned)), saved(40)}
	got := map[string][]string{}
	for _, d := range Plan(list, Policy{KeepLast: 1, KeepDaily: 1}, noon, 0) {
		got[d.Checkpoint.ID] = d.Reasons
	}
	want := map[string][]string{
		"c40": {"the last verified healthy one", "one of the last 1", "daily, of 2026-03-04"},
		"c30": {"poisoned: nobody will resume from it"},
		"c20": {"pinned"},
		"c10": {"no rule keeps it"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestNothingGoodIsLost tries random runs and policies: whatever they are, the
// last verified healthy checkpoint and everything that is pinned or in use stays,
// and a plan that is carried out leads to the same plan again.
func TestNothingGoodIsLost(t *testing.T) {
	source := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		var list []Checkpoint
		for i := range source.IntN(12) {
			list = append(list, saved(int64(i*7), func(c *Checkpoint) {
				c.Health, c.Verified = Health(source.IntN(4)), source.IntN(2) == 0
				c.Pinned, c.InUse = source.IntN(8) == 0, source.IntN(8) == 0
				c.SizeBytes = source.Int64N(100)
			}))
		}
		policy := Policy{
			KeepLast: source.IntN(4), KeepEverySteps: source.Int64N(30), KeepHourly: source.IntN(3),
			KeepDaily: source.IntN(3), MinAge: time.Duration(source.IntN(90)) * time.Minute, MinFreeBytes: source.Int64N(300),
		}
		free := source.Int64N(200)
		decisions := Plan(list, policy, noon, free)
		var left []Checkpoint
		lastGood := ""
		for _, d := range decisions {
			c := d.Checkpoint
			if lastGood == "" && c.Verified && c.Health == Healthy {
				lastGood = c.ID
				if !d.Keep {
					t.Fatalf("the last verified healthy one goes: %+v of %+v", d, list)
				}
			}
			if (c.Pinned || c.InUse) && !d.Keep {
				t.Fatalf("pinned or in use, and goes: %+v", d)
			}
			if d.Keep {
				left = append(left, c)
			} else {
				free += c.SizeBytes
			}
		}
		for _, d := range Plan(left, policy, noon, free) {
			if !d.Keep {
				t.Fatalf("a second run removes %+v", d)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	var keys []string
	Policy{KeepLast: -1, MinFreeBytes: -5}.Check(func(key, _ string, _ ...any) { keys = append(keys, key) })
	slices.Sort(keys)
	if diff := cmp.Diff([]string{"keep_last", "min_free_bytes"}, keys); diff != "" {
		t.Error(diff)
	}
	Policy{KeepLast: 3}.Check(func(key, _ string, _ ...any) { t.Errorf("%s is reported", key) })
}
