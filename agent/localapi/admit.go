package localapi

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// maxClockOff is how far a trainer's clock may be off this node's.
const maxClockOff = 24 * time.Hour

// admits tells whether a session may say an event. Its word on a checkpoint
// counts only for one of its run, and that it failed only until it is
// committed: from then on the vault knows better. Such an event is left out and
// not refused, as it can be said in good faith when an answer was lost.
func (a *API) admits(s *Session, event *commonv1.Event) bool {
	progress := event.GetCheckpoint()
	if progress == nil {
		return true
	}
	// These are the vault's to say; the control plane knows its word by them.
	progress.SizeBytes, progress.Path, progress.ManifestSha256 = 0, "", ""
	id := progress.CheckpointId
	foreign, committed := a.deps.Checkpoints.Standing(s.RunID, id, s.Rank)
	if ordered, ok := a.deps.Orders.Lookup(id); ok && ordered.Order.GetRunId() != s.RunID {
		foreign = true
	}
	if !foreign && (!committed || progress.State != commonv1.CheckpointState_CHECKPOINT_STATE_FAILED) {
		return true
	}
	a.refused.Inc()
	a.deps.Log.Warn("leave out a trainer's word on a checkpoint: it is another run's, or committed",
		"run", s.RunID, "rank", s.Rank, "checkpoint", id, "committed", committed)
	return false
}

// clamp moves a time that cannot be true to the bound of those that can; said
// once a session. Without a time the journal gives one.
func (a *API) clamp(s *Session, event *commonv1.Event) {
	if event.Time == nil {
		return
	}
	now, at := a.deps.Clock(), event.Time.AsTime()
	earliest, latest := now.Add(-maxClockOff), now.Add(maxClockOff)
	switch {
	case event.Time.CheckValid() != nil:
		event.Time = timestamppb.New(now)
	case at.Before(earliest):
		event.Time = timestamppb.New(earliest)
	case at.After(latest):
		event.Time = timestamppb.New(latest)
	default:
		return
	}
	a.clamped.Inc()
	if a.sessions.firstClamp(s) {
		a.deps.Log.Warn("a trainer's clock is more than a day off; its events get times within a day of this node's",
			"run", s.RunID, "rank", s.Rank, "pid", s.PID, "time", at)
	}
}

func (t *Sessions) firstClamp(s *Session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := !s.clamped
	s.clamped = true
	return first
}

// learn takes from an event that is on disk what this package must know.
func (a *API) learn(s *Session, event *commonv1.Event) {
	switch body := event.Body.(type) {
	case *commonv1.Event_Step:
		a.book.stepped(s.RunID, body.Step.GetStep())
		a.sessions.finished(s, body.Step.GetStep(), event.GetTime().AsTime(), a.deps.Clock())
	case *commonv1.Event_AttemptStarted:
		a.book.launched(s.RunID, s.uid, event.Attempt, body.AttemptStarted.GetPid(), a.deps.Clock())
		if s.Kind == trainerv1.SessionKind_SESSION_KIND_SUPERVISOR {
			a.sessions.launched(s, event.Attempt, body.AttemptStarted.GetPid())
		}
	case *commonv1.Event_AttemptEnded:
		a.attempts.WithLabelValues(word(body.AttemptEnded)...).Inc()
	case *commonv1.Event_RunEnded:
		a.book.ended(s.RunID)
		a.sessions.launched(s, event.Attempt, 0)
	case *commonv1.Event_Checkpoint:
		if body.Checkpoint.GetState() == commonv1.CheckpointState_CHECKPOINT_STATE_FAILED {
			a.deps.Checkpoints.Abandon(s.RunID, body.Checkpoint.CheckpointId, s.Rank)
		}
	}
}

// word gives an attempt's end as labels: the kind of failure, and what follows.
func word(ended *commonv1.AttemptEnded) []string {
	failure, follows := "none", "end"
	if ended.GetFailure() != commonv1.FailureKind_FAILURE_KIND_UNSPECIFIED {
		failure = strings.ToLower(strings.TrimPrefix(ended.GetFailure().String(), "FAILURE_KIND_"))
	}
	if ended.GetRestarting() {
		follows = "restart"
	}
	return []string{failure, follows}
}
