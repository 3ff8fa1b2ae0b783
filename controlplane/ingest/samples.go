package ingest

import (
	"context"
	"hash/maphash"
	"maps"
	"slices"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"

	"github.com/vigil-ml/vigil/controlplane/metrics"
	"github.com/vigil-ml/vigil/internal/columns"
	"github.com/vigil-ml/vigil/internal/fault"
)

// series is what a number stands for in one session.
type series struct {
	defined uint64          // of its definition, to tell another one
	stored  *metrics.Series // nil when the dictionary has no such series
}

func (s series) name() string {
	if s.stored == nil {
		return "one that is not in the dictionary"
	}
	return s.stored.Name()
}

// define notes series. One that the dictionary does not have, as of an agent
// that is newer than this control plane, is noted too: its samples are refused.
func (x *session) define(defs *agentv1.SeriesDefs) error {
	for _, d := range defs.GetSeries() {
		if d.GetRef() == 0 {
			return fault.New(fault.Invalid, "series %q has number 0; numbers begin at 1", d.GetMetric())
		}
		defined := x.definition(d)
		if old, ok := x.series[d.Ref]; ok {
			if old.defined != defined {
				return fault.New(fault.Invalid, "series %d is %q and cannot become %q; give every series a number of its own", d.Ref, old.name(), d.Metric)
			}
			continue
		}
		if len(x.series) >= x.config.MaxSeries {
			return fault.WithHint(fault.New(fault.Exhausted, "node %s defines more than %d series", x.node, x.config.MaxSeries),
				"raise max_series of the control plane, or have the agent collect less")
		}
		stored := x.deps.Samples.Series(x.node, d.GetMetric(), d.GetLabels())
		if stored == nil {
			x.deps.Log.Warn("series is not in the dictionary: its samples are refused",
				"node", x.node, "metric", d.Metric, "labels", slices.Sorted(maps.Keys(d.Labels)))
		}
		x.series[d.Ref] = series{defined, stored}
	}
	return nil
}

// definition is a hash of what a number stands for.
func (x *session) definition(d *agentv1.SeriesDef) uint64 {
	var h maphash.Hash
	h.SetSeed(x.seed)
	h.WriteString(d.GetMetric())
	for _, name := range slices.Sorted(maps.Keys(d.GetLabels())) {
		for _, text := range []string{name, d.Labels[name]} {
			h.WriteByte(0xff) // is in no UTF-8 text
			h.WriteString(text)
		}
	}
	return h.Sum64()
}

// storeSamples stores the samples of a frame. Only trouble with the TSDB is an
// error; samples that cannot be stored are counted.
func (x *session) storeSamples(ctx context.Context, frame *agentv1.Frame) (result string, err error) {
	scratch := x.scratch
	defer x.free()
	points, err := scratch.read(frame)
	if err != nil {
		x.deps.Log.Error("samples frame is malformed and is refused", "node", x.node, "position", at(frame), "error", err)
		x.count(metrics.Counts{Refused: max(len(points), len(frame.GetSamples().GetRefs()))})
		return resultRefused, nil
	}
	scratch.stored = scratch.stored[:0]
	refused := 0
	var last uint32
	var of series
	for _, p := range points {
		if p.Ref != last { // the points of one series stand together
			var ok bool
			if of, ok = x.series[p.Ref]; !ok {
				x.warnUndefined(frame, p.Ref)
			}
			last = p.Ref
		}
		if of.stored == nil {
			refused++
			continue
		}
		scratch.stored = append(scratch.stored, metrics.Point{Series: of.stored, TimeMS: p.TimeMS, Value: p.Value})
	}
	counts, err := x.deps.Samples.AppendPoints(ctx, x.node, scratch.stored)
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

// buffers are what storing a frame of samples needs. There are a few for all
// sessions: more frames at once than there are processors would take memory, in
// the TSDB too, and be no faster.
type buffers struct {
	columns columns.Decoder
	points  []columns.Point
	stored  []metrics.Point
}

func newBuffers(n int) chan *buffers {
	all := make(chan *buffers, n)
	for range n {
		all <- &buffers{}
	}
	return all
}

// reserve waits for buffers where a message needs them. The session's own
// goroutine does that: a worker that waited would be one more with a deep stack
// for each agent that does.
func (x *session) reserve(ctx context.Context, request *agentv1.ConnectRequest) error {
	if request.GetFrame().GetClass() != agentv1.FrameClass_FRAME_CLASS_SAMPLES {
		return nil
	}
	select {
	case x.scratch = <-x.buffers:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// free gives the buffers to whoever waits for some: at once when the samples are
// stored, since what follows may wait for the agent.
func (x *session) free() {
	if x.scratch != nil {
		x.buffers <- x.scratch
		x.scratch = nil
	}
}

// read reads a frame's samples, in columns or as older agents send them. They are
// valid until the next call.
func (x *buffers) read(frame *agentv1.Frame) ([]columns.Point, error) {
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
	x.sampleCount.WithLabelValues(resultStored).Add(float64(counts.Stored))
	x.sampleCount.WithLabelValues(resultRepeated).Add(float64(counts.Repeated))
	x.sampleCount.WithLabelValues(resultRefused).Add(float64(counts.Refused))
}
