package ingest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/internal/columns"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// TestEventsAreStoredExactlyOnce is the property that all rests on: whatever an
// agent sends again, wherever streams and control planes break, the bus has each
// frame once and in order. An agent that goes on behind Welcome, or earlier,
// loses nothing.
func TestEventsAreStoredExactlyOnce(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { exactlyOnce(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

func exactlyOnce(t *testing.T, random *rand.Rand) {
	dir := t.TempDir()
	var frames []*agentv1.Frame
	var want []string
	for epoch := range uint64(3) {
		for sequence := range 20 + random.Uint64N(30) {
			frame := eventFrame("r", epoch+1, sequence+1)
			frames = append(frames, frame)
			want = append(want, "n "+at(frame))
		}
	}
	p := start(t, dir)
	for done := 0; done < len(frames); {
		if random.IntN(4) == 0 {
			p.close() // the control plane is gone
			p = start(t, dir)
		}
		a, welcome := p.connect("n")
		for done < len(frames) && compare(frames[done].Position, welcome.Events) <= 0 {
			done++
		}
		from := random.IntN(done + 1) // what is not acknowledged comes again
		until := min(len(frames), from+1+random.IntN(40))
		for _, frame := range frames[from:until] {
			a.say(say(frame))
		}
		if last := frames[until-1].Position; random.IntN(2) == 0 {
			a.acked(events, last.Epoch, last.Sequence)
		}
		a.hangUp()
	}
	if diff := cmp.Diff(want, p.stored("r")); diff != "" {
		t.Error(diff)
	}
}

func TestAFrameIsAcknowledgedOnlyWhenItIsDurable(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir)
	a, _ := p.connect("n")
	for i := range uint64(100) {
		a.say(say(eventFrame("r", 1, i+1)))
	}
	acked := &agentv1.Position{}
	for acked.Sequence < 30 {
		acked = a.hear().GetAck().Position
	}
	p.close() // in the middle of the rest
	p = start(t, dir)
	last, err := p.bus.Last(t.Context(), "n")
	if err != nil || last.Sequence < acked.Sequence {
		t.Errorf("frame %d was acknowledged, but the bus ends at %d (%v)", acked.Sequence, last.Sequence, err)
	}
	if got := len(p.stored("r")); got != int(last.Sequence) {
		t.Errorf("%d events are stored, the last is %d", got, last.Sequence)
	}
	if _, welcome := p.connect("n"); compare(welcome.Events, last) != 0 {
		t.Errorf("Welcome says %v, the bus ends at %v", welcome.Events, last)
	}
}

func TestRepeatsAreAcknowledgedAndCounted(t *testing.T) {
	p := start(t, t.TempDir())
	for range 2 {
		a, _ := p.connect("n")
		for i := range uint64(5) {
			a.say(say(eventFrame("r", 1, i+1)))
		}
		a.acked(events, 1, 5)
		a.hangUp()
	}
	if stored, repeated := p.frames("events", "stored"), p.frames("events", "repeated"); stored != 5 || repeated != 5 {
		t.Errorf("counted %v stored, %v repeated frames; want 5, 5", stored, repeated)
	}
	if stored, repeated := p.counted("stored"), p.counted("repeated"); stored != 10 || repeated != 10 {
		t.Errorf("counted %v stored, %v repeated step samples; want 10, 10", stored, repeated)
	}
}

func TestHelloIsChecked(t *testing.T) {
	p := start(t, t.TempDir())
	hello := func(revision uint32, node string) *agentv1.ConnectRequest {
		return &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{
			Hello: &agentv1.Hello{Revision: revision, Node: node, Version: "v9"},
		}}
	}
	tests := map[string]struct {
		first *agentv1.ConnectRequest
		kind  fault.Kind
		texts []string
	}{
		"another revision": {hello(protocol.Revision+1, "n"), fault.Precondition,
			[]string{fmt.Sprintf("revision %d,", protocol.Revision+1), fmt.Sprintf("speaks %d", protocol.Revision), "v9", "update"}},
		"no revision":   {hello(0, "n"), fault.Precondition, []string{"revision 0"}},
		"no name":       {hello(protocol.Revision, ""), fault.Invalid, []string{`""`, "letters"}},
		"a bad name":    {hello(protocol.Revision, "a b"), fault.Invalid, []string{`"a b"`}},
		"a long name":   {hello(protocol.Revision, strings.Repeat("n", 254)), fault.Invalid, []string{"253"}},
		"no Hello":      {say(eventFrame("r", 1, 1)), fault.Invalid, []string{"Hello first"}},
		"nothing in it": {&agentv1.ConnectRequest{}, fault.Invalid, []string{"Hello first"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a := p.dial()
			a.say(test.first)
			err := a.end()
			if !fault.Is(err, test.kind) {
				t.Errorf("kind %v, want %v", fault.KindOf(err), test.kind)
			}
			for _, text := range test.texts {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q does not say %q", err, text)
				}
			}
		})
	}
	if got := p.stored("r"); len(got) > 0 {
		t.Errorf("stored %v", got)
	}
}

func TestBadEventFramesEndTheSessionUnacknowledged(t *testing.T) {
	frame := func(change func(*agentv1.Frame)) []*agentv1.Frame {
		f := eventFrame("r", 1, 2)
		change(f)
		return []*agentv1.Frame{eventFrame("r", 1, 1), f}
	}
	event := func(f *agentv1.Frame) *commonv1.Event { return f.GetEvents().Events[0] }
	tests := map[string]struct {
		frames []*agentv1.Frame
		class  string
		text   string
	}{
		"no position":   {frame(func(f *agentv1.Frame) { f.Position = nil }), "events", "position 0/0"},
		"out of order":  {frame(func(f *agentv1.Frame) { f.Position.Sequence = 1 }), "events", "1/1 came behind 1/1"},
		"no class":      {frame(func(f *agentv1.Frame) { f.Class = 0 }), "unknown", "class 0"},
		"wrong payload": {frame(func(f *agentv1.Frame) { f.Payload = &agentv1.Frame_Samples{} }), "events", "Frame_Samples"},
		"no payload":    {frame(func(f *agentv1.Frame) { f.Payload = nil }), "events", "carries no events"},
		"another node":  {frame(func(f *agentv1.Frame) { event(f).Node = "m" }), "events", `node "m"`},
		"another run":   {frame(func(f *agentv1.Frame) { event(f).RunId = "s" }), "events", `run "s"`},
		"no run":        {frame(func(f *agentv1.Frame) { f.GetEvents().RunId = "" }), "events", "names no run"},
		"a node's, with a run": {frame(func(f *agentv1.Frame) {
			event(f).Body = &commonv1.Event_NodeReport{NodeReport: &commonv1.NodeReport{}}
		}), "events", `of the node itself and names run "r"`},
		"the control plane's own word": {frame(func(f *agentv1.Frame) {
			f.GetEvents().RunId, event(f).Body = "", &commonv1.Event_NodeLink{NodeLink: &commonv1.NodeLink{}}
		}), "events", "the control plane's to say"},
		"too big": {frame(func(f *agentv1.Frame) { event(f).EventId = strings.Repeat("x", bus.MaxBatchBytes) }), "events", "takes at most"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := start(t, t.TempDir())
			a, _ := p.connect("n")
			for _, f := range test.frames {
				a.say(say(f))
			}
			a.acked(events, 1, 1)
			err := a.end()
			if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %v, want an invalid one with %q", err, test.text)
			}
			if n := p.frames(test.class, "refused"); n != 1 {
				t.Errorf("counted %v refused frames", n)
			}
			if diff := cmp.Diff([]string{"n 1/1"}, p.stored("r")); diff != "" {
				t.Error(diff)
			}
			if _, welcome := p.connect("n"); welcome.Events.Sequence != 1 {
				t.Errorf("Welcome says %v", welcome.Events)
			}
		})
	}
}

// TestEventsOfTheNode are taken without a run, once.
func TestEventsOfTheNode(t *testing.T) {
	p := start(t, t.TempDir())
	a, _ := p.connect("n")
	f := eventFrame("", 1, 1)
	f.GetEvents().Events[0].Body = &commonv1.Event_NodeFault{NodeFault: &commonv1.NodeFault{Code: 79}}
	a.say(say(f))
	a.acked(events, 1, 1)
	var got []string
	err := p.bus.NodeHistory(t.Context(), "n", false, func(d bus.Delivery) error {
		got = append(got, d.Batch.Events[0].Node+" "+d.Batch.Events[0].EventId)
		return nil
	})
	if diff := cmp.Diff([]string{"n 1/1"}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestAMessageBeyondAllLimitsEndsTheSession(t *testing.T) {
	p := start(t, t.TempDir())
	a, _ := p.connect("n")
	f := eventFrame("r", 1, 1)
	f.GetEvents().Events[0].EventId = strings.Repeat("x", maxMessageBytes)
	_ = a.stream.Send(say(f))
	if err := a.end(); !fault.Is(err, fault.Exhausted) || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("error %v", err)
	}
}

func TestHelloTwiceEndsTheSession(t *testing.T) {
	p := start(t, t.TempDir())
	a, _ := p.connect("n")
	a.say(&agentv1.ConnectRequest{}) // of a later agent: passed over
	a.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{}})
	if err := a.end(); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "twice") {
		t.Errorf("error %v", err)
	}
}

func TestEventsOfATraceGoOnAsChildrenOfASpan(t *testing.T) {
	p := start(t, t.TempDir())
	a, _ := p.connect("n")
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	frame := eventFrame("r", 1, 1)
	batch := frame.GetEvents()
	batch.Events = append(batch.Events, &commonv1.Event{EventId: "urgent", Traceparent: parent})
	a.say(say(frame))
	a.acked(events, 1, 1)
	spans := p.spans.Ended()
	if len(spans) != 1 || spans[0].Name() != "vigil.ingest" || spans[0].Parent().SpanID().String() != "b7ad6b7169203331" {
		t.Fatalf("spans %v", spans)
	}
	own := spans[0].SpanContext()
	want := fmt.Sprintf("00-%s-%s-01", own.TraceID(), own.SpanID())
	var got []string
	_ = p.bus.History(t.Context(), "r", false, func(d bus.Delivery) error {
		for _, event := range d.Batch.Events {
			got = append(got, event.Traceparent)
		}
		if !d.Received.Equal(noon()) {
			t.Errorf("received %v", d.Received)
		}
		return nil
	})
	if diff := cmp.Diff([]string{"", want}, got); diff != "" {
		t.Error(diff)
	}
}

func TestSamples(t *testing.T) {
	p := start(t, t.TempDir())
	a, welcome := p.connect("n")
	if diff := cmp.Diff(&agentv1.Position{}, welcome.Events, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	disk := func(mount string) map[string]string { return map[string]string{"mount": mount} }
	defs := define(
		&agentv1.SeriesDef{Ref: 1, Metric: metric.HostLoad1.Name},
		&agentv1.SeriesDef{Ref: 2, Metric: metric.HostDiskTotal.Name, Labels: disk("/")},
		&agentv1.SeriesDef{Ref: 3, Metric: "vigil_host_mood"},
		&agentv1.SeriesDef{Ref: 4, Metric: metric.HostDiskTotal.Name},
		&agentv1.SeriesDef{Ref: 5, Metric: metric.HostLoad1.Name, Labels: disk("/")},
	)
	base := noon().UnixMilli()
	good := &agentv1.SampleBatch{
		BaseTimeMs: base, Refs: []uint32{1, 2, 1, 2}, TimeDeltasMs: []int64{0, 0, 1000, 0}, Values: []float64{1, 2, 3, 4},
	}
	for i, step := range []struct {
		batch                     any
		stored, repeated, refused float64 // samples so far
	}{
		{good, 4, 0, 0},
		{good, 4, 4, 0},
		{&agentv1.SampleBatch{BaseTimeMs: base + 2000, Refs: []uint32{1, 3, 4, 5, 9}, TimeDeltasMs: make([]int64, 5), Values: make([]float64, 5)}, 5, 4, 4},
		{&agentv1.SampleBatch{BaseTimeMs: base, Refs: []uint32{1, 2}, TimeDeltasMs: []int64{0}, Values: []float64{1, 2}}, 5, 4, 6},
		{&agentv1.SampleBatch{BaseTimeMs: base, Refs: []uint32{9}, TimeDeltasMs: []int64{0}, Values: []float64{1}}, 5, 4, 7},
		{&agentv1.SampleBatch{}, 5, 4, 7},
		{block(columns.Point{Ref: 1, TimeMS: base + 2000}, columns.Point{Ref: 1, TimeMS: base + 3000}, columns.Point{Ref: 9, TimeMS: base}), 6, 5, 8},
		{&agentv1.SampleColumns{Block: []byte("no block")}, 6, 5, 8},
	} {
		a.say(defs) // the same again is harmless
		a.say(say(sampleFrame(uint64(i+1), step.batch)))
		a.acked(samples, 1, uint64(i+1))
		got := []float64{p.counted("stored"), p.counted("repeated"), p.counted("refused")}
		if want := []float64{step.stored, step.repeated, step.refused}; !slices.Equal(got, want) {
			t.Errorf("batch %d: stored, repeated, refused samples %v, want %v", i, got, want)
		}
	}
	got := []float64{p.frames("samples", "stored"), p.frames("samples", "repeated"), p.frames("samples", "refused")}
	if want := []float64{4, 1, 3}; !slices.Equal(got, want) {
		t.Errorf("stored, repeated, refused frames %v, want %v", got, want)
	}
}

func TestBadSeriesDefinitionsEndTheSession(t *testing.T) {
	many := make([]*agentv1.SeriesDef, Defaults().MaxSeries+1)
	for i := range many {
		many[i] = &agentv1.SeriesDef{Ref: uint32(i + 1), Metric: metric.HostLoad1.Name}
	}
	tests := map[string]struct {
		defs []*agentv1.SeriesDef
		kind fault.Kind
		text string
	}{
		"number 0": {[]*agentv1.SeriesDef{{Metric: metric.HostLoad1.Name}}, fault.Invalid, "number 0"},
		"given twice": {[]*agentv1.SeriesDef{{Ref: 1, Metric: metric.HostLoad1.Name}, {Ref: 1, Metric: metric.HostCPUBusy.Name}},
			fault.Invalid, `series 1 is "vigil_host_load1"`},
		"too many": {many, fault.Exhausted, "max_series"},
	}
	p := start(t, t.TempDir())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a, _ := p.connect("n")
			a.say(define(test.defs...))
			if err := a.end(); !fault.Is(err, test.kind) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %v, want %v with %q", err, test.kind, test.text)
			}
		})
	}
}

func TestSamplesAreNotAcknowledgedWithoutTheTSDB(t *testing.T) {
	p := start(t, t.TempDir())
	a, _ := p.connect("n")
	if err := p.samples.Close(); err != nil {
		t.Fatal(err)
	}
	a.say(define(&agentv1.SeriesDef{Ref: 1, Metric: metric.HostLoad1.Name}))
	a.say(say(sampleFrame(1, &agentv1.SampleBatch{
		BaseTimeMs: noon().UnixMilli(), Refs: []uint32{1}, TimeDeltasMs: []int64{0}, Values: []float64{1},
	})))
	if answer, err := a.stream.Recv(); err == nil || !fault.Is(err, fault.Unavailable) {
		t.Errorf("answer %v, error %v", answer, err)
	}
	// An event comes through all the same.
	b, _ := p.connect("n")
	b.say(say(eventFrame("r", 1, 1)))
	b.acked(events, 1, 1)
}

func TestANewerSessionTakesOver(t *testing.T) {
	p := start(t, t.TempDir())
	older, _ := p.connect("n")
	older.say(say(eventFrame("r", 1, 1)))
	older.acked(events, 1, 1)
	newer, welcome := p.connect("n")
	if welcome.Events.Sequence != 1 {
		t.Errorf("Welcome says %v", welcome.Events)
	}
	if err := older.end(); !fault.Is(err, fault.Exists) {
		t.Errorf("the older session ends with %v", err)
	}
	other, _ := p.connect("m")
	for i, a := range []*agent{newer, other} {
		a.say(say(eventFrame("r", 1, 2)))
		a.acked(events, 1, 2)
		if i == 0 {
			continue
		}
		if diff := cmp.Diff([]string{"n 1/1", "n 1/2", "m 1/2"}, p.stored("r")); diff != "" {
			t.Error(diff)
		}
	}
}

func TestCommandsAndHeartbeats(t *testing.T) {
	p := start(t, t.TempDir())
	a, welcome := p.connect("n")
	if welcome.Revision != protocol.Revision || welcome.SessionId == "" || welcome.HeartbeatInterval.AsDuration() != Defaults().HeartbeatInterval {
		t.Errorf("Welcome %v", welcome)
	}
	testkit.Eventually(t, "the session to be known", func() bool { return p.fleet.sender("n") != nil })
	for _, id := range []string{"one", "two"} {
		command := &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Command{Command: &agentv1.Command{CommandId: id}}}
		if err := p.fleet.sender("n")(command); err != nil {
			t.Fatal(err)
		}
		if got := a.hear().GetCommand().GetCommandId(); got != id {
			t.Errorf("command %q, want %q", got, id)
		}
	}
	a.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Heartbeat{Heartbeat: &agentv1.Heartbeat{}}})
	testkit.Eventually(t, "the heartbeat", func() bool {
		p.fleet.mu.Lock()
		defer p.fleet.mu.Unlock()
		return p.fleet.beats == 1
	})
	a.hangUp()
	if err := p.fleet.sender("n")(&agentv1.ConnectResponse{}); !fault.Is(err, fault.Unavailable) {
		// It may have gone into a stream that is just ending; then the next one fails.
		testkit.Eventually(t, "send to fail", func() bool {
			return fault.Is(p.fleet.sender("n")(&agentv1.ConnectResponse{}), fault.Unavailable)
		})
	}
}

func TestDrain(t *testing.T) {
	p := start(t, t.TempDir())
	a, _ := p.connect("n")
	silent := p.dial() // never says Hello
	a.say(say(eventFrame("r", 1, 1)))
	a.acked(events, 1, 1)
	p.stop()
	if drain := a.hear().GetDrain(); drain == nil || drain.ReconnectAfter.AsDuration() != Defaults().ReconnectAfter {
		t.Errorf("Drain %v", drain)
	}
	if err := a.end(); err == nil || !strings.Contains(err.Error(), "sent the agent away") {
		t.Errorf("after Drain: %v", err)
	}
	for _, late := range []*agent{silent, p.dial()} {
		if err := late.end(); !fault.Is(err, fault.Unavailable) {
			t.Errorf("a late stream ends with %v", err)
		}
	}
}

// TestLogWords: an operator reads words, not <nil> or a message's fields.
func TestLogWords(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{position(nil), "0/0"},
		{position(&agentv1.Position{Epoch: 2, Sequence: 7}), "2/7"},
		{ending(nil), "this control plane stops, and sent the agent away"},
		{ending(io.EOF), "the agent went away"},
		{ending(fault.New(fault.Invalid, "Hello came twice")), "Hello came twice"},
	} {
		if test.got != test.want {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
}

func TestConfigCheck(t *testing.T) {
	check := func(c Config) (keys []string) {
		c.Check(func(key, _ string, _ ...any) { keys = append(keys, key) })
		return keys
	}
	if keys := check(Defaults()); keys != nil {
		t.Errorf("the defaults are refused: %v", keys)
	}
	want := []string{"heartbeat_interval", "reconnect_after", "max_series"}
	if diff := cmp.Diff(want, check(Config{ReconnectAfter: -1})); diff != "" {
		t.Error(diff)
	}
}
