package vault

import (
	"context"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/google/uuid"

	"github.com/vigil-ml/vigil/internal/telemetry"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// tell emits a CheckpointProgress of one rank. An event that cannot be written
// does not stop the checkpoint: what is on disk counts.
func (v *Vault) tell(ctx context.Context, s *staging, state commonv1.CheckpointState, add func(*commonv1.CheckpointProgress)) {
	counted := Manifest{NonfiniteParameters: s.metadata.NonfiniteParameters}
	progress := &commonv1.CheckpointProgress{
		CheckpointId: s.CheckpointID, State: state, Metric: s.metadata.Metric,
		Health: counted.health(), Reason: s.Reason,
		Step: s.metadata.Step, SizeBytes: s.SizeBytes, CommandId: s.CommandID, Failure: s.Failure,
	}
	if add != nil {
		add(progress)
	}
	event := &commonv1.Event{
		EventId: uuid.Must(uuid.NewV7()).String(), Time: timestamppb.New(v.deps.Clock()),
		RunId: s.RunID, Attempt: s.Attempt, Rank: s.Rank, Traceparent: s.Traceparent,
		Body: &commonv1.Event_Checkpoint{Checkpoint: progress},
	}
	if s.Traceparent != "" {
		if current := telemetry.Traceparent(ctx); current != "" {
			event.Traceparent = current
		}
	}
	if err := v.deps.Events(ctx, s.RunID, event); err != nil {
		v.deps.Log.Warn("write checkpoint event", "run", s.RunID, "checkpoint", s.CheckpointID, "state", StateName(state), "error", err)
	}
	if v.deps.Observe != nil {
		v.deps.Observe(event)
	}
}

// where adds what is known once a rank's manifest is in the vault.
func (v *Vault) where(s *staging, m *Manifest, digest string) func(*commonv1.CheckpointProgress) {
	return func(p *commonv1.CheckpointProgress) {
		p.Path = v.rankDir(s.key())
		p.ManifestSha256 = digest
		p.SizeBytes = m.SizeBytes
		c := Checkpoint{ID: m.CheckpointID, Health: healthy, Ranks: map[uint32]*Manifest{}}
		c.add(m)
		c.judge(readJudgements(v.runDir(m.RunID)))
		p.Health, p.HealthReason = c.Health, c.HealthReason
	}
}

// StateName gives a state as a word for people: "verified".
func StateName(state commonv1.CheckpointState) string {
	return strings.ToLower(strings.TrimPrefix(state.String(), "CHECKPOINT_STATE_"))
}
