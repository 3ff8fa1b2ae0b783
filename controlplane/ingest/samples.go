package ingest

import (
	"context"
	"maps"
	"slices"
	"time"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"

	"github.com/vigil-ml/vigil/controlplane/metrics"
	"github.com/vigil-ml/vigil/internal/columns"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
)

// series is what a number stands for in one session.
type series struct {
	wire   *agentv1.SeriesDef
	def    metric.Def
	values []string // of def.Labels
	known  bool     // false when the dictionary has no such series
}

// define notes series. One that the dictionary does not have, as of an agent
// that is newer than this control plane, is noted too: its samples are refused.
func (x *session) define(defs *agentv1.SeriesDefs) error {
	for _, d := range defs.GetSeries() {
		if d.GetRef() == 0 {
			return fault.New(fault.Invalid, "series %q has number 0; numbers begin at 1", d.GetMetric())
		}
		if old := x.series[d.Ref]; old != nil {
			if old.wire.Metric != d.Metric || !maps.Equal(old.wire.Labels, d.Labels) {
				return fault.New(fault.Invalid, "series %d is %q and cannot become %q; give every series a number of its own", d.Ref, old.wire.Metric, d.Metric)
			}
			continue
		}
		if len(x.series) >= x.config.MaxSeries {
			return fault.WithHint(fault.New(fault.Exhausted, "node %s defines more than %d series", x.node, x.config.MaxSeries),
				"raise max_series of the control plane, or have the agent collect less")
		}
		s := &series{wire: d}
		s.def, s.known = metric.Lookup(d.Metric)
		for _, label := range s.def.Labels {
			s.values = append(s.values, d.Labels[label])
			_, has := d.Labels[label]
			s.known = s.known && has
		}
		s.known = s.known && len(d.Labels) == len(s.def.Labels)
		if !s.known {
			x.deps.Log.Warn("series is not in the dictionary: its samples are refused",
				"node", x.node, "metric", d.Metric, "labels", slices.Sorted(maps.Keys(d.Labels)))
		}
		x.series[d.Ref] = s
	}
	return nil
}

// storeSamples stores the samples of a frame. Only trouble with the TSDB is an
// error; samples that cannot be stored are counted.
func (x *session) storeSamples(ctx context.Context, frame *agentv1.Frame) (result string, err error) {
	points, err := x.readPoints(frame)
	if err != nil {
		x.deps.Log.Error("samples frame is malformed and is refused", "node", x.node, "position", at(frame), "error", err)
		x.count(metrics.Counts{Refused: max(len(points), len(frame.GetSamples().GetRefs()))})
		return resultRefused, nil
	}
	x.scratch = x.scratch[:0]
	refused := 0
	for _, p := range points {
		s := x.series[p.Ref]
		if s == nil {
			x.warnUndefined(frame, p.Ref)
		}
		if s == nil || !s.known {
			refused++
			continue
		}
		x.scratch = append(x.scratch, metric.Sample{
			Def: s.def, Labels: s.values, Value: p.Value, Time: time.UnixMilli(p.TimeMS),
		})
	}
	counts, err := x.deps.Samples.Append(ctx, x.node, x.scratch)
	if err != nil {
		return resultRefused, fault.Mark(fault.Unavailable, err)
	}
	counts.Refused += refused
	x.count(counts)
	switch {
	case counts.Stored > 0 || len(points) == 0:
		return resultStored, nil
	case counts.Repeated > 0:
		return resultRepeated, nil
	default:
		return resultRefused, nil
	}
}

// readPoints reads a frame's samples, in columns or as older agents send them.
// They are the session's, until the next call.
func (x *session) readPoints(frame *agentv1.Frame) ([]columns.Point, error) {
	x.points = x.points[:0]
	switch payload := frame.GetPayload().(type) {
	case *agentv1.Frame_Columns:
		var err error
		x.points, err = x.columns.Append(x.points, payload.Columns.GetBlock())
		return x.points, err
	case *agentv1.Frame_Samples:
		batch := payload.Samples
		n := len(batch.GetRefs())
		if n != len(batch.GetTimeDeltasMs()) || n != len(batch.GetValues()) {
			return nil, fault.New(fault.Corrupt, "it has %d series, %d times and %d values", n, len(batch.TimeDeltasMs), len(batch.Values))
		}
		timeMS := batch.BaseTimeMs
		for i, ref := range batch.Refs {
			timeMS += batch.TimeDeltasMs[i]
			x.points = append(x.points, columns.Point{Ref: ref, TimeMS: timeMS, Value: batch.Values[i]})
		}
		return x.points, nil
	default:
		return nil, fault.New(fault.Corrupt, "it has no samples")
	}
}

// warnUndefined tells once a session that the agent names a series that it did
// not define.
func (x *session) warnUndefined(frame *agentv1.Frame, ref uint32) {
	if x.warned {
		return
	}
	x.warned = true
	x.deps.Log.Error("samples are of a series that the agent did not define and are refused",
		"node", x.node, "position", at(frame), "series", ref)
}

func (x *session) count(counts metrics.Counts) {
	for result, n := range map[string]int{
		resultStored: counts.Stored, resultRepeated: counts.Repeated, resultRefused: counts.Refused,
	} {
		if n > 0 {
			x.sampleCount.WithLabelValues(result).Add(float64(n))
		}
	}
}
