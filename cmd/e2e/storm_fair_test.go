package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/columns"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/site"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// sampleProbes is how many frames measure what ingest takes of samples.
const sampleProbes = 2000

// steady is how often a node that goes on as ever sends something.
const steady = 20 * time.Millisecond

// sampler sends frames of samples as an agent with 80 series does, five seconds
// of each in a frame.
type sampler struct {
	*rawAgent
	sequence uint64
	at       int64
	encoder  columns.Encoder
	points   []columns.Point
}

const samplerSeries, samplerSteps = 80, 5

func newSampler(a *rawAgent) *sampler {
	a.t.Helper()
	s := &sampler{rawAgent: a, at: time.Now().Add(-time.Hour).UnixMilli()}
	var defs []*agentv1.SeriesDef
	for ref := range samplerSeries {
		defs = append(defs, &agentv1.SeriesDef{Ref: uint32(ref + 1), Metric: metric.GPUPower.Name, Labels: map[string]string{"gpu": strconv.Itoa(ref)}})
	}
	fatal(a.t, a.stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Series{Series: &agentv1.SeriesDefs{Series: defs}}}))
	return s
}

func (s *sampler) send() {
	s.t.Helper()
	s.points = s.points[:0]
	for ref := range samplerSeries {
		for step := range samplerSteps {
			s.points = append(s.points, columns.Point{Ref: uint32(ref + 1), TimeMS: s.at + int64(step)*10, Value: float64(ref*step) + float64(s.sequence%97)})
		}
	}
	s.at += samplerSteps * 10
	s.sequence++
	fatal(s.t, s.stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Frame{Frame: &agentv1.Frame{
		Class: agentv1.FrameClass_FRAME_CLASS_SAMPLES, Position: &agentv1.Position{Epoch: s.epoch, Sequence: s.sequence},
		Payload: &agentv1.Frame_Columns{Columns: &agentv1.SampleColumns{Block: s.encoder.Append(nil, s.points)}},
	}}}))
}

// until waits until a class is acknowledged up to a sequence.
func (a *rawAgent) until(class agentv1.FrameClass, sequence uint64) {
	a.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(100 * time.Microsecond) {
		a.mu.Lock()
		acked := a.acked[class]
		a.mu.Unlock()
		if acked >= sequence {
			return
		}
		if time.Now().After(end) {
			a.t.Fatalf("%d of %d frames of %v are acknowledged", acked, sequence, class)
		}
	}
}

// served is how another node is served: what ingest takes of it at most, in frames
// a second, and how long it waits when it sends what it always does.
type served struct {
	events, samples  float64
	eventP99, median time.Duration
	sampleP99        time.Duration
}

func (s served) String() string {
	return fmt.Sprintf("%6.0f frames/s of events, %6.0f of samples; of %v in turns each acknowledged after: events p99 %v, samples p50 %v p99 %v",
		s.events, s.samples, steady, s.eventP99.Round(100*time.Microsecond), s.median.Round(100*time.Microsecond), s.sampleP99.Round(100*time.Microsecond))
}

func (s *sampler) serve() (out served) {
	s.t.Helper()
	began := time.Now()
	for range sampleProbes {
		s.send()
	}
	s.until(agentv1.FrameClass_FRAME_CLASS_SAMPLES, s.sequence)
	out.samples = sampleProbes / time.Since(began).Seconds()
	out.events = s.rate()
	var events, samples []time.Duration
	for range 40 {
		began = time.Now()
		s.send()
		s.until(agentv1.FrameClass_FRAME_CLASS_SAMPLES, s.sequence)
		samples = append(samples, time.Since(began))
		time.Sleep(steady)
		began = time.Now()
		s.rawAgent.send("bystander", &commonv1.Event{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: int64(s.rawAgent.sequence), Loss: new(1.0)}}})
		s.until(agentv1.FrameClass_FRAME_CLASS_EVENTS, s.rawAgent.sequence)
		events = append(events, time.Since(began))
		time.Sleep(steady)
	}
	slices.Sort(events)
	slices.Sort(samples)
	out.eventP99, out.median, out.sampleP99 = events[len(events)*99/100], samples[len(samples)/2], samples[len(samples)*99/100]
	return out
}

// TestStormIsFair measures how a node is served beside a storm of findings of
// another, and beside as many events of which nothing is found.
func TestStormIsFair(t *testing.T) {
	findings := 2000
	if text := os.Getenv(findingsVariable); text != "" {
		var err error
		findings, err = strconv.Atoi(text)
		fatal(t, err)
	}
	b := newBoard(t)
	s, err := site.Plan(t.TempDir()+"/site", os.Getenv(binVariable))
	fatal(t, err)
	defer func() { fatal(t, s.Close()) }()
	cp, err := s.ControlPlane(t.Context(), "alerting: {receivers: [{name: ops, webhook: {url: '"+b.URL+"'}}]}\n")
	fatal(t, err)
	defer func() { fatal(t, cp.Stop()) }()
	bystander, struck := newSampler(connectRaw(t, s, "calm")), connectRaw(t, s, "struck")
	bystander.serve() // what is made at first
	alone := bystander.serve()
	every := stormLasts / time.Duration(findings)
	_, stop := struck.sendEach(every, findings, func(n int) (string, *commonv1.Event) {
		return "calm", &commonv1.Event{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: int64(n), Loss: new(1.0)}}}
	})
	beside := bystander.serve()
	stop()
	struck.flushed()
	storm, _ := struck.sendEach(every, findings, func(n int) (string, *commonv1.Event) {
		return fmt.Sprintf("run-%d", n), &commonv1.Event{Body: &commonv1.Event_NonFinite{NonFinite: &commonv1.NonFinite{
			Step: 10, Tensor: "w", Quantity: commonv1.Quantity_QUANTITY_GRADIENT, NanCount: 1, TensorSize: 64,
		}}}
	})
	for before := struck.durable(); struck.durable() < before+uint64(findings)/10; { // it has begun
		time.Sleep(time.Millisecond)
	}
	during := bystander.serve()
	<-storm
	struck.flushed()
	t.Logf("alone             %v", alone)
	t.Logf("beside events     %v", beside)
	t.Logf("beside findings   %v", during)
	t.Logf("beside findings to alone: events %.2f, samples %.2f", during.events/alone.events, during.samples/alone.samples)
	if during.samples < alone.samples/10 || during.events < beside.events/10 {
		t.Errorf("ingest took %.0f frames/s of samples and %.0f of events of a node beside the storm; %.0f and %.0f otherwise",
			during.samples, during.events, alone.samples, beside.events)
	}
}
