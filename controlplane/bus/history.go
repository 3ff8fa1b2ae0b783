package bus

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
)

// recheckInterval is how often History looks whether the frame that it waits
// for still exists.
const recheckInterval = time.Second

// History yields one run's frames in order, from the first that the stream
// still holds. Without follow it ends with the last one that was there when it
// was called; with follow it goes on with those that come until ctx ends, which
// gives no error. When yield fails, its error is returned.
func (b *Bus) History(ctx context.Context, runID string, follow bool, yield func(Delivery) error) error {
	return b.HistoryWithNodes(ctx, runID, nil, follow, yield)
}

// HistoryWithNodes is History with, between the run's frames, those of the nodes
// that have no run; none of these before the run's first and, without follow,
// after its last.
func (b *Bus) HistoryWithNodes(ctx context.Context, runID string, nodes []string, follow bool, yield func(Delivery) error) error {
	if runID == "" {
		return fault.New(fault.Invalid, "read history: no run is named")
	}
	var beside []string
	for _, node := range nodes {
		beside = append(beside, b.layout.ofNode(node)...)
	}
	return b.history(ctx, follow, yield, runID, []string{b.layout.ofRun(runID)}, beside)
}

// News yields the frames of a run that come after a sequence, until ctx ends,
// which is no error, or yield fails.
func (b *Bus) News(ctx context.Context, runID string, last uint64, yield func(Delivery) error) error {
	f, err := b.feed(ctx, last+1, b.layout.ofRun(runID))
	if err != nil {
		return err
	}
	defer f.stop()
	for {
		messages, err := f.batch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, m := range messages {
			if m.sequence <= last {
				continue
			}
			last = m.sequence
			if d, err := b.delivery(m); err != nil {
				b.countDamaged(m.sequence, err)
			} else if err := yield(d); err != nil {
				return err
			}
		}
	}
}

// NodeHistory yields the frames of a node's own events, those that belong to no
// run, as [Bus.History] does: what its agent says of it, and what the control
// plane does.
func (b *Bus) NodeHistory(ctx context.Context, node string, follow bool, yield func(Delivery) error) error {
	return b.history(ctx, follow, yield, "", b.layout.ofNode(node), nil)
}

// history yields the frames of some subjects, those of a run or without one, and
// those of others from the first of these on.
func (b *Bus) history(ctx context.Context, follow bool, yield func(Delivery) error, runID string, subjects, beside []string) error {
	err := b.readHistory(ctx, follow, yield, runID, subjects, beside)
	if ctx.Err() != nil && follow {
		return nil
	}
	return err
}

func (b *Bus) readHistory(ctx context.Context, follow bool, yield func(Delivery) error, runID string, subjects, beside []string) error {
	var last uint64
	if !follow {
		for _, subject := range subjects {
			of, err := b.lastOf(ctx, subject)
			if err != nil {
				return err
			}
			last = max(last, of)
		}
		if last == 0 {
			return nil
		}
	}
	f, err := b.feed(ctx, 1, slices.Concat(subjects, beside)...)
	if err != nil {
		return err
	}
	defer f.stop()
	next, begun := uint64(1), false
	for {
		messages, err := b.historyBatch(ctx, f, follow, last)
		if err != nil || messages == nil {
			return err
		}
		for _, m := range messages {
			if m.sequence < next {
				continue
			}
			if !follow && m.sequence > last {
				return nil
			}
			next = m.sequence + 1
			d, err := b.delivery(m)
			begun = begun || (err == nil && d.Batch.GetRunId() == runID)
			if err != nil {
				b.countDamaged(m.sequence, err)
			} else if !begun {
				continue // of a node, from before the run
			} else if err := yield(d); err != nil {
				return err
			}
			if m.sequence == last {
				return nil
			}
		}
	}
}

// historyBatch waits for messages. Without follow it gives none once the frame
// that the history ends with has been discarded, since nothing may come.
func (b *Bus) historyBatch(ctx context.Context, f *feed, follow bool, last uint64) ([]message, error) {
	if follow {
		return f.batch(ctx)
	}
	for {
		wait, cancel := context.WithTimeout(ctx, recheckInterval)
		messages, err := f.batch(wait)
		cancel()
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return messages, err
		}
		ask, cancel := context.WithTimeout(ctx, askTimeout)
		info, err := b.stream.Info(ask)
		cancel()
		if err != nil {
			return nil, fault.New(fault.Unavailable, "read state of the bus: %w", err)
		}
		if info.State.FirstSeq > last {
			return nil, nil
		}
	}
}
