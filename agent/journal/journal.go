// Package journal turns events and samples into frames and puts them into the
// agent's spools. It is the one way in which telemetry enters the agent.
//
// A frame in a spool is an agentv1.Frame without its position, which whoever
// reads it takes from the spool. Series numbers are kept on disk and are never
// given twice (see [Open]).
package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/agent/spool"
	"github.com/vigil-ml/vigil/internal/columns"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/internal/telemetry"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	// maxFrameBytes keeps a frame well below the 4 MiB that a gRPC server takes
	// by default.
	maxFrameBytes = 2 << 20
	// maxFrameSamples bounds the samples of one frame to about 64 KiB at worst.
	maxFrameSamples = 4096
)

// Config is what users say about the journal.
type Config struct {
	// Dir is where the series dictionary lies; it is made where there is none.
	Dir string `yaml:"dir"`
	// MaxSeries bounds the dictionary; samples of further series are refused
	// and counted.
	MaxSeries int `yaml:"max_series"`
}

// Defaults allows 100,000 series.
func Defaults(dir string) Config { return Config{Dir: dir, MaxSeries: 100_000} }

// Check reports a missing directory or a bound that lets nothing in.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Dir == "" {
		report("dir", "is empty; want a directory")
	}
	if c.MaxSeries < 1 {
		report("max_series", "is %d; want at least 1", c.MaxSeries)
	}
}

// Appender is a spool that takes frames.
type Appender interface {
	// Append adds one frame; see [spool.Spool.Append].
	Append(payload []byte) (spool.Position, error)
}

// EventSpool is a spool whose records can be read again at the start.
type EventSpool interface {
	Appender
	// Each gives every record that is there; see [spool.Spool.Each].
	Each(yield func(spool.Record) error) error
}

// Deps is what a journal works with.
type Deps struct {
	Node    string // this node's name
	Events  EventSpool
	Samples Appender
	FS      durable.FS
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Tracer  trace.Tracer
	Clock   func() time.Time // the time of events that have none
}

// Journal takes events and samples. All methods are safe for concurrent use.
type Journal struct {
	deps    Deps
	series  *dictionary
	taken   *taken
	sampled prometheus.Counter
	refused *prometheus.CounterVec
	doubled prometheus.Counter

	writing sync.Mutex // of samples; guards what is below
	columns columns.Encoder
	points  []columns.Point
	block   []byte
}

// Open opens the series dictionary in the journal's directory and reads which
// events the event spool holds. Entries that
// are damaged are lost with the names of their series, and logged; their
// numbers are not given again. The caller closes the journal.
func Open(config Config, deps Deps) (*Journal, error) {
	if err := deps.FS.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make journal directory: %w", err)
	}
	series, err := openDictionary(deps.FS, filepath.Join(config.Dir, "series"), config.MaxSeries, deps.Log)
	if err != nil {
		return nil, fmt.Errorf("open series dictionary: %w", err)
	}
	j := &Journal{
		deps: deps, series: series, taken: newTaken(maxTaken),
		sampled: metric.NewCounter(deps.Metrics, metric.AgentSamples).WithLabelValues(),
		refused: metric.NewCounter(deps.Metrics, metric.AgentSamplesRefused),
		doubled: metric.NewCounter(deps.Metrics, metric.AgentEventsRepeated).WithLabelValues(),
	}
	if err := j.taken.seed(deps.Events); err != nil {
		_ = series.close()
		return nil, err
	}
	return j, nil
}

// Close closes the dictionary; the spools stay open.
func (j *Journal) Close() error { return j.series.close() }

// Events puts events of one run, or with an empty runID of the node, into the
// event spool, in order and as one frame unless they are very many. An event
// whose id was taken before, in this life of the agent or an earlier one, is
// counted and left out. It fills in event_id, time, node and run_id where they
// are empty; the events are the journal's from then on. When it returns nil they
// are as durable as the spool makes them. After an error of kind
// [fault.Invalid] none of them is in the spool; after another the last may be.
func (j *Journal) Events(ctx context.Context, runID string, events ...*commonv1.Event) error {
	if len(events) == 0 {
		return nil
	}
	for i, event := range events {
		if runID == "" && !protocol.OfNode(event) && !protocol.OfEither(event) {
			return fault.New(fault.Invalid, "record events: run_id of event %d is empty", i)
		}
		if event == nil || (event.RunId != "" && event.RunId != runID) {
			return fault.New(fault.Invalid, "record events: event %d is of run %q, not %q", i, event.GetRunId(), runID)
		}
		if size := proto.Size(event); size > maxFrameBytes {
			return fault.New(fault.Invalid, "record events: event %d has %d bytes; the most is %d", i, size, maxFrameBytes)
		}
	}
	for _, event := range events {
		if err := j.fill(runID, event); err != nil {
			return fmt.Errorf("record events: %w", err)
		}
	}
	fresh, release, err := j.taken.claim(ctx, events)
	if err != nil {
		return fmt.Errorf("record events of run %s: %w", runID, err)
	}
	defer release()
	j.doubled.Add(float64(len(events) - len(fresh)))
	if len(fresh) == 0 {
		return nil
	}
	end := j.trace(ctx, fresh)
	err = j.appendEvents(runID, fresh)
	end(err)
	if err != nil {
		return fmt.Errorf("record events of run %s: %w", runID, err)
	}
	return nil
}

// fill stamps an event.
func (j *Journal) fill(runID string, event *commonv1.Event) error {
	event.RunId = runID
	if event.Node == "" {
		event.Node = j.deps.Node
	}
	if event.Time == nil {
		event.Time = timestamppb.New(j.deps.Clock())
	}
	if event.EventId == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("make event id: %w", err)
		}
		event.EventId = id.String()
	}
	return nil
}

// trace starts a span for each event that belongs to a trace; what the event
// causes later hangs below it.
func (j *Journal) trace(ctx context.Context, events []*commonv1.Event) (end func(error)) {
	var spans []trace.Span
	for _, event := range events {
		if event.Traceparent == "" {
			continue
		}
		ctx, span := j.deps.Tracer.Start(telemetry.WithTraceparent(ctx, event.Traceparent), "vigil.journal")
		event.Traceparent = telemetry.Traceparent(ctx)
		spans = append(spans, span)
	}
	return func(err error) {
		for _, span := range spans {
			if err != nil {
				span.RecordError(err)
			}
			span.End()
		}
	}
}

// appendEvents appends one frame, or the halves when it is too large.
func (j *Journal) appendEvents(runID string, events []*commonv1.Event) error {
	frame := &agentv1.Frame{
		Class:   agentv1.FrameClass_FRAME_CLASS_EVENTS,
		Payload: &agentv1.Frame_Events{Events: &agentv1.EventBatch{RunId: runID, Events: events}},
	}
	if half := len(events) / 2; half > 0 && proto.Size(frame) > maxFrameBytes {
		if err := j.appendEvents(runID, events[:half]); err != nil {
			return err
		}
		return j.appendEvents(runID, events[half:])
	}
	if err := put(j.deps.Events, frame); err != nil {
		return err
	}
	j.taken.add(events)
	return nil
}

// Samples puts samples into the sample spool, as blocks of
// internal/columns. Samples that cannot be taken are left out and counted, and
// the others are taken: the error joins what was wrong, of kind [fault.Exhausted] for series beyond the bound and
// [fault.Invalid] for labels that the dictionary does not have.
func (j *Journal) Samples(_ context.Context, samples []metric.Sample) error {
	refs, wrong := j.series.define(samples)
	for reason, n := range wrong.counts {
		j.refused.WithLabelValues(reason).Add(float64(n))
	}
	err := wrong.err
	j.writing.Lock()
	defer j.writing.Unlock()
	points := j.points[:0]
	for i, sample := range samples {
		if refs[i] != 0 {
			points = append(points, columns.Point{Ref: refs[i], TimeMS: sample.Time.UnixMilli(), Value: sample.Value})
		}
	}
	j.points = points
	for part := range slices.Chunk(points, maxFrameSamples) {
		j.block = j.columns.Append(j.block[:0], part)
		failed := put(j.deps.Samples, &agentv1.Frame{
			Class:   agentv1.FrameClass_FRAME_CLASS_SAMPLES,
			Payload: &agentv1.Frame_Columns{Columns: &agentv1.SampleColumns{Block: j.block}},
		})
		if failed != nil {
			j.refused.WithLabelValues(reasonSpool).Add(float64(len(part)))
			err = errors.Join(err, failed)
			continue
		}
		j.sampled.Add(float64(len(part)))
	}
	if err != nil {
		return fmt.Errorf("record samples: %w", err)
	}
	return nil
}

// SeriesDefs gives what numbers stand for; a number whose entry was lost is
// left out.
func (j *Journal) SeriesDefs(refs []uint32) []*agentv1.SeriesDef { return j.series.defsOf(refs) }

func put(to Appender, frame *agentv1.Frame) error {
	payload, err := proto.Marshal(frame)
	if err != nil {
		return fault.New(fault.Invalid, "encode frame: %w", err)
	}
	_, err = to.Append(payload)
	return err
}
