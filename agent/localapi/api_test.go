package localapi_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/agent/localapi"
	"github.com/vigil-ml/vigil/agent/standing"
	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// orders has the API's orders as a test sets them.
type orders struct {
	mu      sync.Mutex
	started []*commonv1.CheckpointOrder
	known   map[string]localapi.Ordered
	err     error
}

func (o *orders) Start(_ context.Context, order *commonv1.CheckpointOrder, _ string, _ time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.started = append(o.started, order)
	return o.err
}

func (o *orders) Lookup(id string) (localapi.Ordered, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	ordered, ok := o.known[id]
	return ordered, ok
}

// node is an agent's local side over a real vault.
type node struct {
	t        testing.TB
	socket   string
	api      *localapi.API
	sessions *localapi.Sessions
	orders   *orders
	metrics  *prometheus.Registry
	client   trainerv1.TrainerServiceClient
	stop     func()

	delay    atomic.Int64 // of each write, in nanoseconds
	mu       sync.Mutex
	events   []*commonv1.Event
	observed int
}

// slow has each write take some time from now on.
func (n *node) slow(each time.Duration) { n.delay.Store(int64(each)) }

func (n *node) write(_ context.Context, _ string, events ...*commonv1.Event) error {
	time.Sleep(time.Duration(n.delay.Load()))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, events...)
	return nil
}

// list gives the events of a run so far.
func (n *node) list(run string) []*commonv1.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []*commonv1.Event
	for _, e := range n.events {
		if e.RunId == run {
			list = append(list, e)
		}
	}
	return list
}

// make makes the parts; nothing serves yet.
func makeNode(t testing.TB) *node { return makeNodeWith(t, nil) }

func makeNodeWith(t testing.TB, weights localapi.Weigher, change ...func(*localapi.Config)) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t, socket: filepath.Join(dir, "run", "s"), orders: &orders{}, metrics: prometheus.NewRegistry()}
	config := vault.Defaults(filepath.Join(dir, "vault"))
	config.StagingDir = filepath.Join(dir, "staging")
	v, err := vault.New(config, vault.Deps{
		Log: testkit.Logger(t), Metrics: n.metrics, Tracer: noop.NewTracerProvider().Tracer(""), Clock: time.Now,
		FS: durable.OS{}, Events: n.write,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.sessions = localapi.NewSessions(n.metrics)
	served := localapi.Defaults(n.socket)
	for _, do := range change {
		do(&served)
	}
	n.socket = served.Socket
	n.api = localapi.New(served, localapi.Deps{
		Log: testkit.Logger(t), Metrics: n.metrics, Clock: time.Now, Node: "n1", Sessions: n.sessions,
		Checkpoints: v, Orders: n.orders, Events: n.write, Standing: standing.New(time.Now), Weights: weights,
		Observe: func(*commonv1.Event) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.observed++
		},
	})
	group := life.NewGroup(context.Background())
	group.Go("vault", v.Run)
	n.stop = sync.OnceFunc(func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

// serve makes a node that serves, with a client for it.
func serve(t testing.TB) *node { return serveWith(t, nil) }

func serveWith(t testing.TB, weights localapi.Weigher, change ...func(*localapi.Config)) *node {
	t.Helper()
	n := makeNodeWith(t, weights, change...)
	group := life.NewGroup(context.Background())
	group.Go("api", n.api.Run)
	t.Cleanup(func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	conn := dial(t, n.socket)
	n.client = trainerv1.NewTrainerServiceClient(conn)
	testkit.Eventually(t, "the socket", func() bool {
		conn, err := net.Dial("unix", n.socket)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return n
}

func dial(t testing.TB, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func registration(run string, rank uint32) *trainerv1.RegisterRequest {
	return &trainerv1.RegisterRequest{RunId: run, Rank: rank, Attempt: 4,
		Trainer: &commonv1.TrainerRegistered{WorldSize: rank + 1, Pid: int64(os.Getpid()), Framework: "test/1"}}
}

// register opens a session.
func (n *node) register(in *trainerv1.RegisterRequest) string {
	n.t.Helper()
	out, err := n.client.Register(n.t.(*testing.T).Context(), in)
	if err != nil {
		n.t.Fatalf("register: %v", err)
	}
	return out.SessionId
}

type watch = grpc.ServerStreamingClient[trainerv1.WatchDirectivesResponse]

// watch opens a watch that is in place on return.
func (n *node) watch(ctx context.Context, session string) watch {
	n.t.Helper()
	stream, err := n.client.WatchDirectives(ctx, &trainerv1.WatchDirectivesRequest{SessionId: session})
	if err != nil {
		n.t.Fatal(err)
	}
	if first, err := stream.Recv(); err != nil || first.Directive != nil {
		n.t.Fatalf("first word of a watch: %v, %v", first, err)
	}
	return stream
}

func directive(id string) *commonv1.Directive {
	return &commonv1.Directive{DirectiveId: id, Verb: &commonv1.Directive_Checkpoint{
		Checkpoint: &commonv1.CheckpointOrder{RunId: "run", CheckpointId: "ck"}}}
}

func TestRegister(t *testing.T) {
	n := serve(t)
	out, err := n.client.Register(t.Context(), registration("run", 0))
	if err != nil {
		t.Fatal(err)
	}
	if len(out.SessionId) < 20 || out.Node != "n1" || out.Hold.AsDuration() != 10*time.Second {
		t.Errorf("answer %v", out)
	}
	events := n.list("run")
	if len(events) != 1 || events[0].GetTrainerRegistered().GetFramework() != "test/1" || events[0].Attempt != 4 {
		t.Errorf("events %v", events)
	}
	n.register(&trainerv1.RegisterRequest{RunId: "run", Kind: trainerv1.SessionKind_SESSION_KIND_SUPERVISOR})
	if got := len(n.list("run")); got != 1 {
		t.Errorf("a supervisor's registration made an event: %d", got)
	}
	if got := len(n.sessions.Trainers("run")); got != 1 {
		t.Errorf("%d trainers", got)
	}
}

func TestReportIsStamped(t *testing.T) {
	n := serve(t)
	session := n.register(registration("run", 2))
	step := func() *commonv1.Event {
		return &commonv1.Event{EventId: "e", RunId: "other", Attempt: 9, Rank: 9, Node: "elsewhere",
			Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: 1, Loss: proto.Float64(2)}}}
	}
	if _, err := n.client.Report(t.Context(), &trainerv1.ReportRequest{SessionId: session, Dropped: 3,
		Events: []*commonv1.Event{step(), step()}}); err != nil {
		t.Fatal(err)
	}
	got := n.list("run")[1]
	want := step()
	want.RunId, want.Attempt, want.Rank, want.Node = "run", 4, 2, ""
	if !proto.Equal(got, want) || n.observed != 2 {
		t.Errorf("got %v, observed %d", got, n.observed)
	}
	// A supervisor lives longer than an attempt, and counts them itself.
	supervisor := n.register(&trainerv1.RegisterRequest{RunId: "run", Kind: trainerv1.SessionKind_SESSION_KIND_SUPERVISOR})
	if _, err := n.client.Report(t.Context(), &trainerv1.ReportRequest{SessionId: supervisor, Events: []*commonv1.Event{step()}}); err != nil {
		t.Fatal(err)
	}
	if got := n.list("run")[3]; got.Attempt != 9 || got.Rank != 0 || got.RunId != "run" {
		t.Errorf("of a supervisor: %v", got)
	}
	const metrics = `
# HELP vigil_agent_trainer_dropped_events_total Events that trainers had to drop because the agent was away or slow.
# TYPE vigil_agent_trainer_dropped_events_total counter
vigil_agent_trainer_dropped_events_total 3
# HELP vigil_agent_trainer_events_total Events that trainers reported.
# TYPE vigil_agent_trainer_events_total counter
vigil_agent_trainer_events_total 3
`
	if err := testutil.GatherAndCompare(n.metrics, strings.NewReader(metrics),
		"vigil_agent_trainer_dropped_events_total", "vigil_agent_trainer_events_total"); err != nil {
		t.Error(err)
	}
}

func TestCheckpointCarriesItsOrder(t *testing.T) {
	n := serve(t)
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	n.orders.known = map[string]localapi.Ordered{"ck": {CommandID: "cmd", Traceparent: trace, Order: &commonv1.CheckpointOrder{
		RunId: "run", CheckpointId: "ck", Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_EMERGENCY,
		Failure: commonv1.FailureKind_FAILURE_KIND_NONFINITE,
	}}}
	session := n.register(registration("run", 0))
	begun, err := n.client.BeginCheckpoint(t.Context(), &trainerv1.BeginCheckpointRequest{SessionId: session, CheckpointId: "ck"})
	if err != nil || begun.CheckpointId != "ck" {
		t.Fatalf("begin: %v, %v", begun, err)
	}
	if err := os.WriteFile(filepath.Join(begun.StagingDirectory, "w"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := n.client.CommitCheckpoint(t.Context(), &trainerv1.CommitCheckpointRequest{SessionId: session, CheckpointId: "ck",
		Metadata: &commonv1.CheckpointMetadata{Step: 5, WorldSize: 1, NonfiniteParameters: proto.Int64(0)}})
	if err != nil || out.State != commonv1.CheckpointState_CHECKPOINT_STATE_STAGED {
		t.Fatalf("commit: %v, %v", out, err)
	}
	resumed, err := n.client.ResolveResume(t.Context(), &trainerv1.ResolveResumeRequest{SessionId: session, WorldSize: 1})
	if err != nil || resumed.Checkpoint.GetCheckpointId() != "ck" || resumed.Checkpoint.Metadata.Step != 5 {
		t.Fatalf("resolve: %v, %v", resumed, err)
	}
	staged := n.list("run")[1]
	want := &commonv1.CheckpointProgress{CheckpointId: "ck", State: commonv1.CheckpointState_CHECKPOINT_STATE_STAGED,
		Health: commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY, Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_EMERGENCY,
		Step: 5, SizeBytes: 1, CommandId: "cmd", Failure: commonv1.FailureKind_FAILURE_KIND_NONFINITE}
	if !proto.Equal(staged.GetCheckpoint(), want) || staged.Traceparent != trace || staged.Attempt != 4 {
		t.Errorf("staged: %v", staged)
	}
	other := n.register(registration("other", 0))
	_, err = n.client.BeginCheckpoint(t.Context(), &trainerv1.BeginCheckpointRequest{SessionId: other, CheckpointId: "ck"})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("another run's checkpoint: %v", err)
	}
}

func TestRequestCheckpoint(t *testing.T) {
	n := serve(t)
	session := n.register(&trainerv1.RegisterRequest{RunId: "run", Kind: trainerv1.SessionKind_SESSION_KIND_SUPERVISOR})
	request := &trainerv1.RequestCheckpointRequest{SessionId: session, Timeout: durationpb.New(time.Second),
		Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_PREEMPTION, After: commonv1.AfterCheckpoint_AFTER_CHECKPOINT_STOP}
	out, err := n.client.RequestCheckpoint(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	want := &commonv1.CheckpointOrder{RunId: "run", CheckpointId: out.CheckpointId, Reason: request.Reason, After: request.After}
	if len(n.orders.started) != 1 || !proto.Equal(n.orders.started[0], want) {
		t.Errorf("ordered %v", n.orders.started)
	}
	n.orders.err = fault.New(fault.NotFound, "no trainer of run run is registered on this node")
	if _, err := n.client.RequestCheckpoint(t.Context(), request); status.Code(err) != codes.NotFound {
		t.Errorf("without a trainer: %v", err)
	}
	request.Timeout = durationpb.New(-time.Second)
	if _, err := n.client.RequestCheckpoint(t.Context(), request); status.Code(err) != codes.InvalidArgument {
		t.Errorf("negative timeout: %v", err)
	}
}

func TestWatchGetsDirectives(t *testing.T) {
	n := serve(t)
	session := n.register(registration("run", 0))
	if _, err := n.sessions.Direct("run", directive("before the watch")); err != nil {
		t.Fatal(err)
	}
	stream := n.watch(t.Context(), session)
	if _, err := n.sessions.Direct("run", directive("within")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 2 {
		next, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, next.Directive.DirectiveId)
	}
	if diff := cmp.Diff([]string{"before the watch", "within"}, got); diff != "" {
		t.Errorf("directives (-want +got):\n%s", diff)
	}
}

func TestConfigCheck(t *testing.T) {
	var keys int
	localapi.Config{Socket: strings.Repeat("x", 200)}.Check(func(string, string, ...any) { keys++ })
	localapi.Config{}.Check(func(string, string, ...any) { keys++ })
	if keys != 16 {
		t.Errorf("%d mistakes; want 16", keys)
	}
	localapi.Defaults("s").Check(func(key, format string, _ ...any) { t.Errorf("defaults: %s %s", key, format) })
}
