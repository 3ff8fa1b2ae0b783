package export

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

// RetryAfter is an error of an exporter that was told when to come again.
type RetryAfter struct {
	Wait time.Duration
	Err  error
}

// Error is the text of what went wrong.
func (e RetryAfter) Error() string { return e.Err.Error() }

// Unwrap gives what went wrong.
func (e RetryAfter) Unwrap() error { return e.Err }

// deliver tries until every document is taken, refused, or too old. It fails
// only when ctx ends or the dead letters cannot be written.
func (r *Runner) deliver(ctx context.Context, source string, documents []Document) error {
	l := r.begin(source, documents)
	wait := retryFirst
	for tries := 1; len(documents) > 0; tries++ {
		verdicts, err := r.deps.Exporter.Export(ctx, documents)
		if err == nil && len(verdicts) != len(documents) {
			err = fault.New(fault.Internal, "exporter gave %d verdicts for %d documents", len(verdicts), len(documents))
		}
		if err != nil {
			for i := range documents {
				documents[i].Uncertain = true
			}
		} else {
			before := len(documents)
			if documents, err = r.sort(documents, verdicts); len(documents) < before {
				wait, tries = retryFirst, 1
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			break
		}
		if fault.Is(err, fault.Corrupt) { // of the dead letters' disk
			return err
		}
		r.failed(ctx, source, err)
		if tries > 1 {
			if documents, err = r.expire(documents, err); err != nil {
				return err
			}
		}
		if told, ok := errors.AsType[RetryAfter](err); ok {
			wait = max(wait, min(told.Wait, retryMost))
		}
		r.deps.Metrics.retries.WithLabelValues(r.deps.Name).Inc()
		if len(documents) > 0 && !life.Sleep(ctx, wait/2+rand.N(wait)) {
			return ctx.Err()
		}
		wait = min(2*wait, retryMost)
	}
	r.worked(ctx, source, l)
	return nil
}

// begin notes the batch under way. What the process before this one announced it
// may have sent.
func (r *Runner) begin(source string, documents []Document) *lane {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lanes[source]
	for i := range documents {
		documents[i].Uncertain = documents[i].Uncertain || l.at < l.doubt
		if at := documents[i].Received; l.oldest.IsZero() || at.Before(l.oldest) {
			l.oldest = at
		}
	}
	return l
}

// sort counts what is settled, keeps what was refused, and gives what is to be
// tried again, with the reason.
func (r *Runner) sort(documents []Document, verdicts []Verdict) ([]Document, error) {
	var again []Document
	var refused []deadLetter
	var reason string
	for i, d := range documents {
		switch v := verdicts[i]; v.Outcome {
		case Deferred:
			again, reason = append(again, d), v.Reason
		case Refused:
			refused = append(refused, letterOf(d, v.Reason, r.deps.Clock()))
			fallthrough
		default:
			r.deps.Metrics.documents.WithLabelValues(r.deps.Name, d.Stream, v.Outcome.String()).Inc()
		}
	}
	if err := r.bury(refused); err != nil {
		return again, err
	}
	if len(again) > 0 {
		return again, fault.New(fault.Unavailable, "%d of %d documents were put off: %s", len(again), len(documents), reason)
	}
	return nil, nil
}

// expire makes dead letters of what is too old; why says what kept it. The
// error is that of writing them.
func (r *Runner) expire(documents []Document, why error) ([]Document, error) {
	var young []Document
	var old []deadLetter
	now := r.deps.Clock()
	for _, d := range documents {
		if now.Sub(d.Received) <= r.limits.MaxAge {
			young = append(young, d)
			continue
		}
		old = append(old, letterOf(d, fmt.Sprintf("tried for %s: %v", r.limits.MaxAge, why), now))
		r.deps.Metrics.documents.WithLabelValues(r.deps.Name, d.Stream, "expired").Inc()
	}
	return young, r.bury(old)
}

// bury writes dead letters, durably.
func (r *Runner) bury(letters []deadLetter) error {
	if len(letters) == 0 {
		return nil
	}
	dropped, err := r.dead.add(letters)
	if err != nil {
		return fault.Mark(fault.Corrupt, fmt.Errorf("write dead letters of exporter %s: %w", r.deps.Name, err))
	}
	r.deps.Metrics.dropped.WithLabelValues(r.deps.Name).Add(float64(dropped))
	r.deps.Metrics.dead.WithLabelValues(r.deps.Name).Set(float64(r.dead.size()))
	r.deps.Log.Warn("documents are kept as dead letters", "exporter", r.deps.Name, "documents", len(letters), "reason", letters[0].Reason)
	return nil
}

// failed notes a failure: the first of a series is logged, and one that lasts
// is told to people.
func (r *Runner) failed(ctx context.Context, source string, err error) {
	r.mu.Lock()
	l := r.lanes[source]
	if l.failing == nil {
		l.since = r.deps.Clock()
		r.deps.Log.Error("export fails; trying again", "exporter", r.deps.Name, "source", source, "error", err)
	}
	l.failing = err
	tell := !l.told && r.deps.Clock().Sub(l.since) >= trouble
	l.told = l.told || tell
	since := l.since
	r.mu.Unlock()
	r.deps.Metrics.failing.WithLabelValues(r.deps.Name).Set(1)
	if !tell {
		return
	}
	if err := r.deps.Trouble.ExporterFailing(ctx, r.deps.Name, err.Error(), since); err != nil && ctx.Err() == nil {
		r.deps.Log.Error("nobody is told of the exporter that fails", "exporter", r.deps.Name, "error", err)
	}
}

// worked notes that a batch is settled.
func (r *Runner) worked(ctx context.Context, source string, l *lane) {
	r.mu.Lock()
	was, told := l.failing, l.told
	l.failing, l.told, l.oldest = nil, false, time.Time{}
	healthy := true
	for _, other := range r.lanes {
		healthy = healthy && other.failing == nil
	}
	r.mu.Unlock()
	if was != nil {
		r.deps.Log.Info("export goes on", "exporter", r.deps.Name, "source", source)
	}
	if healthy {
		r.deps.Metrics.failing.WithLabelValues(r.deps.Name).Set(0)
	}
	if told {
		if err := r.deps.Trouble.ExporterWell(ctx, r.deps.Name, r.deps.Clock()); err != nil && ctx.Err() == nil {
			r.deps.Log.Error("the end of an exporter's failure is not told", "exporter", r.deps.Name, "error", err)
		}
	}
}
