package command

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	maxJobs     = 256 // commands that wait to be taken up
	defaultTime = 2 * time.Minute
	tellEvery   = time.Second // how far a long task is
)

// Config is what users say about commands.
type Config struct {
	// Path is the file that remembers which commands are done.
	Path string `yaml:"path"`
	// Remember is how many are; >= 1.
	Remember int `yaml:"remember"`
}

// Defaults remembers a thousand commands in a file.
func Defaults(path string) Config { return Config{Path: path, Remember: 1024} }

// Check reports settings that cannot work.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Path == "" {
		report("path", "is empty; name a file that remembers commands")
	}
	if c.Remember < 1 {
		report("remember", "is %d; want at least 1", c.Remember)
	}
}

// Saver has runs saved; [Checkpoints] does.
type Saver interface {
	Order(ctx context.Context, order *commonv1.CheckpointOrder, commandID, traceparent string, deadline time.Time) error
}

// Keeper does what concerns checkpoints that were saved; the vault does.
type Keeper interface {
	// Do does a task, tells how far it is, and says what came of it.
	Do(ctx context.Context, task *commonv1.CheckpointTask, progress func(done, total int64)) (detail string, err error)
	// Judge takes in that checkpoints are suspect.
	Judge(ctx context.Context, judgement *commonv1.CheckpointJudgement) error
}

// Recorder has runs profiled; [Profiles] does.
type Recorder interface {
	Record(ctx context.Context, order *commonv1.ProfileOrder, directive, traceparent string, deadline time.Time) (detail string, err error)
}

// Deps is what the executor needs of others.
type Deps struct {
	Log      *slog.Logger
	Metrics  prometheus.Registerer
	Clock    func() time.Time
	FS       durable.FS
	Saver    Saver
	Keeper   Keeper
	Recorder Recorder
	Events   EventWriter
}

// Executor does the control plane's commands, each idempotency key once. All
// methods are safe for concurrent use; Run is called once.
type Executor struct {
	deps    Deps
	results *prometheus.CounterVec
	jobs    chan job

	mu      sync.Mutex
	running map[string]bool // by idempotency key
	done    *memory
}

// job is a command that was taken up, or one that was done before and whose
// result is told again.
type job struct {
	key      string
	command  *agentv1.Command
	repeated *result
}

// New makes an executor that knows what was done before. A file that cannot be
// read is logged and begun anew: at worst a command is done twice, and those
// that there are bear it.
func New(config Config, deps Deps) *Executor {
	done, err := openMemory(config, deps.FS)
	if err != nil {
		deps.Log.Warn("read which commands are done; none is remembered", "error", err)
	}
	return &Executor{
		deps: deps, results: metric.NewCounter(deps.Metrics, metric.AgentCommands),
		jobs: make(chan job, maxJobs), running: map[string]bool{}, done: done,
	}
}

// Execute takes a command up and returns; Run does it and tells the result with
// events. One that is under way is left alone, one that is done has its result
// told again. A command without a verb that this agent knows is refused; so is
// one more than can wait, and it may be sent again.
func (e *Executor) Execute(ctx context.Context, command *agentv1.Command) {
	log := e.deps.Log.With("command", command.GetCommandId())
	runID, known := runOf(command)
	if !known {
		// Events belong to a run, and without its verb a command names none: the
		// control plane learns of this when the deadline passes.
		log.Error("refuse command: this agent does not know its verb")
		e.results.WithLabelValues("failed").Inc()
		return
	}
	if err := vault.CheckRunID(runID); err != nil || command.GetCommandId() == "" {
		log.Error("refuse command: it lacks an id or names no run", "error", err)
		e.results.WithLabelValues("failed").Inc()
		return
	}
	j, ok := e.take(command)
	if !ok {
		return
	}
	select {
	case e.jobs <- j:
	default:
		e.release(j.key)
		e.results.WithLabelValues("failed").Inc()
		e.tell(ctx, command, &commonv1.CommandResult{
			Stage: commonv1.CommandStage_COMMAND_STAGE_FAILED, Error: "the agent has too many commands waiting",
		})
	}
}

// take claims a command's key; false when it is under way.
func (e *Executor) take(command *agentv1.Command) (job, bool) {
	key := cmp.Or(command.IdempotencyKey, command.CommandId)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running[key] {
		e.results.WithLabelValues("repeated").Inc()
		return job{}, false
	}
	e.running[key] = true
	return job{key: key, command: command, repeated: e.done.find(key)}, true
}

func (e *Executor) release(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.running, key)
}

// Run does commands until ctx ends. What is under way then is not remembered:
// the control plane sends it again.
func (e *Executor) Run(ctx context.Context) error {
	group := life.NewGroup(ctx)
	for {
		select {
		case <-ctx.Done():
			return group.Wait()
		case j := <-e.jobs:
			group.Go("command "+j.command.CommandId, func(ctx context.Context) error {
				defer e.release(j.key)
				e.do(ctx, j)
				return nil
			})
		}
	}
}

func (e *Executor) do(ctx context.Context, j job) {
	if j.repeated != nil {
		e.results.WithLabelValues("repeated").Inc()
		e.tell(ctx, j.command, j.repeated.word())
		return
	}
	e.tell(ctx, j.command, &commonv1.CommandResult{Stage: commonv1.CommandStage_COMMAND_STAGE_ACCEPTED})
	deadline := e.deps.Clock().Add(defaultTime)
	if j.command.Deadline != nil {
		deadline = j.command.Deadline.AsTime()
	}
	detail, err := e.carryOut(ctx, j.command, deadline)
	if ctx.Err() != nil {
		return
	}
	r := result{Key: j.key, Stage: commonv1.CommandStage_COMMAND_STAGE_DONE, Detail: detail}
	label := "done"
	if err != nil {
		r.Stage, r.Error, label = commonv1.CommandStage_COMMAND_STAGE_FAILED, err.Error(), "failed"
	}
	e.results.WithLabelValues(label).Inc()
	e.mu.Lock()
	err = e.done.add(r)
	e.mu.Unlock()
	if err != nil {
		e.deps.Log.Warn("remember command", "command", j.command.CommandId, "error", err)
	}
	e.tell(ctx, j.command, r.word())
}

// carryOut does what a command says and gives what came of it, for a person.
func (e *Executor) carryOut(ctx context.Context, command *agentv1.Command, deadline time.Time) (string, error) {
	switch verb := command.GetVerb().(type) {
	case *agentv1.Command_CheckpointTask:
		ctx, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		last := e.deps.Clock()
		return e.deps.Keeper.Do(ctx, verb.CheckpointTask, func(done, total int64) {
			if now := e.deps.Clock(); now.Sub(last) >= tellEvery {
				last = now
				e.tell(ctx, command, &commonv1.CommandResult{
					Stage: commonv1.CommandStage_COMMAND_STAGE_RUNNING, DoneBytes: done, TotalBytes: total,
				})
			}
		})
	case *agentv1.Command_Judgement:
		return "", e.deps.Keeper.Judge(ctx, verb.Judgement)
	case *agentv1.Command_Profile:
		return e.deps.Recorder.Record(ctx, verb.Profile, command.CommandId, command.Traceparent, deadline)
	default:
		return "", e.deps.Saver.Order(ctx, command.GetCheckpoint(), command.CommandId, command.Traceparent, deadline)
	}
}

// runOf gives the run that a command is about, and false for a verb that is not
// known here.
func runOf(command *agentv1.Command) (runID string, known bool) {
	switch verb := command.GetVerb().(type) {
	case *agentv1.Command_Checkpoint:
		return verb.Checkpoint.GetRunId(), true
	case *agentv1.Command_CheckpointTask:
		return verb.CheckpointTask.GetRunId(), true
	case *agentv1.Command_Judgement:
		return verb.Judgement.GetRunId(), true
	case *agentv1.Command_Profile:
		return verb.Profile.GetRunId(), true
	}
	return "", false
}

func (e *Executor) tell(ctx context.Context, command *agentv1.Command, word *commonv1.CommandResult) {
	runID, _ := runOf(command)
	word.CommandId = command.CommandId
	event := &commonv1.Event{
		EventId: uuid.Must(uuid.NewV7()).String(), Time: timestamppb.New(e.deps.Clock()),
		RunId: runID, Traceparent: command.Traceparent,
		Body: &commonv1.Event_CommandResult{CommandResult: word},
	}
	if err := e.deps.Events(ctx, runID, event); err != nil {
		e.deps.Log.Warn("write command event", "command", command.CommandId, "stage", word.Stage, "error", err)
	}
}
