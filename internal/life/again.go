package life

import (
	"context"
	"time"
)

// Retry says how a loop is begun again.
type Retry struct {
	// First is the wait after the first failure; it doubles up to Most. > 0.
	First, Most time.Duration
	// Failed is told of each failure.
	Failed func(error)
	// Worked tells, after a failure, whether the loop had got on since the one
	// before: the waits then begin anew. Nil: when it ran for longer than Most.
	Worked func() bool
}

// Again runs a loop, and again each time that it fails, until ctx ends. It
// always gives nil: what the loop works on waits where it is.
func Again(ctx context.Context, r Retry, loop func(context.Context) error) error {
	wait := r.First
	for {
		began := time.Now()
		err := loop(ctx)
		if ctx.Err() != nil {
			return nil
		}
		worked := time.Since(began) > r.Most
		if r.Worked != nil {
			worked = r.Worked()
		}
		if worked {
			wait = r.First
		}
		r.Failed(err)
		if !Sleep(ctx, wait) {
			return nil
		}
		wait = min(2*wait, r.Most)
	}
}
