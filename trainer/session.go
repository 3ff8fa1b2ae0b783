package trainer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/scratch"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// closeTimeout bounds Close when its context has no deadline.
const closeTimeout = 3 * time.Second

// Session is a process' connection with the agent on its node. Make one with
// Connect and end it with Close. All methods are safe for concurrent use.
type Session struct {
	config  Config
	deps    Deps
	attempt atomic.Uint32
	queue   *queue
	orders  *mailbox
	link    *link
	urgent  chan struct{} // holds a token when something must be sent now
	doubted chan string   // holds a session that the agent may not know any more

	group *life.Group
	files *scratch.Writer // of checkpoints
	step  atomic.Int64    // the last step reported or resumed from; unknownStep: none

	standing standing // what a supervisor is told
	recorder *recorder

	// Nil without a socket.
	conn   *grpc.ClientConn
	client trainerv1.TrainerServiceClient

	over      chan struct{} // closed when the agent is not looked for any more
	closing   atomic.Bool
	flushed   chan struct{} // closed by allSent, after closing was set
	allSent   func()
	ended     atomic.Bool // RunEnded was reported
	closeOnce sync.Once
	closeErr  error
}

// Connect opens a session. It waits Config.ConnectTimeout at most for the
// agent and succeeds without one: the session goes on trying until Close,
// whatever becomes of ctx. It fails with fault.Invalid when the configuration
// is wrong.
func Connect(ctx context.Context, config Config, deps Deps) (*Session, error) {
	config, err := config.filled()
	if err != nil {
		return nil, err
	}
	s := &Session{
		config: config, deps: deps.filled(),
		queue: newQueue(config.QueueSteps), orders: newMailbox(), link: newLink(), recorder: newRecorder(),
		urgent: make(chan struct{}, 1), doubted: make(chan string, 1),
		flushed: make(chan struct{}), over: make(chan struct{}), files: scratch.NewWriter(),
	}
	s.allSent = sync.OnceFunc(func() { close(s.flushed) })
	s.attempt.Store(config.Attempt)
	s.step.Store(unknownStep)
	s.group = life.NewGroup(context.WithoutCancel(ctx))
	if config.ExitFile != "" && s.watches() {
		s.group.Go("progress file", s.keepProgress)
	}
	if config.Socket == "" {
		level := slog.LevelInfo
		if s.Supervised() {
			level = slog.LevelDebug // the supervisor says it
		}
		s.deps.Log.Log(ctx, level, "no agent: training is not watched and not saved", "hint", "set VIGIL_SOCKET")
		return s, nil
	}
	s.conn, err = grpc.NewClient("unix:"+config.Socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("open socket %s: %w", config.Socket, err)
	}
	s.client = trainerv1.NewTrainerServiceClient(s.conn)
	tried := make(chan struct{})
	s.group.Go("agent connection", func(ctx context.Context) error { return s.keepConnected(ctx, tried) })

	ctx, cancel := context.WithTimeout(ctx, config.ConnectTimeout)
	defer cancel()
	select {
	case <-tried:
	case <-ctx.Done():
	}
	return s, nil
}

// Connected tells whether the agent answers at the moment.
func (s *Session) Connected() bool {
	id, _ := s.link.state()
	return id != ""
}

// HasAgent tells whether there is meant to be an agent at all.
func (s *Session) HasAgent() bool { return s.client != nil }

// Supervised tells whether somebody reads the exit report.
func (s *Session) Supervised() bool { return s.config.ExitFile != "" }

// Attempt gives the launch that events are reported for, counted from 0.
func (s *Session) Attempt() uint32 { return s.attempt.Load() }

// SetAttempt makes later events belong to another launch: a supervisor has one
// session for all of them.
func (s *Session) SetAttempt(attempt uint32) { s.attempt.Store(attempt) }

// NextAttempt gives the first launch that the agent has not seen of the run,
// for a supervisor; 0 when it has seen none or did not answer yet.
func (s *Session) NextAttempt() uint32 { return s.link.nextAttempt() }

// Step reports an optimizer step. It never blocks and never fails: the report
// is copied and sent in the background.
func (s *Session) Step(report StepReport) {
	s.step.Store(report.Step)
	s.standing.step(report.Step, report.GPUBytes)
	if s.client == nil {
		return
	}
	s.queue.putStep(s.deps.Clock(), &report)
	s.recorder.stepped(report.Step)
}

// Report sends an event at once, in the background. Where they are empty it
// fills in run, attempt, rank and time; id and node are not the caller's. The
// caller must not change the event afterwards.
func (s *Session) Report(event *commonv1.Event) {
	if s.client == nil {
		return
	}
	s.stamp(event, s.deps.Clock())
	s.queue.putEvent(event)
	select {
	case s.urgent <- struct{}{}:
	default: // a token is there already
	}
}

// Close answers the orders that were not carried out, sends what waits and
// ends the session. It takes as long as ctx has, three seconds at most when
// ctx has no deadline, and no time when no agent was ever met. It fails with
// fault.Unavailable when not all could be sent. Closing again gives the first
// result.
func (s *Session) Close(ctx context.Context) error {
	s.closeOnce.Do(func() { s.closeErr = errors.Join(s.close(ctx), s.files.Close()) })
	return s.closeErr
}

func (s *Session) close(ctx context.Context) error {
	if s.client == nil {
		s.group.Stop()
		return s.group.Wait()
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, closeTimeout)
		defer cancel()
	}
	for order := s.orders.take(anyOrder); order != nil; order = s.orders.take(anyOrder) {
		s.failed(order, order.CheckpointID, "the process ended before it could save")
	}
	s.recorder.close(ctx)
	s.closing.Store(true)
	select {
	case s.urgent <- struct{}{}:
	default:
	}
	complete := s.waitFlushed(ctx)
	s.group.Stop()
	err := s.group.Wait()
	_ = s.conn.Close()
	if err != nil {
		return fmt.Errorf("close session: %w", err)
	}
	if !complete {
		return fault.New(fault.Unavailable, "close session: the agent at %s did not take all that was to be reported", s.config.Socket)
	}
	if s.ended.Load() && s.Supervised() {
		return s.WriteExit(commonv1.FailureKind_FAILURE_KIND_UNSPECIFIED, "the run ended and the agent knows it", "", true)
	}
	return nil
}

// waitFlushed waits until all is sent; it does not wait for an agent that
// never was.
func (s *Session) waitFlushed(ctx context.Context) bool {
	if !s.Connected() && s.link.patience() == 0 {
		return s.queue.empty()
	}
	select {
	case <-s.flushed:
		return true
	case <-s.over:
		return s.queue.empty()
	case <-ctx.Done():
		return false
	}
}

// registration is what the process says of itself.
func (s *Session) registration() *trainerv1.RegisterRequest {
	r := &trainerv1.RegisterRequest{
		RunId: s.config.RunID, Attempt: s.attempt.Load(), Rank: s.config.Rank, Kind: s.config.Kind,
	}
	if s.watches() {
		r.Trainer = &commonv1.TrainerRegistered{
			WorldSize: s.config.WorldSize, Pid: int64(os.Getpid()), Framework: s.config.Framework,
			Name: s.config.Name, Settings: s.config.Settings, TotalSteps: s.config.TotalSteps,
		}
	}
	return r
}

// watches tells whether the session gets directives.
func (s *Session) watches() bool {
	return s.config.Kind != trainerv1.SessionKind_SESSION_KIND_SUPERVISOR
}
