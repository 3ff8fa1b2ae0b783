// Package retain decides which checkpoints of a run are kept. It is a pure
// function: what is there, a policy, the time and the free space go in, and a
// decision with its reasons comes out for every checkpoint. Nothing is touched
// here, so that a user can ask what would be removed before anything is.
package retain

import (
	"slices"
	"time"
)

// Health is whether a checkpoint is fit to train on.
type Health uint8

const (
	// Unknown: nobody looked.
	Unknown Health = iota
	// Healthy: nothing speaks against it.
	Healthy
	// Suspect: saved after the onset of a failure, or led to one.
	Suspect
	// Poisoned: it holds values that are not finite.
	Poisoned
)

// Checkpoint is what is known of one checkpoint of a run, all ranks together.
type Checkpoint struct {
	ID        string
	Step      int64     // optimizer steps done
	Created   time.Time // when its last rank was committed
	SizeBytes int64     // of all ranks
	Verified  bool      // complete, read back, and all digests agreed
	Health    Health
	Pinned    bool // a person wants it kept
	InUse     bool // a trainer may be reading it, or an upload goes on
	// Metric is the value by which the best are kept; nil when not known.
	Metric *float64
}

// Policy says what is kept. A checkpoint that any rule keeps is kept. The zero
// policy keeps everything.
type Policy struct {
	// KeepLast is how many of the newest are kept; 0 keeps all, and then the
	// other rules of number have nothing to do.
	KeepLast int `yaml:"keep_last"`
	// KeepEverySteps keeps the first checkpoint of every so many steps for good;
	// 0: none.
	KeepEverySteps int64 `yaml:"keep_every_steps"`
	// KeepBest is how many of the best by Metric are kept.
	KeepBest int `yaml:"keep_best"`
	// Greater says that a greater metric is better; else a smaller one is.
	Greater bool `yaml:"greater_is_better"`
	// KeepHourly and KeepDaily are for how many of the last hours and days (in
	// UTC, those that have a checkpoint) the newest of each is kept.
	KeepHourly int `yaml:"keep_hourly"`
	KeepDaily  int `yaml:"keep_daily"`
	// MinAge is the age below which nothing is removed for its number, so that
	// one that other nodes are still writing is left alone.
	MinAge time.Duration `yaml:"min_age"`
	// MinFreeBytes is the space that must be free: below it, more is removed than
	// the rules ask for, the oldest first.
	MinFreeBytes int64 `yaml:"min_free_bytes"`
}

// Check reports settings that cannot be meant.
func (p Policy) Check(report func(key, format string, args ...any)) {
	for key, n := range map[string]int64{
		"keep_last": int64(p.KeepLast), "keep_every_steps": p.KeepEverySteps, "keep_best": int64(p.KeepBest),
		"keep_hourly": int64(p.KeepHourly), "keep_daily": int64(p.KeepDaily),
		"min_age": int64(p.MinAge), "min_free_bytes": p.MinFreeBytes,
	} {
		if n < 0 {
			report(key, "is %d; want 0 or more", n)
		}
	}
}

// Decision is what becomes of one checkpoint, and why.
type Decision struct {
	Checkpoint Checkpoint
	Keep       bool
	// Reasons is at least one: every rule that keeps it, or what removes it.
	Reasons []string
}

// Plan decides on every checkpoint of a run and gives the decisions newest
// first. The last verified healthy checkpoint is always kept, and so are those
// that are pinned or in use, whatever the policy and the free space say.
func Plan(list []Checkpoint, policy Policy, now time.Time, freeBytes int64) []Decision {
	newest := slices.Clone(list)
	slices.SortFunc(newest, newer)
	decisions := make([]Decision, len(newest))
	for i, c := range newest {
		decisions[i] = Decision{Checkpoint: c}
	}
	p := plan{policy: policy, now: now, decisions: decisions}
	p.always()
	p.number()
	p.period("hourly", policy.KeepHourly, "2006-01-02 15")
	p.period("daily", policy.KeepDaily, "2006-01-02")
	p.milestones()
	p.best()
	p.settle()
	p.makeRoom(freeBytes)
	return decisions
}

// newer orders by step, then time, then id, the newest first.
func newer(a, b Checkpoint) int {
	switch {
	case a.Step != b.Step:
		return order(b.Step > a.Step)
	case !a.Created.Equal(b.Created):
		return order(b.Created.After(a.Created))
	case a.ID != b.ID:
		return order(b.ID > a.ID)
	}
	return 0
}

func order(after bool) int {
	if after {
		return 1
	}
	return -1
}
