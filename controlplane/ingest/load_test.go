package ingest

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vigil-ml/vigil/controlplane/load"
	"github.com/vigil-ml/vigil/internal/columns"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/protocol"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// memory is how much of 1000 bytes a control plane uses.
type memory struct{ used atomic.Uint64 }

func (p *plane) limited() *memory {
	m := &memory{}
	var reads atomic.Int64
	p.service.deps.Load = load.New(1000, load.Deps{
		Metrics: prometheus.NewRegistry(),
		Clock:   func() time.Time { return time.Unix(reads.Add(1), 0) }, // each look is a new one
		Read:    func() load.Usage { return load.Usage{Live: m.used.Load()} },
	})
	return m
}

// refusal reads a stream to its end and checks that it is a refusal for want of
// memory that says when to come again.
func (a *agent) refusal() {
	a.t.Helper()
	for {
		if _, err := a.stream.Recv(); err != nil {
			s := status.Convert(err)
			for _, detail := range s.Details() {
				if info, ok := detail.(*errdetails.RetryInfo); ok && s.Code() == codes.ResourceExhausted && info.RetryDelay.AsDuration() > 0 {
					return
				}
			}
			a.t.Fatalf("the stream ended with %v %v", s, s.Details())
		}
	}
}

func TestSamplesWaitWhileMemoryIsShort(t *testing.T) {
	p := start(t, t.TempDir())
	m := p.limited()
	a, _ := p.connect("n")
	series := define(&agentv1.SeriesDef{Ref: 1, Metric: "vigil_host_load1"})
	point := func(n uint64) *agentv1.ConnectRequest {
		return say(sampleFrame(n, block(columns.Point{Ref: 1, TimeMS: noon().UnixMilli() + int64(n), Value: 1})))
	}
	a.say(series)
	a.say(point(1))
	a.acked(samples, 1, 1)

	m.used.Store(900)
	a.say(point(2))
	a.say(say(eventFrame("r", 1, 1)))
	a.acked(events, 1, 1)
	m.used.Store(820) // not enough: what was held back is not let go of
	a.say(point(3))
	a.say(say(eventFrame("r", 1, 2)))
	a.acked(events, 1, 2)
	if stored, held := p.counted("stored"), p.frames("samples", "held"); stored != 1+4 || held != 2 { // a step report is two points
		t.Errorf("%v samples are stored, %v frames held; want 5 and 2", stored, held)
	}
	m.used.Store(100)
	a.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Heartbeat{Heartbeat: &agentv1.Heartbeat{}}})
	a.refusal()

	a, _ = p.connect("n")
	a.say(series)
	a.say(point(2))
	a.say(point(3))
	a.acked(samples, 1, 3)
	if stored := p.counted("stored"); stored != 3+4 {
		t.Errorf("%v samples are stored, want 7", stored)
	}
}

func TestNothingIsTakenWhileMemoryIsNearlyGone(t *testing.T) {
	p := start(t, t.TempDir())
	m := p.limited()
	a, _ := p.connect("n")
	a.say(say(eventFrame("r", 1, 1)))
	a.acked(events, 1, 1)
	m.used.Store(990)
	a.say(say(eventFrame("r", 1, 2)))
	a.refusal()
	b := p.dial()
	b.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: &agentv1.Hello{Revision: protocol.Revision, Node: "n"}}})
	b.refusal()
	m.used.Store(100)
	a, welcome := p.connect("n")
	if welcome.Events.GetSequence() != 1 {
		t.Errorf("events go on behind %v", welcome.Events)
	}
	a.say(say(eventFrame("r", 1, 2)))
	a.acked(events, 1, 2)
	if diff := cmp.Diff([]string{"n 1/1", "n 1/2"}, p.stored("r")); diff != "" {
		t.Error(diff)
	}
}

// TestSamplesWaitTheirTurn has samples wait for their turn: no worker waits for
// them meanwhile, events come through, and then the samples do.
func TestSamplesWaitTheirTurn(t *testing.T) {
	p := start(t, t.TempDir())
	var taken []*buffers
	for range cap(p.service.buffers) {
		taken = append(taken, <-p.service.buffers)
	}
	waiting, _ := p.connect("waiting")
	waiting.say(define(&agentv1.SeriesDef{Ref: 1, Metric: metric.HostLoad1.Name}))
	waiting.say(say(sampleFrame(1, block(columns.Point{Ref: 1, TimeMS: noon().UnixMilli(), Value: 1}))))
	other, _ := p.connect("other")
	other.say(say(eventFrame("r", 1, 1)))
	other.acked(events, 1, 1)
	if got := p.frames("samples", resultStored); got != 0 {
		t.Errorf("%v frames of samples were stored with no room for any", got)
	}
	for _, b := range taken {
		p.service.buffers <- b
	}
	waiting.acked(samples, 1, 1)
	waiting.say(say(sampleFrame(2, block(columns.Point{Ref: 1, TimeMS: noon().UnixMilli() + 1, Value: 2}))))
	waiting.acked(samples, 1, 2)
	if got := len(p.service.buffers); got != cap(p.service.buffers) {
		t.Errorf("%d of %d buffers are back", got, cap(p.service.buffers))
	}
}
