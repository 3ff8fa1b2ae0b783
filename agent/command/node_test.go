package command_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/agent/command"
	"github.com/vigil-ml/vigil/agent/localapi"
	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is an agent's checkpoint path: the trainers' API without its socket, a
// real vault, and the orders between them.
type node struct {
	t           *testing.T
	dir         string
	api         *localapi.API
	sessions    *localapi.Sessions
	vault       *vault.Vault
	checkpoints *command.Checkpoints
	profiles    *command.Profiles
	group       *life.Group
	spans       *tracetest.SpanRecorder

	mu     sync.Mutex
	events []*commonv1.Event
}

// newNode makes a node whose vault seals, unless told otherwise, until stop.
func newNode(t *testing.T, dir string) *node {
	t.Helper()
	n := &node{t: t, dir: dir, group: life.NewGroup(context.Background()), spans: tracetest.NewSpanRecorder()}
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(n.spans)).Tracer("test")
	metrics, log := prometheus.NewRegistry(), testkit.Logger(t)
	observe := func(e *commonv1.Event) {
		n.checkpoints.Observe(e)
		n.profiles.Observe(e)
	}
	n.sessions = localapi.NewSessions(metrics)
	config := vault.Defaults(filepath.Join(dir, "vault"))
	config.StagingDir = filepath.Join(dir, "staging")
	var err error
	n.vault, err = vault.New(config, vault.Deps{Log: log, Metrics: metrics, Tracer: tracer,
		Clock: time.Now, FS: durable.OS{}, Events: n.write, Observe: observe})
	if err != nil {
		t.Fatal(err)
	}
	n.checkpoints = command.NewCheckpoints(command.CheckpointDeps{Log: log, Tracer: tracer,
		Clock: time.Now, Trainers: n.sessions, Saved: n.vault.Saved, Events: n.write})
	n.profiles = newProfiles(t, n)
	n.api = localapi.New(localapi.Defaults("unused"), localapi.Deps{Log: log, Metrics: metrics, Clock: time.Now, Node: "n1",
		Sessions: n.sessions, Checkpoints: n.vault, Orders: n.checkpoints, Events: n.write, Observe: observe})
	n.group.Go("orders", n.checkpoints.Run)
	return n
}

func (n *node) seal() { n.group.Go("vault", n.vault.Run) }

func (n *node) stop() {
	n.group.Stop()
	if err := n.group.Wait(); err != nil {
		n.t.Errorf("run: %v", err)
	}
}

func (n *node) write(_ context.Context, _ string, events ...*commonv1.Event) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, events...)
	return nil
}

// told gives what the events said of a checkpoint: "STATE" or "STATE: error".
func (n *node) told(id string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var told []string
	for _, e := range n.events {
		if c := e.GetCheckpoint(); c.GetCheckpointId() == id {
			text := strings.TrimPrefix(c.State.String(), "CHECKPOINT_STATE_")
			if c.Error != "" {
				text += ": " + c.Error
			}
			told = append(told, text)
		}
	}
	return strings.Join(told, ", ")
}

// trainer is one training process.
type trainer struct {
	n       *node
	session string
	rank    uint32
	world   uint32
	got     chan *commonv1.Directive
	die     context.CancelFunc
	ended   chan struct{}
}

// stream is a watch without a socket.
type stream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // as grpc-go's own streams have it
	got chan *commonv1.Directive
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Send(out *trainerv1.WatchDirectivesResponse) error {
	if out.Directive != nil {
		s.got <- out.Directive
	}
	return nil
}

// train registers a process and watches its directives.
func (n *node) train(pid int64, attempt, rank, world uint32) *trainer {
	n.t.Helper()
	out, err := n.api.Register(n.t.Context(), &trainerv1.RegisterRequest{RunId: "run", Attempt: attempt, Rank: rank,
		Trainer: &commonv1.TrainerRegistered{WorldSize: world, Pid: pid}})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, die := context.WithCancel(context.Background())
	tr := &trainer{n: n, session: out.SessionId, rank: rank, world: world,
		got: make(chan *commonv1.Directive, 16), ended: make(chan struct{})}
	go func() {
		defer close(tr.ended)
		_ = n.api.WatchDirectives(&trainerv1.WatchDirectivesRequest{SessionId: out.SessionId}, &stream{ctx: ctx, got: tr.got})
	}()
	tr.die = func() {
		die()
		<-tr.ended
	}
	return tr
}

// save does what a directive asks for.
func (tr *trainer) save(d *commonv1.Directive) {
	tr.n.t.Helper()
	order := d.GetCheckpoint()
	begun, err := tr.n.api.BeginCheckpoint(tr.n.t.Context(), &trainerv1.BeginCheckpointRequest{
		SessionId: tr.session, CheckpointId: order.GetCheckpointId()})
	if err != nil {
		tr.n.t.Errorf("begin: %v", err)
		return
	}
	if err := os.WriteFile(filepath.Join(begun.StagingDirectory, "w"), []byte("weights"), 0o600); err != nil {
		tr.n.t.Error(err)
	}
	_, err = tr.n.api.CommitCheckpoint(tr.n.t.Context(), &trainerv1.CommitCheckpointRequest{
		SessionId: tr.session, CheckpointId: order.GetCheckpointId(), Traceparent: d.Traceparent,
		Metadata: &commonv1.CheckpointMetadata{Step: 3, WorldSize: tr.world, Rank: tr.rank, NonfiniteParameters: proto.Int64(0)}})
	if err != nil {
		tr.n.t.Errorf("commit: %v", err)
	}
}

func (tr *trainer) report(event *commonv1.Event) {
	tr.n.t.Helper()
	if _, err := tr.n.api.Report(tr.n.t.Context(), &trainerv1.ReportRequest{SessionId: tr.session, Events: []*commonv1.Event{event}}); err != nil {
		tr.n.t.Errorf("report: %v", err)
	}
}

func order(id string) *commonv1.CheckpointOrder {
	return &commonv1.CheckpointOrder{RunId: "run", CheckpointId: id,
		Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_EMERGENCY,
		After:  commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART, Failure: commonv1.FailureKind_FAILURE_KIND_NONFINITE}
}

// order gives an order of the control plane in the background.
func (n *node) order(o *commonv1.CheckpointOrder, timeout time.Duration) <-chan error {
	done := make(chan error, 1)
	go func() {
		done <- n.checkpoints.Order(context.Background(), o, "cmd-"+o.CheckpointId, "", time.Now().Add(timeout))
	}()
	return done
}
