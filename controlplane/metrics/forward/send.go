package forward

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	promremote "github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/vigil-ml/vigil/internal/life"
)

// What becomes of samples.
const (
	resultTaken   = "taken"
	resultRefused = "refused"
)

// entry is one sample, histogram or exemplar.
type entry struct {
	ref       chunks.HeadSeriesRef
	labels    labels.Labels
	timeMS    int64
	value     float64
	histogram *histogram.Histogram
	floats    *histogram.FloatHistogram
	exemplar  *labels.Labels
}

// flush sends what is kept, and then notes the position behind it, now or soon. Series keep
// their order: all of one goes by one request after the other.
func (s *Sender) flush(ctx context.Context, at position) error {
	at.NewestMS = s.newest
	if err := s.send(ctx, s.pending); err != nil {
		return err
	}
	clear(s.pending)
	s.pending = s.pending[:0]
	s.at = &at
	if time.Since(s.savedAt) < saveEvery {
		return nil
	}
	return s.save()
}

// send sends entries in as many requests at once as they fill, and ends when each
// was taken or refused.
func (s *Sender) send(ctx context.Context, all []entry) error {
	if len(all) == 0 {
		return nil
	}
	shards := make([][]entry, min((len(all)+requestSamples-1)/requestSamples, s.settings.Shards))
	for _, e := range all {
		n := uint64(e.ref) % uint64(len(shards))
		shards[n] = append(shards[n], e)
	}
	group := life.NewGroup(ctx)
	for _, shard := range shards {
		group.Go("remote write to "+s.settings.Name, func(ctx context.Context) error {
			for len(shard) > 0 {
				n := min(len(shard), requestSamples)
				if err := s.request(ctx, shard[:n]); err != nil {
					return err
				}
				shard = shard[n:]
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// request sends one request until it is taken, or refused for good.
func (s *Sender) request(ctx context.Context, all []entry) error {
	body, err := s.encode(all)
	if err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	result := resultTaken
	wait := retryFirst
	for try := 0; ; try++ {
		_, err = s.deps.Client.Store(ctx, body, try)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, again := errors.AsType[promremote.RecoverableError](err); !again {
			s.deps.Log.Error("remote write is refused", "samples", len(all), "error", err)
			result = resultRefused
			break
		}
		if try == 0 {
			s.deps.Log.Warn("remote write fails; trying again", "error", err)
		}
		s.deps.Metrics.retries.WithLabelValues(s.settings.Name).Inc()
		s.behind()
		if !life.Sleep(ctx, wait/2+rand.N(wait)) {
			return ctx.Err()
		}
		wait = min(2*wait, retryMost)
	}
	s.deps.Metrics.samples.WithLabelValues(s.settings.Name, result).Add(float64(len(all)))
	return nil
}

func (s *Sender) encode(all []entry) (body []byte, err error) {
	if s.settings.Version == 2 {
		body, err = encodeV2(all)
	} else {
		body, err = encodeV1(all)
	}
	if err != nil {
		return nil, err
	}
	return snappy.Encode(nil, body), nil
}

func encodeV1(all []entry) ([]byte, error) {
	request := prompb.WriteRequest{Timeseries: make([]prompb.TimeSeries, len(all))}
	for i, e := range all {
		one := prompb.TimeSeries{Labels: prompb.FromLabels(e.labels, nil)}
		switch {
		case e.histogram != nil:
			one.Histograms = []prompb.Histogram{prompb.FromIntHistogram(e.timeMS, e.histogram)}
		case e.floats != nil:
			one.Histograms = []prompb.Histogram{prompb.FromFloatHistogram(e.timeMS, e.floats)}
		case e.exemplar != nil:
			one.Exemplars = []prompb.Exemplar{{Labels: prompb.FromLabels(*e.exemplar, nil), Value: e.value, Timestamp: e.timeMS}}
		default:
			one.Samples = []prompb.Sample{{Value: e.value, Timestamp: e.timeMS}}
		}
		request.Timeseries[i] = one
	}
	return request.Marshal()
}

// encodeV2 gives exemplars to their series' last sample: version 2 takes none
// alone. The log has both together.
func encodeV2(all []entry) ([]byte, error) {
	symbols := writev2.NewSymbolTable()
	var series []writev2.TimeSeries
	last := map[chunks.HeadSeriesRef]int{}
	for _, e := range all {
		if e.exemplar != nil {
			if n, there := last[e.ref]; there {
				series[n].Exemplars = append(series[n].Exemplars, writev2.Exemplar{
					LabelsRefs: symbols.SymbolizeLabels(*e.exemplar, nil), Value: e.value, Timestamp: e.timeMS,
				})
			}
			continue
		}
		one := writev2.TimeSeries{LabelsRefs: symbols.SymbolizeLabels(e.labels, nil)}
		switch {
		case e.histogram != nil:
			one.Histograms = []writev2.Histogram{writev2.FromIntHistogram(0, e.timeMS, e.histogram)}
		case e.floats != nil:
			one.Histograms = []writev2.Histogram{writev2.FromFloatHistogram(0, e.timeMS, e.floats)}
		default:
			one.Samples = []writev2.Sample{{Value: e.value, Timestamp: e.timeMS}}
		}
		last[e.ref] = len(series)
		series = append(series, one)
	}
	request := writev2.Request{Timeseries: series, Symbols: symbols.Symbols()}
	return request.Marshal()
}
