package demo

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/site"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// tell runs the struck run and then the calm one.
func (s *stage) tell(ctx context.Context, set settings, w io.Writer) (*summary, error) {
	_, _ = fmt.Fprintf(w, "run %s: %s steps; the gradient will turn NaN at step %s\n", struckRun, thousands(set.steps), thousands(set.at))
	struck := &chapter{stage: s, w: w, run: struckRun}
	if err := struck.live(ctx, set.steps, fmt.Sprintf("nan-grad@%d", set.at)); err != nil {
		return nil, err
	}
	_, _ = fmt.Fprintf(w, "\nrun %s: the same %s steps, never disturbed\n", calmRun, thousands(set.steps))
	calm := &chapter{stage: s, w: w, run: calmRun}
	if err := calm.live(ctx, set.steps, ""); err != nil {
		return nil, err
	}
	sum := struck.sum
	all, err := controlv1.NewIncidentServiceClient(s.Conn()).ListIncidents(ctx, &controlv1.ListIncidentsRequest{})
	if err != nil {
		return nil, fmt.Errorf("list incidents: %w", fault.FromGRPC(err))
	}
	sum.Incidents = len(all.Incidents)
	sum.Run, sum.Steps = struckRun, set.steps
	sum.DigestUninterrupted = calm.sum.DigestInterrupted
	sum.Exact = sum.DigestInterrupted != "" && sum.DigestInterrupted == sum.DigestUninterrupted && sum.ResumedMS > 0
	return &sum, nil
}

// chapter is one run, seen through its events.
type chapter struct {
	stage *stage
	w     io.Writer
	run   string

	sum      summary
	struck   time.Time // when the trainer met the non-finite value
	moments  []moment
	printed  time.Time
	lastStep int64
	shown    bool
	ended    bool
}

// live runs the trainer to its end and follows its events until theirs.
func (c *chapter) live(ctx context.Context, steps int64, inject string) error {
	seen := make(chan struct{})
	group := life.NewGroup(ctx)
	group.Go("train "+c.run, func(ctx context.Context) error {
		if err := c.train(ctx, steps, inject); err != nil {
			return fmt.Errorf("train %s: %w; see %s", c.run, err, c.stage.Path(c.run+".log"))
		}
		select {
		case <-seen:
		case <-ctx.Done():
		case <-time.After(site.StartWait):
			return fault.New(fault.Deadline, "follow run %s: it ended and its end was not seen within %v", c.run, site.StartWait)
		}
		return nil
	})
	group.Go("follow "+c.run, func(ctx context.Context) error {
		defer close(seen)
		return c.follow(ctx)
	})
	return group.Wait()
}

// train runs the trainer to its end.
func (c *chapter) train(ctx context.Context, steps int64, inject string) error {
	args := []string{"--steps", strconv.FormatInt(steps, 10)}
	if inject != "" {
		args = append(args, "--inject", inject)
	}
	p, err := c.stage.Train(c.run, args...)
	if err != nil {
		return err
	}
	return p.Wait(ctx)
}

func (c *chapter) follow(ctx context.Context) error {
	if _, err := c.stage.AwaitRun(ctx, c.run, nil); err != nil {
		return err
	}
	stream, err := controlv1.NewRunServiceClient(c.stage.Conn()).WatchEvents(ctx, &controlv1.WatchEventsRequest{RunId: c.run, Follow: true})
	if err != nil {
		return fmt.Errorf("watch run %s: %w", c.run, fault.FromGRPC(err))
	}
	for !c.ended {
		got, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("watch run %s: %w", c.run, fault.FromGRPC(err))
		}
		if event := got.GetEvent().GetEvent(); event != nil {
			c.see(event)
		}
		if c.sum.ResumedMS > 0 && !c.shown {
			if err := c.show(ctx); err != nil {
				return err
			}
			c.shown = true
		}
	}
	return nil
}

// see takes in one event.
func (c *chapter) see(e *commonv1.Event) {
	at := e.Time.AsTime()
	switch body := e.Body.(type) {
	case *commonv1.Event_Step:
		c.step(e, body.Step)
	case *commonv1.Event_NonFinite:
		n := body.NonFinite
		c.struck, c.sum.NonFiniteStep = at, n.Step
		c.note(at, "stopped", fmt.Sprintf("step %s: NaN in %s, before the optimizer step", thousands(n.Step), n.Tensor))
	case *commonv1.Event_Checkpoint:
		if c.ms(at) >= 0 {
			c.checkpoint(at, body.Checkpoint)
		}
	case *commonv1.Event_AttemptStarted:
		if e.Attempt > 0 {
			c.sum.RestartedMS = c.ms(at)
			c.note(at, "restarted", fmt.Sprintf("attempt %d", e.Attempt))
		}
	case *commonv1.Event_Resumed:
		c.sum.ResumedStep = body.Resumed.Step
	case *commonv1.Event_RunEnded:
		c.sum.DigestInterrupted, c.ended = body.RunEnded.ParametersSha256, true
		_, _ = fmt.Fprintf(c.w, "  finished: %s steps, parameters sha256 %.16s...\n", thousands(body.RunEnded.Step), body.RunEnded.ParametersSha256)
	}
}

func (c *chapter) step(e *commonv1.Event, s *commonv1.StepReport) {
	at := e.Time.AsTime()
	if e.Attempt > 0 && c.sum.ResumedMS == 0 {
		c.sum.ResumedMS = c.ms(at)
		c.note(at, "resumed", fmt.Sprintf("step %s finished, from the checkpoint of step %s", thousands(s.Step), thousands(c.sum.ResumedStep)))
	}
	if since := at.Sub(c.printed); since >= time.Second {
		rate := float64(s.Step-c.lastStep) / since.Seconds()
		if c.lastStep > 0 && rate > 0 {
			_, _ = fmt.Fprintf(c.w, "  step %6s  loss %.4f  left %.4f  right %.4f  ink %.4f  %5s steps/s\n", thousands(s.Step),
				s.GetLoss(), s.TaskLosses["left"], s.TaskLosses["right"], s.TaskLosses["ink"], thousands(int64(rate)))
		}
		c.printed, c.lastStep = at, s.Step
	}
}

func (c *chapter) checkpoint(at time.Time, p *commonv1.CheckpointProgress) {
	if c.sum.CheckpointID == "" && p.Reason != commonv1.CheckpointReason_CHECKPOINT_REASON_PERIODIC {
		c.sum.CheckpointID = p.CheckpointId
	}
	if p.CheckpointId != c.sum.CheckpointID {
		return
	}
	ms := c.ms(at)
	switch p.State {
	case commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED:
		c.sum.CommandMS = ms
		c.note(at, "directed", "the trainer is told to save and restart")
	case commonv1.CheckpointState_CHECKPOINT_STATE_STAGED:
		c.sum.StagedMS = ms
		c.note(at, "staged", fmt.Sprintf("step %s, %s bytes; the trainer is free", thousands(p.Step), thousands(p.SizeBytes)))
	case commonv1.CheckpointState_CHECKPOINT_STATE_DURABLE:
		c.sum.DurableMS = ms
		c.note(at, "durable", "sealed: files and manifest are on stable storage")
	case commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED:
		c.sum.VerifiedMS = ms
		c.note(at, "verified", "every digest read back and agreed")
	}
}

// ms is the time since the strike; -1 before it.
func (c *chapter) ms(at time.Time) float64 {
	if c.struck.IsZero() || at.Before(c.struck) {
		return -1
	}
	return float64(at.Sub(c.struck).Microseconds()) / 1000
}
