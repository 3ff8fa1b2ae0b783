package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/record"
	"github.com/prometheus/prometheus/tsdb/wlog"

	"github.com/vigil-ml/vigil/internal/fault"
)

// readCheckpoint learns the series that the log's checkpoint has, and gives the
// segment up to which it stands for the log; -1 when there is none.
func (s *Sender) readCheckpoint() (upTo int, err error) {
	dir, upTo, err := wlog.LastCheckpoint(s.wal)
	if errors.Is(err, record.ErrNotFound) {
		return -1, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find the checkpoint of the log of samples: %w", err)
	}
	all, err := wlog.NewSegmentsReader(dir)
	if err != nil {
		return 0, fmt.Errorf("read the checkpoint of the log of samples: %w", err)
	}
	defer func() { _ = all.Close() }()
	reader := wlog.NewReader(all)
	decoder := record.NewDecoder(labels.NewSymbolTable(), s.deps.Log)
	for reader.Next() {
		if err := s.learnFrom(&decoder, reader.Record(), upTo); err != nil {
			return 0, err
		}
	}
	if err := reader.Err(); err != nil {
		return 0, fmt.Errorf("read the checkpoint of the log of samples: %w", err)
	}
	return upTo, nil
}

// learn learns the series of a segment that was sent.
func (s *Sender) learn(n int) error {
	file, err := wlog.OpenReadSegment(wlog.SegmentName(s.wal, n))
	if err != nil {
		return fmt.Errorf("open the log of samples: %w", err)
	}
	defer func() { _ = file.Close() }()
	reader := wlog.NewLiveReader(s.deps.Log, s.deps.Metrics.reader, file)
	decoder := record.NewDecoder(labels.NewSymbolTable(), s.deps.Log)
	for reader.Next() { // to the end, or to where it is damaged: the TSDB repairs its log
		if err := s.learnFrom(&decoder, reader.Record(), n); err != nil {
			return err
		}
	}
	return nil
}

// learnFrom learns series, if a record is of series.
func (s *Sender) learnFrom(decoder *record.Decoder, rec []byte, segment int) error {
	if decoder.Type(rec) != record.Series {
		return nil
	}
	all, err := decoder.Series(rec, nil)
	if err != nil {
		return fault.New(fault.Corrupt, "read series in the log of samples: %w", err)
	}
	for _, of := range all {
		s.series[of.Ref] = series{s.complete(of.Labels), segment}
	}
	return nil
}

// complete adds the external labels that a series does not have.
func (s *Sender) complete(l labels.Labels) labels.Labels {
	b := labels.NewBuilder(l)
	s.settings.External.Range(func(external labels.Label) {
		if l.Get(external.Name) == "" {
			b.Set(external.Name, external.Value)
		}
	})
	return b.Labels()
}

// forget lets go of series that the log has no more, when there is a newer
// checkpoint than the one before.
func (s *Sender) forget(before int) (checkpoint int, err error) {
	_, checkpoint, err = wlog.LastCheckpoint(s.wal)
	if errors.Is(err, record.ErrNotFound) || err == nil && checkpoint == before {
		return before, nil
	}
	if err != nil {
		return before, fmt.Errorf("find the checkpoint of the log of samples: %w", err)
	}
	if checkpoint, err = s.readCheckpoint(); err != nil {
		return before, err
	}
	for ref, of := range s.series {
		if of.segment < checkpoint {
			delete(s.series, ref)
		}
	}
	return checkpoint, nil
}

// segment sends what a segment has behind an offset, until the log goes on in the
// next one.
func (s *Sender) segment(ctx context.Context, n int, from int64) error {
	file, err := wlog.OpenReadSegment(wlog.SegmentName(s.wal, n))
	if err != nil {
		return fmt.Errorf("open the log of samples: %w", err)
	}
	defer func() { _ = file.Close() }()
	reader := wlog.NewLiveReader(s.deps.Log, s.deps.Metrics.reader, file)
	decoder := record.NewDecoder(labels.NewSymbolTable(), s.deps.Log)
	for {
		began := time.Now()
		_, last, err := wlog.Segments(s.wal)
		if err != nil {
			return fmt.Errorf("find the log of samples: %w", err)
		}
		if err := s.rest(ctx, reader, &decoder, n, from); err != nil {
			return err
		}
		damaged := reader.Err() != nil && !errors.Is(reader.Err(), io.EOF)
		switch {
		case damaged && n == last: // it is being written to: the next look begins anew
			return fault.New(fault.Corrupt, "read the log of samples: %w", reader.Err())
		case damaged:
			s.deps.Log.Error("a part of the log of samples is damaged and is not sent", "segment", n, "error", reader.Err())
			return nil
		case n < last:
			return nil
		}
		s.caughtUp(began)
		if !s.wait(ctx, began) {
			return ctx.Err()
		}
	}
}

// rest sends what a reader of a segment has now.
func (s *Sender) rest(ctx context.Context, reader *wlog.LiveReader, decoder *record.Decoder, n int, from int64) error {
	at := position{Segment: n, Offset: max(from, reader.Offset())}
	for reader.Next() {
		if err := s.learnFrom(decoder, reader.Record(), n); err != nil {
			return err
		}
		if reader.Offset() <= from {
			continue
		}
		if err := s.take(decoder, reader.Record()); err != nil {
			return err
		}
		at.Offset = reader.Offset()
		if len(s.pending) >= requestSamples*s.settings.Shards {
			if err := s.flush(ctx, at); err != nil {
				return err
			}
		}
	}
	return s.flush(ctx, at)
}

// wait waits for news, or for the time to look unasked; false when ctx ended.
func (s *Sender) wait(ctx context.Context, began time.Time) bool {
	s.behind()
	poll := time.NewTimer(pollEvery)
	defer poll.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-s.news:
	case <-poll.C:
	}
	rest := time.NewTimer(pace - time.Since(began))
	defer rest.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-rest.C:
		return true
	}
}

// take keeps what a record has to be sent.
func (s *Sender) take(decoder *record.Decoder, rec []byte) error {
	var err error
	switch decoder.Type(rec) {
	case record.Samples, record.SamplesV2:
		var all []record.RefSample
		all, err = decoder.Samples(rec, nil)
		for _, one := range all {
			s.keep(entry{ref: one.Ref, timeMS: one.T, value: one.V})
		}
	case record.HistogramSamples, record.CustomBucketsHistogramSamples, record.HistogramSamplesV2:
		var all []record.RefHistogramSample
		all, err = decoder.HistogramSamples(rec, nil)
		for _, one := range all {
			s.keep(entry{ref: one.Ref, timeMS: one.T, histogram: one.H})
		}
	case record.FloatHistogramSamples, record.CustomBucketsFloatHistogramSamples, record.FloatHistogramSamplesV2:
		var all []record.RefFloatHistogramSample
		all, err = decoder.FloatHistogramSamples(rec, nil)
		for _, one := range all {
			s.keep(entry{ref: one.Ref, timeMS: one.T, floats: one.FH})
		}
	case record.Exemplars:
		var all []record.RefExemplar
		all, err = decoder.Exemplars(rec, nil)
		for _, one := range all {
			s.keep(entry{ref: one.Ref, timeMS: one.T, value: one.V, exemplar: &one.Labels})
		}
	}
	if err != nil {
		return fault.New(fault.Corrupt, "read samples in the log: %w", err)
	}
	return nil
}

// keep keeps one, with its series' labels; one of a series that the log does not
// tell of is of one that was let go of.
func (s *Sender) keep(e entry) {
	of, known := s.series[e.ref]
	if !known {
		return
	}
	e.labels = of.labels
	s.pending = append(s.pending, e)
	if e.exemplar == nil {
		s.newest = max(s.newest, e.timeMS)
	}
}
