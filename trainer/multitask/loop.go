package multitask

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/life"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/inject"
)

const (
	// How long the agent is waited for before the first step. A first attempt
	// may begin from nothing; a later one would throw away what was saved.
	firstResumeWait = 3 * time.Second
	laterResumeWait = 2 * time.Minute

	saveTimeout     = 30 * time.Second // for a checkpoint that somebody asked for
	periodicTimeout = 10 * time.Second // for one of the schedule, which may be missed
	agentPatience   = time.Second      // training does not stand still longer for an absent agent
	divergeFactor   = 3000             // of the learning rate, for an injected divergence
)

// LoopConfig is what one training run does.
type LoopConfig struct {
	Training        Config
	Steps           int64         // steps to make in all; at least 1
	CheckpointEvery int64         // steps between the run's own checkpoints; 0: none but the last
	EvaluateEvery   int64         // steps between evaluations on held-out data; 0: none but the last
	RestartEvery    int64         // steps from one restart of the learning rate to the next; 0: it is constant
	Pace            time.Duration // a step takes at least this long; 0: as fast as it goes
	Faults          inject.Plan
	// Epochs, unless 0, takes the place of Steps: as many steps as consume the
	// samples to train on so often. SaveEveryEpochs does of CheckpointEvery.
	Epochs, SaveEveryEpochs int64
	// SaveTo is a file that the model is written to when all steps are made; empty:
	// none is.
	SaveTo string
	// IgnoreNonFinite has steps applied whose values are not finite.
	IgnoreNonFinite bool
}

// LoopDeps is what code injects.
type LoopDeps struct {
	Session *trainer.Session
	Log     *slog.Logger
	Out     io.Writer        // progress, for a person
	SaveNow <-chan os.Signal // save and go on; may be nil
	// Training is what New makes of LoopConfig.Training; nil: Run makes it.
	Training *Training
}

// Interrupted is the error of a run that ended before its last step because it
// was to: the process exits with protocol.RestartExitCode.
type Interrupted struct {
	Failure      commonv1.FailureKind
	Explanation  string // one sentence
	CheckpointID string // what was saved; empty when nothing was
	Stop         bool   // not to be restarted
}

// Error is the explanation.
func (i *Interrupted) Error() string { return i.Explanation }

// loop is one run of the reference trainer.
type loop struct {
	config   LoopConfig
	deps     LoopDeps
	training *Training
	progress *progress
	savedAt  int64 // steps of the last state that is saved; -1: none is
	missed   bool  // the absence of an agent at a scheduled checkpoint was said
	scored   Point // the last evaluation; of step -1: there was none

	rateScale float64 // of the learning rate, as recovery asks
	skipped   bool    // the batches that recovery wants left out are
	tasks     []trainer.Task
}

func newLoop(config LoopConfig, deps LoopDeps, training *Training) *loop {
	l := &loop{config: config, deps: deps, training: training, savedAt: -1, scored: Point{Step: -1}}
	for _, task := range training.Tasks() {
		l.tasks = append(l.tasks, trainer.Task{Name: task.Name})
	}
	return l
}

// Run trains until the last step, an order to end, or the end of ctx, at which
// it saves and stops. It gives nil when all steps are made, *Interrupted when
// it was to end before, and any other error when it cannot train. It does not
// close the session.
func Run(ctx context.Context, config LoopConfig, deps LoopDeps) error {
	training := deps.Training
	if training == nil {
		var err error
		if training, err = New(config.Training); err != nil {
			return err
		}
	}
	config.Steps = training.StepsOf(config.Steps, config.Epochs)
	config.CheckpointEvery = training.StepsOf(config.CheckpointEvery, config.SaveEveryEpochs)
	if err := config.check(); err != nil {
		return err
	}
	group := life.NewGroup(context.WithoutCancel(ctx))
	defer func() { _ = group.Wait() }() // making batches does not fail
	defer training.Work(group)()
	l := newLoop(config, deps, training)
	if err := l.resume(ctx); err != nil {
		return err
	}
	l.recover()
	l.progress = newProgress(deps.Out, training, config.Steps)
	err := l.train(ctx)
	if interrupted, ok := errors.AsType[*Interrupted](err); ok {
		return l.interrupted(interrupted)
	}
	return err
}

// train makes the steps.
func (l *loop) train(ctx context.Context) error {
	for l.training.Step() < l.config.Steps && !l.training.Stopped() {
		if err := l.boundary(ctx); err != nil {
			return err
		}
		started := time.Now()
		l.skip(l.training.Step() + 1)
		if err := l.step(ctx, l.training.Step()+1, started); err != nil {
			return err
		}
		l.evaluate() // before a checkpoint, which then knows of it
		l.periodic(ctx)
		if rest := l.config.Pace - time.Since(started); rest > 0 {
			life.Sleep(ctx, rest)
		}
	}
	err := l.keep()
	l.finish(ctx, err)
	return err
}

// step makes one step, or stops before its update when a value is not finite.
func (l *loop) step(ctx context.Context, step int64, started time.Time) error {
	attempt, rateScale := l.deps.Session.Attempt(), l.rate(step)*l.rateScale
	if l.config.Faults.At(inject.Kill, attempt, step) {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	if l.config.Faults.At(inject.Hang, attempt, step) {
		select {} // deaf on purpose: a real hang does not look at contexts
	}
	if l.config.Faults.At(inject.NaNGradient, attempt, step) {
		l.training.Poison()
	}
	if l.config.Faults.From(inject.Diverge, attempt, step) {
		rateScale *= divergeFactor
	}
	outcome := l.training.Compute()
	if what := l.training.NonFinite(outcome); what != nil && !l.config.IgnoreNonFinite {
		return l.nonFinite(ctx, what)
	}
	health := l.training.applyMeasured(rateScale)
	if l.config.Faults.At(inject.NaNParameter, attempt, step) {
		l.training.PoisonParameter()
	}
	elapsed := time.Since(started)
	l.progress.step(step, outcome)
	for i := range l.tasks {
		l.tasks[i].Loss, l.tasks[i].Weight = trainer.Known(outcome.Losses[i]), trainer.Known(outcome.Weights[i])
	}
	config := l.training.Config()
	l.deps.Session.Step(trainer.StepReport{
		Step: step, Loss: trainer.Known(outcome.Losses.Total()), Tasks: l.tasks, GradientCosine: outcome.Cosine,
		GradientNorm: trainer.Known(outcome.GradientNorm),
		LearningRate: trainer.Known(config.LearningRate * rateScale),
		Samples:      trainer.Known(int64(config.Batch * config.Accumulate)),
		StepTime:     trainer.Known(elapsed), ComputeTime: trainer.Known(elapsed),
		ResidentBytes: l.progress.residentBytes(),
		UpdateRatio:   health.updateRatio, ParameterNorm: health.parameterNorm, Layers: health.layers,
	})
	return nil
}

// nonFinite reports what was met, does what is ordered, and ends the process'
// work: the state that the last good step left is what is saved.
func (l *loop) nonFinite(ctx context.Context, what *commonv1.NonFinite) error {
	l.deps.Log.Error("a value is not finite; the step is not applied", "step", what.GetStep(), "tensor", what.GetTensor(),
		"nan", what.GetNanCount(), "infinite", what.GetInfCount())
	order := l.deps.Session.NonFinite(ctx, what)
	return l.saveAndEnd(ctx, order, &Interrupted{
		Failure: commonv1.FailureKind_FAILURE_KIND_NONFINITE,
		Explanation: fmt.Sprintf("step %d: %s has %d NaN and %d infinite values",
			what.GetStep(), what.GetTensor(), what.GetNanCount(), what.GetInfCount()),
	})
}

// boundary carries out what is asked for between two steps.
func (l *loop) boundary(ctx context.Context) error {
	for order := l.deps.Session.PendingOrder(); order != nil; order = l.deps.Session.PendingOrder() {
		if !order.Ends() {
			l.save(ctx, order, saveTimeout)
			continue
		}
		failure := order.Failure
		if order.Reason == commonv1.CheckpointReason_CHECKPOINT_REASON_PREEMPTION {
			failure = commonv1.FailureKind_FAILURE_KIND_PREEMPTED
		}
		return l.saveAndEnd(ctx, order, &Interrupted{
			Failure: failure, Explanation: fmt.Sprintf("step %d: told to save and end", l.training.Step()),
		})
	}
	select {
	case <-ctx.Done():
		order := trainer.Own(commonv1.CheckpointReason_CHECKPOINT_REASON_PREEMPTION, commonv1.AfterCheckpoint_AFTER_CHECKPOINT_STOP)
		return l.saveAndEnd(ctx, order, &Interrupted{
			Failure:     commonv1.FailureKind_FAILURE_KIND_PREEMPTED,
			Explanation: fmt.Sprintf("step %d: told to stop by a signal", l.training.Step()),
		})
	case <-l.deps.SaveNow:
		l.save(ctx, trainer.Own(commonv1.CheckpointReason_CHECKPOINT_REASON_PREEMPTION,
			commonv1.AfterCheckpoint_AFTER_CHECKPOINT_CONTINUE), saveTimeout)
	default:
	}
	return nil
}

// periodic makes the checkpoint of the schedule when it is due. One that falls
// into an absence of the agent is missed: training does not wait.
func (l *loop) periodic(ctx context.Context) {
	step := l.training.Step()
	if l.config.CheckpointEvery == 0 || step%l.config.CheckpointEvery != 0 || step == l.config.Steps {
		return
	}
	if !l.deps.Session.Connected() {
		if l.deps.Session.HasAgent() && !l.missed {
			l.deps.Log.Warn("scheduled checkpoints are missed while the agent is away", "step", step)
		}
		l.missed = true
		return
	}
	l.missed = false
	l.save(ctx, trainer.Own(commonv1.CheckpointReason_CHECKPOINT_REASON_PERIODIC, commonv1.AfterCheckpoint_AFTER_CHECKPOINT_CONTINUE), periodicTimeout)
}

// saveAndEnd saves as ordered and gives the error to end with.
func (l *loop) saveAndEnd(ctx context.Context, order *trainer.Order, why *Interrupted) error {
	why.Stop = order.Stops()
	why.CheckpointID = l.save(ctx, order, saveTimeout)
	return why
}

// save makes a checkpoint and gives its id, or "" after saying that it could
// not: a save that fails is no reason to end. A process that is told to stop
// still saves, so the end of ctx does not count.
func (l *loop) save(ctx context.Context, order *trainer.Order, timeout time.Duration) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if !order.Deadline.IsZero() {
		var end context.CancelFunc
		ctx, end = context.WithDeadline(ctx, order.Deadline)
		defer end()
	}
	metadata := &commonv1.CheckpointMetadata{
		Step: l.training.Step(), DataPosition: l.training.DataPosition(), Format: Format, Exact: true,
		NonfiniteParameters: proto.Int64(l.training.NonFiniteParameters()),
	}
	if order.Failure != commonv1.FailureKind_FAILURE_KIND_NONFINITE {
		// After a failure there is no training to hold up, and nothing better
		// to do than to wait.
		order.Patience = agentPatience
	}
	defer l.deps.Session.Phase(commonv1.PhaseKind_PHASE_KIND_CHECKPOINT)()
	id, err := l.deps.Session.Save(ctx, order, metadata, l.write)
	if err != nil {
		l.deps.Log.Error("nothing was saved", "step", l.training.Step(), "reason", word(order.Reason), "cause", err)
		return ""
	}
	l.savedAt = l.training.Step()
	l.deps.Log.Info("saved", "step", l.training.Step(), "checkpoint", id, "reason", word(order.Reason))
	return id
}

// word gives a reason as people read it.
func word(reason commonv1.CheckpointReason) string {
	return strings.ToLower(strings.TrimPrefix(reason.String(), "CHECKPOINT_REASON_"))
}

func (l *loop) write(dir string) error {
	state, err := l.training.State()
	if err != nil {
		return err
	}
	if err := l.deps.Session.WriteFile(dir, StateFile, state); err != nil {
		return fmt.Errorf("write training state: %w", err)
	}
	return nil
}
