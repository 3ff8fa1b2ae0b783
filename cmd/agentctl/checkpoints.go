package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const listCheckpoints = "agentctl checkpoints ls lists the checkpoints"

func checkpointsCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "checkpoints",
		Short: "Look after the checkpoints that were saved",
		Long: `Checkpoints lists what was saved and has the agent that has it verify, keep,
remove or write it out. What takes a while shows how far it is.`,
		Example: `  agentctl checkpoints ls --run digits-7f3a
  agentctl checkpoints show 0198c0de-0000-7000-8000-000000000001
  agentctl checkpoints verify 0198c0de-0000-7000-8000-000000000001
  agentctl checkpoints pin 0198c0de-0000-7000-8000-000000000001 -m "the paper's table 2"`,
		Args: cobra.ArbitraryArgs,
		RunE: needsSubcommand,
	}
	cmd.AddCommand(checkpointsList(a), checkpointsShow(a), checkpointsVerify(a), checkpointsPin(a),
		checkpointsRemove(a), checkpointsRestore(a), checkpointsExport(a))
	return cmd
}

func checkpointsList(a *app) *cobra.Command {
	var flags listFlags
	var removed bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List them, the newest first, with why each is kept",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "checkpoints ls", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewCheckpointServiceClient(c).ListCheckpoints(ctx,
					&controlv1.ListCheckpointsRequest{RunId: flags.run, Limit: flags.limit})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.keptTable(p, out.Checkpoints, removed) })
			})
		},
	}
	flags.limitFlag(cmd)
	flags.runFlag(a, cmd, "only those of this `run`")
	cmd.Flags().BoolVar(&removed, "removed", false, "also those that were removed")
	return cmd
}

func (a *app) keptTable(p *page, checkpoints []*controlv1.Checkpoint, removed bool) {
	var rows [][]cell
	for _, c := range checkpoints {
		if c.GetRemoved() != nil && !removed {
			continue
		}
		rows = append(rows, []cell{
			{text: c.CheckpointId}, {text: c.RunId}, where(c), state(c.Health), stepOf(c), sizeOf(c),
			{text: age(time.Now(), begun(c))}, {text: orNone(keptBecause(c))}, {text: orNone(c.HealthReason)}, {text: metricOf(c)}, {text: orNone(c.Node)},
		})
	}
	if len(rows) == 0 {
		a.note("No checkpoints yet. Make one: agentctl checkpoint --now --wait")
		return
	}
	p.table(0, []column{
		{head: "CHECKPOINT"}, {head: "RUN"}, {head: "STATE"}, {head: "HEALTH"}, {head: "STEP", right: true}, {head: "SIZE", right: true},
		{head: "AGE", right: true}, {head: "KEPT BECAUSE"}, {head: "HEALTH BECAUSE", wide: true}, {head: "METRIC", right: true, wide: true}, {head: "NODE", wide: true},
	}, rows)
}

// where is a checkpoint's state, or that it is gone.
func where(c *controlv1.Checkpoint) cell {
	if c.GetRemoved() != nil {
		return cell{"removed", faint}
	}
	return state(c.State)
}

func keptBecause(c *controlv1.Checkpoint) string {
	reasons := c.GetKeepReasons()
	if c.GetPinned() && !strings.Contains(strings.Join(reasons, "; "), "pinned") {
		reasons = append([]string{"pinned"}, reasons...)
	}
	return strings.Join(reasons, "; ")
}

func metricOf(c *controlv1.Checkpoint) string {
	if c.Metric == nil {
		return none
	}
	return fmt.Sprintf("%g", c.GetMetric())
}

func checkpointsShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show CHECKPOINT",
		Short: "Show one: states, health, why it is kept, what was done with it",
		Args:  oneArg("checkpoint", listCheckpoints),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), "checkpoints show", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewCheckpointTaskServiceClient(c).GetCheckpoint(ctx, &controlv1.GetCheckpointRequest{CheckpointId: args[0]})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { checkpointPage(p, time.Now(), out) })
			})
		},
	}
}

func checkpointPage(p *page, now time.Time, out *controlv1.GetCheckpointResponse) {
	c := out.Checkpoint
	p.line(cell{c.CheckpointId, strong}, where(c), state(c.Health))
	fact(p, "run", c.RunId)
	if staged(c) {
		fact(p, "step", fmt.Sprint(c.Step))
		fact(p, "size", size(c.SizeBytes))
	}
	fact(p, "reason", word(c.Reason))
	for _, f := range [][2]string{
		{"health", c.HealthReason}, {"kept", keptBecause(c)}, {"node", c.Node}, {"path", c.Path},
		{"manifest", c.ManifestSha256}, {"failed", c.Error},
	} {
		if f[1] != "" {
			fact(p, f[0], f[1])
		}
	}
	if c.Metric != nil {
		fact(p, "metric", metricOf(c))
	}
	if c.GetRemoved() != nil {
		fact(p, "removed", clock(now, c.Removed))
	}
	p.section("States")
	for _, stage := range c.Stages {
		p.write("  ")
		stageLine(p, c, stage)
	}
	if len(out.Tasks) == 0 {
		return
	}
	p.section("Done with it")
	var rows [][]cell
	for _, t := range out.Tasks {
		what := t.GetDetail()
		if t.GetError() != "" {
			what = t.GetError()
		}
		rows = append(rows, []cell{{text: clock(now, t.Created)}, {text: word(t.Action)}, state(t.State), {text: orNone(t.Reason)}, {text: orNone(what)}})
	}
	p.table(2, []column{{head: "ASKED"}, {head: "ACTION"}, {head: "STATE"}, {head: "WHY"}, {head: "RESULT"}}, rows)
}

// askTask asks for a task.
type askTask func(ctx context.Context, c controlv1.CheckpointTaskServiceClient, checkpointID string) (*controlv1.CheckpointTask, error)

// taskCommand is a command that has an agent do something with one checkpoint.
func taskCommand(a *app, use, short, long string, ask askTask) *cobra.Command {
	return &cobra.Command{
		Use: use + " CHECKPOINT", Short: short, Long: long,
		Args: oneArg("checkpoint", listCheckpoints),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.task(cmd.Context(), "checkpoints "+use, args[0], ask)
		},
	}
}

func checkpointsVerify(a *app) *cobra.Command {
	return taskCommand(a, "verify", "Read every byte back and compare it with its digest", "",
		func(ctx context.Context, c controlv1.CheckpointTaskServiceClient, id string) (*controlv1.CheckpointTask, error) {
			out, err := c.VerifyCheckpoint(ctx, &controlv1.VerifyCheckpointRequest{CheckpointId: id})
			return out.GetTask(), err
		})
}

func checkpointsPin(a *app) *cobra.Command {
	var reason string
	var unpin bool
	cmd := taskCommand(a, "pin", "Keep it, whatever the retention policy says", "",
		func(ctx context.Context, c controlv1.CheckpointTaskServiceClient, id string) (*controlv1.CheckpointTask, error) {
			out, err := c.PinCheckpoint(ctx, &controlv1.PinCheckpointRequest{CheckpointId: id, Unpin: unpin, Reason: reason})
			return out.GetTask(), err
		})
	cmd.Flags().BoolVar(&unpin, "remove", false, "leave it to the retention policy again")
	cmd.Flags().StringVarP(&reason, "message", "m", "", "`why`")
	return cmd
}

func checkpointsRemove(a *app) *cobra.Command {
	var reason string
	cmd := taskCommand(a, "rm", "Remove it",
		"Rm removes a checkpoint. The last verified healthy one of a run is never removed, nor\none that is pinned or that training goes on from.",
		func(ctx context.Context, c controlv1.CheckpointTaskServiceClient, id string) (*controlv1.CheckpointTask, error) {
			out, err := c.RemoveCheckpoint(ctx, &controlv1.RemoveCheckpointRequest{CheckpointId: id, Reason: reason})
			return out.GetTask(), err
		})
	cmd.Flags().StringVarP(&reason, "message", "m", "", "`why`")
	return cmd
}

func checkpointsRestore(a *app) *cobra.Command {
	return taskCommand(a, "restore", "Write its files, as the trainer wrote them, into a directory on its node", "",
		func(ctx context.Context, c controlv1.CheckpointTaskServiceClient, id string) (*controlv1.CheckpointTask, error) {
			out, err := c.RestoreCheckpoint(ctx, &controlv1.RestoreCheckpointRequest{CheckpointId: id})
			return out.GetTask(), err
		})
}

func checkpointsExport(a *app) *cobra.Command {
	return taskCommand(a, "export", "The same as one tar file", "",
		func(ctx context.Context, c controlv1.CheckpointTaskServiceClient, id string) (*controlv1.CheckpointTask, error) {
			out, err := c.RestoreCheckpoint(ctx, &controlv1.RestoreCheckpointRequest{CheckpointId: id, Archive: true})
			return out.GetTask(), err
		})
}

// task asks for a task and shows how far it is until it has ended.
func (a *app) task(ctx context.Context, what, checkpointID string, ask askTask) error {
	var task *controlv1.CheckpointTask
	err := a.call(ctx, what, func(ctx context.Context, c *client) (err error) {
		task, err = ask(ctx, controlv1.NewCheckpointTaskServiceClient(c), checkpointID)
		return err
	})
	if err != nil {
		return err
	}
	if err := a.follow(ctx, what, &task); err != nil {
		return err
	}
	if task.GetError() != "" {
		return fault.WithHint(fault.New(fault.Internal, "%s: %s", what, task.GetError()), "agentctl checkpoints show "+checkpointID)
	}
	return nil
}

// follow shows how far a task is until it has ended.
func (a *app) follow(ctx context.Context, what string, of **controlv1.CheckpointTask) error {
	task, shown := *of, ""
	return a.stream(ctx, what, func(ctx context.Context, c *client) error {
		stream, err := controlv1.NewCheckpointTaskServiceClient(c).WatchCheckpointTask(ctx, &controlv1.WatchCheckpointTaskRequest{TaskId: task.TaskId})
		if err != nil {
			return err
		}
		for task.GetEnded() == nil {
			update, err := stream.Recv()
			if err != nil {
				return err
			}
			task, *of = update.Task, update.Task
			err = a.showNext(update, func(p *page) {
				if line := taskLine(task); line != shown {
					shown = line
					p.write("%s\n", line)
				}
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// taskLine says how far a task is.
func taskLine(t *controlv1.CheckpointTask) string {
	line := fmt.Sprintf("%-8s  %s on %s", word(t.State), word(t.Action), t.Node)
	switch {
	case t.GetDetail() != "":
		return fmt.Sprintf("%-8s  %s", word(t.State), t.Detail)
	case t.GetTotalBytes() > 0 && t.GetEnded() == nil && ofKeys(t):
		return fmt.Sprintf("%s  %d of %d ranks of checkpoints", line, t.DoneBytes, t.TotalBytes)
	case t.GetTotalBytes() > 0 && t.GetEnded() == nil:
		return fmt.Sprintf("%s  %s of %s  %.0f %%", line, size(t.DoneBytes), size(t.TotalBytes), 100*float64(t.DoneBytes)/float64(t.TotalBytes))
	}
	return line
}
