package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	saveTimeout = time.Minute
	// graceTime is how much longer than the control plane agentctl waits, so
	// that the one who knows why it took too long gets to say so.
	graceTime  = 2 * time.Second
	retryWatch = 200 * time.Millisecond
)

// saveFlags are what a person says about a checkpoint.
type saveFlags struct {
	run     string
	now     bool
	wait    bool
	restart bool
	stop    bool
	timeout time.Duration
}

func checkpointCommand(a *app) *cobra.Command {
	var flags saveFlags
	cmd := &cobra.Command{
		Use:   "checkpoint --now [--run RUN] [--wait]",
		Short: "Have a run saved now",
		Long: `Checkpoint has the trainers of a run save their state at the next step boundary.
The training goes on while the checkpoint is sealed. With --wait each stage is
shown as it is reached:

  requested  the control plane has noted it
  directed   the trainer has been told
  staged     the trainer wrote its files and trains on
  durable    the files are in the vault, on stable storage
  verified   read back from there; every digest agrees`,
		Example: `  agentctl checkpoint --now --wait
  agentctl checkpoint --now --run digits-7f3a --wait --timeout 30s
  agentctl checkpoint --now --stop-after`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.checkpoint(cmd.Context(), flags) },
	}
	f := cmd.Flags()
	f.BoolVar(&flags.now, "now", false, "do it; makes sure that nobody saves a run by a slip of the fingers")
	f.StringVar(&flags.run, "run", "", "the `run`; may be left out while only one trains")
	f.BoolVar(&flags.wait, "wait", false, "show each stage, and end when it is verified or failed")
	f.BoolVar(&flags.restart, "restart-after", false, "then let the supervisor restart the run from it")
	f.BoolVar(&flags.stop, "stop-after", false, "then stop the run for good")
	f.DurationVar(&flags.timeout, "timeout", saveTimeout, "how long it may take, at most 1h")
	complete(cmd, "run", a.completeRuns)
	return cmd
}

func (a *app) checkpoint(ctx context.Context, flags saveFlags) error {
	if !flags.now {
		return fault.WithHint(fault.New(fault.Invalid, "checkpoint: say --now to have a run saved now"),
			"agentctl checkpoint --now --wait saves the run that trains; agentctl get checkpoints lists what there is")
	}
	if flags.restart && flags.stop {
		return fault.New(fault.Invalid, "checkpoint: --restart-after and --stop-after exclude each other")
	}
	request := &controlv1.RequestCheckpointRequest{RunId: flags.run, Timeout: durationpb.New(flags.timeout)}
	switch {
	case flags.restart:
		request.After = commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART
	case flags.stop:
		request.After = commonv1.AfterCheckpoint_AFTER_CHECKPOINT_STOP
	}
	var asked *controlv1.RequestCheckpointResponse
	err := a.call(ctx, "save run", func(ctx context.Context, c *client) (err error) {
		asked, err = controlv1.NewCheckpointServiceClient(c).RequestCheckpoint(ctx, request)
		return err
	})
	if err != nil {
		return err
	}
	w := &watch{app: a, id: asked.Checkpoint.CheckpointId}
	if !flags.wait {
		if !a.output.forPeople() {
			return a.document(asked, false)
		}
		if err := w.tell(&controlv1.WatchCheckpointResponse{Checkpoint: asked.Checkpoint}); err != nil {
			return err
		}
		a.note("Not waiting. See how it goes: agentctl get checkpoints --run %s", asked.Checkpoint.RunId)
		return nil
	}
	return w.wait(ctx, flags.timeout)
}

// watch follows one checkpoint.
type watch struct {
	app   *app
	id    string
	last  *controlv1.Checkpoint
	shown map[commonv1.CheckpointState]bool
}

// wait shows the stages until the checkpoint is verified, and fails when it
// fails or takes too long.
func (w *watch) wait(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout+graceTime)
	defer cancel()
	err := w.app.stream(ctx, "wait for checkpoint", func(ctx context.Context, c *client) error {
		for {
			err := w.follow(ctx, c)
			// A control plane that is restarted knows the checkpoint when it is back.
			if status.Code(err) != codes.Unavailable || w.last == nil {
				return err
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(retryWatch):
			}
		}
	})
	switch {
	case fault.Is(err, fault.Deadline) && w.last != nil:
		return fault.WithHint(
			fault.New(fault.Deadline, "save run %s: its checkpoint is %s after %v, not verified", w.last.RunId, word(w.last.State), timeout),
			"it may still come: agentctl get checkpoints --run "+w.last.RunId)
	case err != nil:
		return err
	case w.last.GetState() == commonv1.CheckpointState_CHECKPOINT_STATE_FAILED:
		return fault.WithHint(fault.New(fault.Internal, "save run %s: checkpoint failed: %s", w.last.RunId, orNone(w.last.Error)),
			"agentctl describe run "+w.last.RunId+" shows the run; agentctl get nodes shows its agents")
	}
	return nil
}

// follow shows what one stream brings.
func (w *watch) follow(ctx context.Context, c *client) error {
	stream, err := controlv1.NewCheckpointServiceClient(c).WatchCheckpoint(ctx, &controlv1.WatchCheckpointRequest{CheckpointId: w.id})
	if err != nil {
		return err
	}
	for {
		update, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.tell(update); err != nil {
			return err
		}
	}
}

// tell shows the stages that are new.
func (w *watch) tell(update *controlv1.WatchCheckpointResponse) error {
	w.last = update.Checkpoint
	return w.app.showNext(update, func(p *page) {
		if w.shown == nil {
			w.shown = map[commonv1.CheckpointState]bool{}
		}
		for i, stage := range update.Checkpoint.Stages {
			if overtook(update.Checkpoint.Stages, i) {
				return
			}
			if !w.shown[stage.State] {
				w.shown[stage.State] = true
				stageLine(p, update.Checkpoint, stage)
			}
		}
	})
}

// overtook tells whether a stage is known before the one ahead of it: what the
// vault says of a small checkpoint may come before the trainer's word that it
// was told. It is shown once that word is there, or a stage behind it.
func overtook(stages []*controlv1.StageTime, i int) bool {
	const staged, directed = commonv1.CheckpointState_CHECKPOINT_STATE_STAGED, commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED
	return i > 0 && i == len(stages)-1 && stages[i].State == staged && stages[i-1].State != directed
}
