package main

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// begun is when the first word of a checkpoint was heard.
func begun(c *controlv1.Checkpoint) *timestamppb.Timestamp {
	if len(c.Stages) == 0 {
		return nil
	}
	return c.Stages[0].Time
}

// staged tells whether the trainer wrote the checkpoint, so that its step and
// size are known.
func staged(c *controlv1.Checkpoint) bool {
	for _, stage := range c.Stages {
		if stage.State == commonv1.CheckpointState_CHECKPOINT_STATE_STAGED {
			return true
		}
	}
	return c.SizeBytes > 0
}

// stageLine tells that a checkpoint reached a state:
//
//	staged    +11 ms  step 1412, 312.4 KB
func stageLine(p *page, c *controlv1.Checkpoint, stage *controlv1.StageTime) {
	after := since(begun(c), stage.Time)
	if stage == c.Stages[0] {
		after = "0 ms"
	}
	name := state(stage.State)
	name.text = fmt.Sprintf("%-9s", name.text)
	p.write("%s  %9s  ", p.paint(name), after)
	switch stage.State {
	case commonv1.CheckpointState_CHECKPOINT_STATE_REQUESTED:
		p.write("run %s  checkpoint %s", c.RunId, c.CheckpointId)
	case commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED:
		p.write("trainer has it")
	case commonv1.CheckpointState_CHECKPOINT_STATE_STAGED:
		p.write("step %d, %s", c.Step, size(c.SizeBytes))
	case commonv1.CheckpointState_CHECKPOINT_STATE_DURABLE:
		p.write("%s", orNone(c.Path))
	case commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED:
		p.write("sha256 %s  %s", orNone(short(c.ManifestSha256)), p.paint(state(c.Health)))
	case commonv1.CheckpointState_CHECKPOINT_STATE_FAILED:
		p.write("%s", orNone(c.Error))
	}
	p.write("\n")
}

// stageTable lists a run's checkpoints with how long each stage took to come.
func stageTable(p *page, now time.Time, checkpoints []*controlv1.Checkpoint) {
	var rows [][]cell
	for _, c := range checkpoints {
		rows = append(rows, []cell{
			{c.CheckpointId, faint}, stepOf(c), sizeOf(c), {text: word(c.Reason)},
			state(c.State), state(c.Health), {text: clock(now, begun(c))},
			reached(c, commonv1.CheckpointState_CHECKPOINT_STATE_STAGED),
			reached(c, commonv1.CheckpointState_CHECKPOINT_STATE_DURABLE),
			reached(c, commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED),
		})
	}
	p.table(2, []column{
		{head: "CHECKPOINT", wide: true}, {head: "STEP", right: true}, {head: "SIZE", right: true}, {head: "REASON"},
		{head: "STATE"}, {head: "HEALTH"}, {head: "BEGUN"},
		{head: "STAGED", right: true}, {head: "DURABLE", right: true}, {head: "VERIFIED", right: true},
	}, rows)
	for _, c := range checkpoints {
		if c.Error != "" {
			p.text(2, cell{c.CheckpointId + " failed: " + c.Error, bad})
		}
	}
}

// reached is when a checkpoint reached a state, from its beginning on.
func reached(c *controlv1.Checkpoint, want commonv1.CheckpointState) cell {
	for _, stage := range c.Stages {
		if stage.State == want {
			return cell{text: since(begun(c), stage.Time)}
		}
	}
	return cell{text: none}
}
