package policy

import (
	"time"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// quick is for what a process can be restarted from at once.
func quick() Backoff { return Backoff{Base: 250 * time.Millisecond, Factor: 2, Cap: time.Minute} }

// patient is for what gets better with time, or not at all.
func patient(base, longest time.Duration) Backoff {
	return Backoff{Base: base, Factor: 2, Cap: longest}
}

// Defaults is what follows each kind when nobody says otherwise.
func Defaults() Config {
	plain := Policy{Retries: 10, Backoff: quick(), From: Latest, LearningRateScale: 1, Page: GiveUp}
	with := func(change func(*Policy)) Policy {
		p := plain
		change(&p)
		return p
	}
	kinds := map[commonv1.FailureKind]Policy{
		commonv1.FailureKind_FAILURE_KIND_UNSPECIFIED: plain,
		// Once is chance; twice at the same place is the data there.
		commonv1.FailureKind_FAILURE_KIND_NONFINITE: with(func(p *Policy) {
			p.Retries, p.ChangeAfter, p.SkipBatches = 5, 1, 1
		}),
		// The state before it is good, and what led to it must change.
		commonv1.FailureKind_FAILURE_KIND_DIVERGENCE: with(func(p *Policy) {
			p.Retries, p.From, p.LearningRateScale, p.Page = 3, Earlier, 0.5, Always
		}),
		commonv1.FailureKind_FAILURE_KIND_HANG: with(func(p *Policy) {
			p.Retries, p.Backoff = 5, patient(5*time.Second, 5*time.Minute)
		}),
		commonv1.FailureKind_FAILURE_KIND_HOST_OOM: with(func(p *Policy) {
			p.Retries, p.Backoff = 3, patient(10*time.Second, 10*time.Minute)
		}),
		commonv1.FailureKind_FAILURE_KIND_GPU_OOM: with(func(p *Policy) {
			p.Retries, p.Backoff = 2, patient(5*time.Second, time.Minute)
		}),
		commonv1.FailureKind_FAILURE_KIND_GPU_FAULT: with(func(p *Policy) {
			p.Retries, p.Backoff, p.ExcludeNode, p.Page = 2, patient(10*time.Second, 2*time.Minute), true, Always
		}),
		commonv1.FailureKind_FAILURE_KIND_NETWORK: with(func(p *Policy) {
			p.Backoff = patient(5*time.Second, 5*time.Minute)
		}),
		commonv1.FailureKind_FAILURE_KIND_PREEMPTED: with(func(p *Policy) { p.Page = Never }),
		commonv1.FailureKind_FAILURE_KIND_NODE_LOST: with(func(p *Policy) {
			p.Retries, p.Backoff, p.ExcludeNode = 5, patient(30*time.Second, 10*time.Minute), true
		}),
		commonv1.FailureKind_FAILURE_KIND_DISK_FULL: with(func(p *Policy) {
			p.Retries, p.Backoff, p.Page = 5, patient(30*time.Second, 10*time.Minute), Always
		}),
		commonv1.FailureKind_FAILURE_KIND_CHECKPOINT_CORRUPT: with(func(p *Policy) {
			p.Retries, p.From = 5, Earlier
		}),
		commonv1.FailureKind_FAILURE_KIND_DATA: with(func(p *Policy) {
			p.Retries, p.ChangeAfter, p.SkipBatches = 3, 1, 1
		}),
		commonv1.FailureKind_FAILURE_KIND_LIMIT:      with(func(p *Policy) { p.Retries = 0 }),
		commonv1.FailureKind_FAILURE_KIND_USER_ERROR: with(func(p *Policy) { p.Retries = 0 }),
		commonv1.FailureKind_FAILURE_KIND_KILLED:     plain,
		commonv1.FailureKind_FAILURE_KIND_CRASH:      plain,
	}
	c := Config{MaxRestarts: -1, SameFailures: 3, SameTracebacks: 2, Steady: time.Minute, Kinds: map[string]Policy{}}
	for kind, p := range kinds {
		c.Kinds[Name(kind)] = p
	}
	return c
}
