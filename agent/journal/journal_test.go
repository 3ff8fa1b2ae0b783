package journal

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/agent/spool"
	"github.com/vigil-ml/vigil/internal/columns"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/faultfs"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// bench is a journal with its two spools.
type bench struct {
	*Journal
	disk            *faultfs.FS
	events, samples *spool.Spool
}

var now = time.UnixMilli(1_700_000_000_123)

func start(t testing.TB, dir string, tracer trace.Tracer) *bench {
	t.Helper()
	b := &bench{disk: faultfs.New()}
	for class, to := range map[string]**spool.Spool{"events": &b.events, "samples": &b.samples} {
		s, err := spool.Open(spool.Defaults(filepath.Join(dir, class)), spool.Deps{FS: b.disk, Class: class})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		*to = s
	}
	var err error
	b.Journal, err = Open(Config{Dir: filepath.Join(dir, "journal"), MaxSeries: 100}, Deps{
		Node: "n1", Events: b.events, Samples: b.samples, FS: b.disk, Log: testkit.Logger(t),
		Metrics: prometheus.NewRegistry(), Tracer: tracer, Clock: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func (b *bench) stop() {
	_ = b.Close()
	_ = b.events.Close()
	_ = b.samples.Close()
}

// frames reads n frames of a spool.
func frames(t testing.TB, s *spool.Spool, n int) (frames []*agentv1.Frame) {
	t.Helper()
	r := s.Follow(spool.Position{})
	defer func() { _ = r.Close() }()
	for range n {
		record, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		frame := &agentv1.Frame{}
		if err := proto.Unmarshal(record.Payload, frame); err != nil {
			t.Fatal(err)
		}
		frames = append(frames, frame)
	}
	if got := s.Stats().Frames; got != int64(n) {
		t.Errorf("the spool has %d frames, want %d", got, n)
	}
	return frames
}

func noTrace() trace.Tracer { return noop.NewTracerProvider().Tracer("") }

func TestEventsBecomeOneStampedFrame(t *testing.T) {
	b := start(t, t.TempDir(), noTrace())
	at := timestamppb.New(now.Add(-time.Second))
	err := b.Events(t.Context(), "r",
		&commonv1.Event{EventId: "mine", Time: at, RunId: "r", Node: "elsewhere", Rank: 3},
		&commonv1.Event{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: 5, Loss: proto.Float64(math.NaN())}}})
	if err != nil {
		t.Fatal(err)
	}
	got := frames(t, b.events, 1)[0]
	if id := got.GetEvents().Events[1].EventId; len(id) != 36 || id[14] != '7' {
		t.Errorf("event id %q is not a UUID of version 7", id)
	}
	got.GetEvents().Events[1].EventId = ""
	want := &agentv1.Frame{
		Class: agentv1.FrameClass_FRAME_CLASS_EVENTS,
		Payload: &agentv1.Frame_Events{Events: &agentv1.EventBatch{RunId: "r", Events: []*commonv1.Event{
			{EventId: "mine", Time: at, RunId: "r", Node: "elsewhere", Rank: 3},
			{Time: timestamppb.New(now), RunId: "r", Node: "n1", Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: 5, Loss: proto.Float64(math.NaN())}}},
		}}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform(), cmpopts.EquateNaNs()); diff != "" {
		t.Errorf("frame (-want +got):\n%s", diff)
	}
}

func TestEventsRefuses(t *testing.T) {
	huge := &commonv1.Event{Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{Explanation: strings.Repeat("x", 3<<20)}}}
	for name, tc := range map[string]struct {
		run    string
		events []*commonv1.Event
	}{
		"no run":         {"", []*commonv1.Event{{}}},
		"of another run": {"r", []*commonv1.Event{{}, {RunId: "s"}}},
		"nil":            {"r", []*commonv1.Event{nil}},
		"too large":      {"r", []*commonv1.Event{{}, huge}},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, t.TempDir(), noTrace())
			if err := b.Events(t.Context(), tc.run, tc.events...); !fault.Is(err, fault.Invalid) {
				t.Errorf("error = %v, want an invalid fault", err)
			}
			if got := b.events.Stats().Frames; got != 0 {
				t.Errorf("%d frames were recorded", got)
			}
		})
	}
	if err := start(t, t.TempDir(), noTrace()).Events(t.Context(), "r"); err != nil {
		t.Errorf("no events: %v", err)
	}
}

func TestVeryManyEventsAreSplit(t *testing.T) {
	b := start(t, t.TempDir(), noTrace())
	var events []*commonv1.Event
	for range 3 {
		events = append(events, &commonv1.Event{Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{Explanation: strings.Repeat("x", 1<<20)}}})
	}
	if err := b.Events(t.Context(), "r", events...); err != nil {
		t.Fatal(err)
	}
	for _, frame := range frames(t, b.events, 3) {
		if size := proto.Size(frame); size > maxFrameBytes {
			t.Errorf("a frame has %d bytes", size)
		}
	}
}

func TestOnlyTracedEventsGetSpans(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	b := start(t, t.TempDir(), provider.Tracer("test"))
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if err := b.Events(t.Context(), "r", &commonv1.Event{Traceparent: parent}, &commonv1.Event{}); err != nil {
		t.Fatal(err)
	}
	got := spans.GetSpans()
	if len(got) != 1 || got[0].Name != "vigil.journal" || got[0].Parent.SpanID().String() != "b7ad6b7169203331" {
		t.Fatalf("spans = %+v", got)
	}
	events := frames(t, b.events, 1)[0].GetEvents().Events
	want := fmt.Sprintf("00-0af7651916cd43dd8448eb211c80319c-%s-01", got[0].SpanContext.SpanID())
	if events[0].Traceparent != want || events[1].Traceparent != "" {
		t.Errorf("traceparents %q, %q, want %q and none", events[0].Traceparent, events[1].Traceparent, want)
	}
}

func sample(def metric.Def, value float64, after time.Duration, labels ...string) metric.Sample {
	return metric.Sample{Def: def, Labels: labels, Value: value, Time: now.Add(after)}
}

// points gives a frame's samples.
func points(t *testing.T, frame *agentv1.Frame) []columns.Point {
	t.Helper()
	all, err := new(columns.Decoder).Append(nil, frame.GetColumns().GetBlock())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestSamplesBecomeColumns(t *testing.T) {
	b := start(t, t.TempDir(), noTrace())
	err := b.Samples(t.Context(), []metric.Sample{
		sample(metric.HostLoad1, 0, 0),
		sample(metric.GPUPower, 250.5, 5*time.Millisecond, "0"),
		sample(metric.GPUPower, 251, 3*time.Millisecond, "1"),
		sample(metric.HostLoad1, math.Inf(1), time.Second),
	})
	if err != nil {
		t.Fatal(err)
	}
	at := now.UnixMilli()
	want := []columns.Point{{Ref: 1, TimeMS: at, Value: 0}, {Ref: 1, TimeMS: at + 1000, Value: math.Inf(1)}, {Ref: 2, TimeMS: at + 5, Value: 250.5}, {Ref: 3, TimeMS: at + 3, Value: 251}}
	if diff := cmp.Diff(want, points(t, frames(t, b.samples, 1)[0])); diff != "" {
		t.Errorf("block (-want +got):\n%s", diff)
	}
	defs := []*agentv1.SeriesDef{
		{Ref: 3, Metric: metric.GPUPower.Name, Labels: map[string]string{"gpu": "1"}},
		{Ref: 1, Metric: metric.HostLoad1.Name},
	}
	if diff := cmp.Diff(defs, b.SeriesDefs([]uint32{3, 99, 1}), protocmp.Transform()); diff != "" {
		t.Errorf("definitions (-want +got):\n%s", diff)
	}
	if err := b.Samples(t.Context(), nil); err != nil {
		t.Errorf("no samples: %v", err)
	}
}

func TestManySamplesAreSplit(t *testing.T) {
	b := start(t, t.TempDir(), noTrace())
	samples := make([]metric.Sample, maxFrameSamples+10)
	for i := range samples {
		samples[i] = sample(metric.HostLoad1, float64(i), time.Duration(i)*time.Millisecond)
	}
	if err := b.Samples(t.Context(), samples); err != nil {
		t.Fatal(err)
	}
	got := frames(t, b.samples, 2)
	second := points(t, got[1])
	if len(second) != 10 || second[0].TimeMS != samples[maxFrameSamples].Time.UnixMilli() {
		t.Errorf("second block = %v", second)
	}
}

func TestBadSamplesAreLeftOutAndCounted(t *testing.T) {
	b := start(t, t.TempDir(), noTrace())
	err := b.Samples(t.Context(), []metric.Sample{
		sample(metric.HostLoad1, 1, 0, "label too many"),
		sample(metric.HostLoad1, 2, 0),
		sample(metric.GPUPower, 3, 0, "bad \xff name"),
		sample(metric.GPUPower, 4, 0, "bad \xff name"),
	})
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "vigil_host_load1") {
		t.Errorf("error = %v, want an invalid fault that names the metric", err)
	}
	got := points(t, frames(t, b.samples, 1)[0])
	if len(got) != 3 || got[0].Value != 2 || got[1].Value != 3 || got[2].Value != 4 || got[1].Ref != got[2].Ref {
		t.Errorf("block = %v", got)
	}
	var many []metric.Sample
	for i := range 150 {
		many = append(many, sample(metric.GPUPower, 1, 0, fmt.Sprint(i)))
	}
	if err := b.Samples(t.Context(), many); !fault.Is(err, fault.Exhausted) || fault.HintOf(err) == "" {
		t.Errorf("error = %v, want an exhausted fault with a hint", err)
	}
	for reason, want := range map[string]float64{reasonLabels: 1, reasonLimit: 52} {
		if got := testutil.ToFloat64(b.refused.WithLabelValues(reason)); got != want {
			t.Errorf("refused for %s: %v, want %v", reason, got, want)
		}
	}
}

func TestSamplesOnAFullDiskAreCounted(t *testing.T) {
	b := start(t, t.TempDir(), noTrace())
	b.disk.FailWith(func(op faultfs.Op, _ string) error {
		if op == faultfs.Write {
			return fmt.Errorf("disk is full")
		}
		return nil
	})
	if err := b.Samples(context.Background(), []metric.Sample{sample(metric.HostLoad1, 1, 0)}); err == nil {
		t.Error("no error")
	}
	if err := b.Events(context.Background(), "r", &commonv1.Event{}); err == nil {
		t.Error("no error")
	}
	b.disk.FailWith(nil)
	if err := b.Samples(t.Context(), []metric.Sample{sample(metric.HostLoad1, 2, 0)}); err != nil {
		t.Fatal(err)
	}
	if got := points(t, frames(t, b.samples, 1)[0]); len(got) != 1 || got[0].Ref != 2 {
		t.Errorf("samples %v: the number of the failed entry must not be given again", got)
	}
	if got := testutil.ToFloat64(b.refused.WithLabelValues(reasonSpool)); got != 1 {
		t.Errorf("counted %v", got)
	}
}

func TestSeriesNumbersSurvive(t *testing.T) {
	taskLoss := func(task string) metric.Sample { return sample(metric.RunTaskLoss, 1, 0, "run", "0", task) }
	for _, tc := range []struct {
		name   string
		damage func([]byte) []byte
		known  bool // whether the last series keeps its number
	}{
		{"whole", func(d []byte) []byte { return d }, true},
		{"torn", func(d []byte) []byte { return d[:len(d)-1] }, false},
		{"flipped", func(d []byte) []byte { d[len(d)-1] ^= 1; return d }, false},
		{"rubbish behind", func(d []byte) []byte { return append(d, "xx"...) }, true},
		{"all gone bad", func(d []byte) []byte { return make([]byte, len(d)) }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			b := start(t, dir, noTrace())
			if err := b.Samples(t.Context(), []metric.Sample{taskLoss("a"), taskLoss("b"), taskLoss("c")}); err != nil {
				t.Fatal(err)
			}
			b.stop()
			path := filepath.Join(dir, "journal", "series")
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tc.damage(data), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second start finds what the first has mended
				b = start(t, dir, noTrace())
				ref := func(s metric.Sample) uint32 { refs, _ := b.series.define([]metric.Sample{s}); return refs[0] }
				if got := ref(taskLoss("c")); (got == 3) != tc.known || (got != 3 && got <= 3) {
					t.Errorf("the last series has number %d", got)
				}
				if got := ref(sample(metric.HostLoad1, 1, 0)); got <= 3 {
					t.Errorf("number %d was given again", got)
				}
				b.stop()
			}
		})
	}
}

func FuzzDictionary(f *testing.F) {
	data, err := encode([]*agentv1.SeriesDef{{Ref: 1, Metric: "a"}, {Ref: 7, Metric: "b", Labels: map[string]string{"x": "y"}}, {Ref: 9}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:20])
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "series")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var before uint32
		for range 2 {
			d, err := openDictionary(durable.OS{}, path, 1000, testkit.Logger(t))
			if err != nil {
				if fault.Is(err, fault.Exhausted) {
					return
				}
				t.Fatal(err)
			}
			if d.next < before || d.next <= uint32(len(d.keys)) && len(d.keys) > 0 {
				t.Errorf("next number %d, before %d, %d are taken", d.next, before, len(d.keys))
			}
			if d.keys[d.next] != "" {
				t.Errorf("number %d is given again", d.next)
			}
			before = d.next
			_ = d.close()
		}
	})
}

func BenchmarkSamples(b *testing.B) {
	j := start(b, b.TempDir(), noTrace())
	var samples []metric.Sample
	for i := range 100 {
		samples = append(samples, sample(metric.RunTaskLoss, float64(i), 0, "run", "0", fmt.Sprint(i)))
	}
	for b.Loop() {
		if err := j.Samples(b.Context(), samples); err != nil {
			b.Fatal(err)
		}
	}
}
