package forward

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// fromBlocks sends what the TSDB has from some time before the newest sample that
// was taken: the log begins later than where the sender was.
func (s *Sender) fromBlocks(ctx context.Context, newestMS int64) error {
	from := max(newestMS-s.settings.Late.Milliseconds(), 0)
	s.deps.Log.Warn("remote write was away for longer than the log reaches back; the rest is read from the blocks", "from", time.UnixMilli(from))
	querier, err := s.deps.Samples.Querier(from, time.Now().Add(time.Hour).UnixMilli())
	if err != nil {
		return fmt.Errorf("read samples that left the log: %w", err)
	}
	defer func() { _ = querier.Close() }()
	set := querier.Select(ctx, false, nil, labels.MustNewMatcher(labels.MatchNotEqual, model.MetricNameLabel, ""))
	for ref := chunks.HeadSeriesRef(0); set.Next(); ref++ {
		if err := s.fromSeries(ctx, ref, set.At()); err != nil {
			return err
		}
	}
	if err := set.Err(); err != nil {
		return fmt.Errorf("read samples that left the log: %w", err)
	}
	err = s.send(ctx, s.pending)
	s.pending = s.pending[:0]
	return err
}

// fromSeries sends the samples of one series of the TSDB; ref only says which
// belong together.
func (s *Sender) fromSeries(ctx context.Context, ref chunks.HeadSeriesRef, of storage.Series) error {
	l := s.complete(of.Labels())
	it := of.Iterator(nil)
	for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
		e := entry{ref: ref, labels: l}
		switch kind {
		case chunkenc.ValFloat:
			e.timeMS, e.value = it.At()
		case chunkenc.ValHistogram:
			e.timeMS, e.histogram = it.AtHistogram(nil)
		case chunkenc.ValFloatHistogram:
			e.timeMS, e.floats = it.AtFloatHistogram(nil)
		}
		s.newest = max(s.newest, e.timeMS)
		if s.pending = append(s.pending, e); len(s.pending) >= requestSamples*s.settings.Shards {
			if err := s.send(ctx, s.pending); err != nil {
				return err
			}
			s.pending = s.pending[:0]
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read samples that left the log: %w", err)
	}
	return nil
}
