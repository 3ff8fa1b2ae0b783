package ingest

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/metrics"
	"github.com/vigil-ml/vigil/internal/columns"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// oneFleet is the fleet as far as sessions go: the newer one wins.
type oneFleet struct {
	mu    sync.Mutex
	end   map[string]context.CancelCauseFunc
	send  map[string]func(*agentv1.ConnectResponse) error
	beats int
	eager bool // has a command for whoever connects
	left  int  // sessions that ended
}

func (f *oneFleet) Connected(ctx context.Context, hello *agentv1.Hello, send func(*agentv1.ConnectResponse) error) (context.Context, func()) {
	live, cancel := context.WithCancelCause(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if older := f.end[hello.Node]; older != nil {
		older(fault.New(fault.Exists, "a newer session took over"))
	}
	f.end[hello.Node], f.send[hello.Node] = cancel, send
	if f.eager {
		go func() {
			_ = send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Command{Command: &agentv1.Command{}}})
		}()
	}
	return live, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.left++
		cancel(context.Canceled)
	}
}

func (f *oneFleet) Heartbeat(string, *agentv1.Heartbeat) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.beats++
	return nil
}

// sender gives the newest session's send.
func (f *oneFleet) sender(node string) func(*agentv1.ConnectResponse) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.send[node]
}

// plane is the service with a real bus, a real TSDB and a real gRPC server.
type plane struct {
	t       testing.TB
	bus     *bus.Bus
	samples *metrics.DB
	fleet   *oneFleet
	spans   *tracetest.SpanRecorder
	service *Service
	address string
	stop    func()
	close   func()
}

// start opens a plane on the state in a directory.
func start(t testing.TB, dir string) *plane {
	t.Helper()
	log, reg := testkit.Logger(t), prometheus.NewRegistry()
	config := bus.Defaults(filepath.Join(dir, "bus"))
	config.MaxBytes = 256 << 20
	opened, err := bus.Open(t.Context(), config, bus.Deps{Log: log, Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	db, err := metrics.Open(metrics.Defaults(filepath.Join(dir, "metrics")), metrics.Deps{Log: log, Clock: noon})
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{
		t: t, bus: opened, samples: db, spans: tracetest.NewSpanRecorder(),
		fleet: &oneFleet{end: map[string]context.CancelCauseFunc{}, send: map[string]func(*agentv1.ConnectResponse) error{}},
	}
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(p.spans)).Tracer("test")
	p.service = New(Defaults(), Deps{
		Bus: opened, Samples: db, Fleet: p.fleet, Log: log, Metrics: reg, Tracer: tracer, Clock: noon,
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = listener.Addr().String()
	server := grpc.NewServer(p.service.ServerOptions()...)
	agentv1.RegisterAgentServiceServer(server, p.service)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(listener) })
	wg.Go(func() { _ = p.service.Run(ctx) })
	p.stop = stop
	p.close = sync.OnceFunc(func() {
		stop()
		server.Stop()
		wg.Wait()
		opened.Close()
		_ = db.Close()
	})
	t.Cleanup(p.close)
	return p
}

func (p *plane) frames(class, result string) float64 {
	return testutil.ToFloat64(p.service.frameCount.WithLabelValues(class, result))
}

func (p *plane) counted(result string) float64 {
	return testutil.ToFloat64(p.service.sampleCount.WithLabelValues(result))
}

// stored gives the events of the whole bus, as node and id, in order.
func (p *plane) stored(run string) []string {
	p.t.Helper()
	ids := []string{}
	err := p.bus.History(p.t.Context(), run, false, func(d bus.Delivery) error {
		for _, event := range d.Batch.Events {
			ids = append(ids, event.Node+" "+event.EventId)
		}
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return ids
}

// agent is one stream of an agent.
type agent struct {
	t      testing.TB
	stream grpc.BidiStreamingClient[agentv1.ConnectRequest, agentv1.ConnectResponse]
	hangUp func()
}

// dial opens a stream without a word.
func (p *plane) dial() *agent {
	p.t.Helper()
	conn, err := grpc.NewClient(p.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		p.t.Fatal(err)
	}
	hangUp := sync.OnceFunc(func() { _ = conn.Close() })
	p.t.Cleanup(hangUp)
	stream, err := agentv1.NewAgentServiceClient(conn).Connect(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	return &agent{t: p.t, stream: stream, hangUp: hangUp}
}

// connect opens a session and gives where the events go on.
func (p *plane) connect(node string) (*agent, *agentv1.Welcome) {
	p.t.Helper()
	a := p.dial()
	a.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{
		Hello: &agentv1.Hello{Revision: protocol.Revision, Node: node},
	}})
	welcome := a.hear().GetWelcome()
	if welcome == nil {
		p.t.Fatal("the first answer is not Welcome")
	}
	return a, welcome
}

func (a *agent) say(request *agentv1.ConnectRequest) {
	a.t.Helper()
	if err := a.stream.Send(request); err != nil {
		a.t.Fatal(err)
	}
}

func (a *agent) hear() *agentv1.ConnectResponse {
	a.t.Helper()
	response, err := a.stream.Recv()
	if err != nil {
		a.t.Fatal(err)
	}
	return response
}

// end gives the error that the stream ends with; acknowledgements before it
// are passed over.
func (a *agent) end() error {
	for {
		if _, err := a.stream.Recv(); err != nil {
			return fault.FromGRPC(protocol.EndOf(a.stream, err))
		}
	}
}

// acked reads until a class is acknowledged up to a sequence of an epoch.
func (a *agent) acked(class agentv1.FrameClass, epoch, sequence uint64) {
	a.t.Helper()
	for {
		ack := a.hear().GetAck()
		if ack.GetClass() == class && compare(ack.Position, &agentv1.Position{Epoch: epoch, Sequence: sequence}) >= 0 {
			return
		}
	}
}

const (
	events  = agentv1.FrameClass_FRAME_CLASS_EVENTS
	samples = agentv1.FrameClass_FRAME_CLASS_SAMPLES
)

// eventFrame has one step report whose id is the position.
func eventFrame(run string, epoch, sequence uint64) *agentv1.Frame {
	frame := &agentv1.Frame{Class: events, Position: &agentv1.Position{Epoch: epoch, Sequence: sequence}}
	event := &commonv1.Event{
		EventId: at(frame), Time: timestamppb.New(noon().Add(time.Duration(sequence) * time.Millisecond)),
		Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: int64(sequence), Loss: new(float64(sequence))}},
	}
	frame.Payload = &agentv1.Frame_Events{Events: &agentv1.EventBatch{RunId: run, Events: []*commonv1.Event{event}}}
	return frame
}

// sampleFrame has a batch as older agents send it, or columns.
func sampleFrame(sequence uint64, content any) *agentv1.Frame {
	frame := &agentv1.Frame{Class: samples, Position: &agentv1.Position{Epoch: 1, Sequence: sequence}}
	switch content := content.(type) {
	case *agentv1.SampleBatch:
		frame.Payload = &agentv1.Frame_Samples{Samples: content}
	case *agentv1.SampleColumns:
		frame.Payload = &agentv1.Frame_Columns{Columns: content}
	}
	return frame
}

func block(points ...columns.Point) *agentv1.SampleColumns {
	return &agentv1.SampleColumns{Block: new(columns.Encoder).Append(nil, points)}
}

func say(frame *agentv1.Frame) *agentv1.ConnectRequest {
	return &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Frame{Frame: frame}}
}

func define(defs ...*agentv1.SeriesDef) *agentv1.ConnectRequest {
	return &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Series{Series: &agentv1.SeriesDefs{Series: defs}}}
}
