package bus

import (
	"context"

	"github.com/vigil-ml/vigil/internal/fault"
)

// MaxDeliveries is the most that one call of a [Bus.Consume] handler gets.
const MaxDeliveries = 256

// Partitions is into how many partitions the frames are divided.
func (b *Bus) Partitions() int { return b.layout.partitions }

// Reader reads one partition.
type Reader struct {
	bus       *Bus
	partition int
}

// Partition gives the reader of a partition, from 0 on: the frames of its runs,
// and those of all nodes.
func (b *Bus) Partition(partition int) *Reader { return &Reader{b, partition} }

// Owns tells whether a frame is this partition's: that of a run of it, or of a
// node that falls to it. Others are only looked at.
func (r *Reader) Owns(d Delivery) bool {
	return d.Batch.GetRunId() != "" || r.bus.layout.partitionOf(d.Node) == r.partition
}

// Consume is [Bus.Consume] of the partition.
func (r *Reader) Consume(ctx context.Context, from uint64, handle func(context.Context, []Delivery) error) error {
	err := r.bus.consume(ctx, max(from, 1), r.bus.layout.ofPartition(r.partition), handle)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Consume hands over all frames from a sequence on, in order, each once: those
// that are there, then those that come, until ctx ends, which gives no error,
// or handle fails, which gives its error. Handle gets what has come since its
// last return, at least one frame and at most [MaxDeliveries], and a single
// frame at once. It is not called concurrently, and the slice is its own only
// until it returns. From 0 and from 1 are the same.
//
// Frames that were discarded before they could be handed over are counted and
// logged. A from beyond the stream's end by more than one fails with
// [fault.Corrupt]: what was consumed is no longer there, and its sequences
// would be given to other frames.
func (b *Bus) Consume(ctx context.Context, from uint64, handle func(context.Context, []Delivery) error) error {
	err := b.consume(ctx, max(from, 1), []string{b.layout.all()}, handle)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (b *Bus) consume(ctx context.Context, next uint64, subjects []string, handle func(context.Context, []Delivery) error) error {
	first, err := b.checkStart(ctx, next)
	if err != nil {
		return err
	}
	whole := len(subjects) == 1 && subjects[0] == b.layout.all()
	if !whole && first > next {
		b.countDiscarded(next, first) // some of them may have been others'
	}
	f, err := b.feed(ctx, next, subjects...)
	if err != nil {
		return err
	}
	defer f.stop()
	deliveries := make([]Delivery, 0, MaxDeliveries)
	for {
		messages, err := f.batch(ctx)
		if err != nil {
			return err
		}
		deliveries = deliveries[:0]
		for _, m := range messages {
			if m.sequence < next {
				continue // handed over before the reader was made anew
			}
			if whole {
				b.countDiscarded(next, m.sequence)
			}
			next = m.sequence + 1
			d, err := b.delivery(m)
			if err != nil {
				b.countDamaged(m.sequence, err)
				continue
			}
			deliveries = append(deliveries, d)
		}
		if len(deliveries) == 0 {
			continue
		}
		// What is done about a frame must not outlast the frame.
		if err := b.Settle(ctx, next-1); err != nil {
			return err
		}
		if err := handle(ctx, deliveries); err != nil {
			return err
		}
	}
}

// checkStart refuses a start that the stream has never reached, and gives the
// first sequence that it still has.
func (b *Bus) checkStart(ctx context.Context, from uint64) (first uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	info, err := b.stream.Info(ctx)
	if err != nil {
		return 0, fault.New(fault.Unavailable, "read state of the bus: %w", err)
	}
	if last := info.State.LastSeq; from > last+1 {
		return 0, fault.WithHint(
			fault.New(fault.Corrupt, "consume from sequence %d: the bus ends at %d", from, last),
			"its directory was lost, replaced, or cut short by a crash of the machine under sync: interval; "+
				"restore it, or move the control plane's whole state directory away to begin anew")
	}
	return info.State.FirstSeq, nil
}

func (b *Bus) countDiscarded(want, got uint64) {
	if got == want {
		return
	}
	b.skipped.WithLabelValues("discarded").Add(float64(got - want))
	b.log.Warn("frames were discarded before they were consumed: the bus's max_age or max_bytes is too small",
		"frames", got-want, "from", want)
}

func (b *Bus) countDamaged(sequence uint64, err error) {
	b.skipped.WithLabelValues("damaged").Inc()
	b.log.Error("frame on the bus cannot be read and is skipped", "sequence", sequence, "error", err)
}
