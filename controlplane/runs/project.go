package runs

import (
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Short names for the states.
const (
	running    = controlv1.RunState_RUN_STATE_RUNNING
	restarting = controlv1.RunState_RUN_STATE_RESTARTING
	succeeded  = controlv1.RunState_RUN_STATE_SUCCEEDED
	failed     = controlv1.RunState_RUN_STATE_FAILED
	stopped    = controlv1.RunState_RUN_STATE_STOPPED
)

// project changes a run as an event says. The run is in its latest attempt;
// late word of an earlier one only tells that the run was there.
func project(run *controlv1.Run, event *commonv1.Event, known bool) {
	run.Started = earlier(run.GetStarted(), event.GetTime())
	if !known || event.GetAttempt() > run.GetAttempt() {
		begin(run, event.GetAttempt())
	}
	if event.GetAttempt() < run.GetAttempt() {
		return
	}
	switch body := event.GetBody().(type) {
	case *commonv1.Event_TrainerRegistered:
		register(run, event, body.TrainerRegistered)
	case *commonv1.Event_Step:
		addNode(run, event.GetNode())
		if event.GetRank() == 0 && run.GetEnded() == nil {
			run.Step, run.Loss = body.Step.GetStep(), body.Step.Loss
		} else if event.GetRank() == 0 { // another node's word of the end came first
			run.Step, run.Loss = max(run.GetStep(), body.Step.GetStep()), body.Step.Loss
		}
	case *commonv1.Event_Resumed:
		if event.GetRank() == 0 {
			run.Step = body.Resumed.GetStep()
		}
	case *commonv1.Event_AttemptEnded:
		endAttempt(run, event, body.AttemptEnded)
	case *commonv1.Event_RunEnded:
		end(run, event, body.RunEnded)
	}
}

// isLaunch tells whether an event says that processes of a run begin.
func isLaunch(event *commonv1.Event) bool {
	switch event.GetBody().(type) {
	case *commonv1.Event_AttemptStarted, *commonv1.Event_TrainerRegistered:
		return true
	}
	return false
}

// relaunches tells whether an event opens a run that ended: a launch later
// than the end, whatever the number of its attempt. Its user started it again
// under the same id, or a process that was thought lost came back.
func relaunches(run *controlv1.Run, event *commonv1.Event) bool {
	return run.GetEnded() != nil && isLaunch(event) && event.GetTime().AsTime().After(run.GetEnded().AsTime())
}

// begin puts a run into an attempt. Where it trains is known only when the
// attempt's processes say so.
func begin(run *controlv1.Run, attempt uint32) {
	run.Attempt, run.State = attempt, running
	run.Nodes, run.WorldSize = nil, 0
	run.Ended, run.Explanation, run.ParametersSha256 = nil, "", ""
}

func register(run *controlv1.Run, event *commonv1.Event, body *commonv1.TrainerRegistered) {
	addNode(run, event.GetNode())
	run.WorldSize = max(run.GetWorldSize(), body.GetWorldSize())
	run.TotalSteps = max(run.GetTotalSteps(), body.GetTotalSteps())
	speaks := event.GetRank() == 0 // where ranks differ, rank 0 speaks for the run
	if body.GetName() != "" && (run.GetName() == "" || speaks) {
		run.Name = body.GetName()
	}
	if len(body.GetSettings()) > 0 && (len(run.GetSettings()) == 0 || speaks) {
		run.Settings = body.GetSettings()
	}
}

// addNode keeps the nodes sorted, so that their order does not depend on who
// spoke first.
func addNode(run *controlv1.Run, node string) {
	if i, found := slices.BinarySearch(run.GetNodes(), node); !found && node != "" {
		run.Nodes = slices.Insert(run.Nodes, i, node)
	}
}

// endAttempt takes in that a supervisor's processes ended. Without a restart
// that ends the run, unless the run's own end is known already.
func endAttempt(run *controlv1.Run, event *commonv1.Event, body *commonv1.AttemptEnded) {
	if run.GetEnded() != nil {
		return
	}
	if body.GetRestarting() {
		run.State = restarting
		return
	}
	run.State, run.Ended, run.Explanation = failed, event.GetTime(), body.GetExplanation()
	if body.ExitCode != nil && body.GetExitCode() == 0 {
		run.State = succeeded
	}
}

// end takes in that the run is over. A success of one node does not undo the
// failure of another.
func end(run *controlv1.Run, event *commonv1.Event, body *commonv1.RunEnded) {
	if run.GetParametersSha256() == "" || body.GetParametersSha256() != "" {
		run.ParametersSha256 = body.GetParametersSha256()
	}
	run.Step = max(run.GetStep(), body.GetStep())
	run.Ended = later(run.GetEnded(), event.GetTime())
	state := failed
	switch body.GetOutcome() {
	case commonv1.Outcome_OUTCOME_SUCCEEDED:
		state = succeeded
	case commonv1.Outcome_OUTCOME_STOPPED:
		state = stopped
	}
	if run.GetState() == failed && state == succeeded {
		return
	}
	run.State, run.Explanation = state, body.GetExplanation()
}

// projectAttempt changes an attempt as an event says. Of two failures that its
// nodes saw the more telling one stays: [commonv1.FailureKind] lists the causes
// before the mere symptoms.
func projectAttempt(attempt *controlv1.Attempt, event *commonv1.Event) {
	attempt.Started = earlier(attempt.GetStarted(), event.GetTime())
	switch body := event.GetBody().(type) {
	case *commonv1.Event_Resumed:
		attempt.ResumedCheckpointId, attempt.ResumedStep = body.Resumed.GetCheckpointId(), body.Resumed.GetStep()
	case *commonv1.Event_AttemptStarted:
		attempt.Asked = body.AttemptStarted.GetRecovery()
	case *commonv1.Event_RecoveryAnswer:
		attempt.Answer = body.RecoveryAnswer
	case *commonv1.Event_Phase:
		if pauses(event) {
			pause(attempt, event)
		}
	case *commonv1.Event_AttemptEnded:
		attempt.Ended = later(attempt.GetEnded(), event.GetTime())
		was, is := attempt.GetFailure(), body.AttemptEnded.GetFailure()
		if was == 0 || (is != 0 && is < was) {
			attempt.Failure, attempt.Explanation = is, body.AttemptEnded.GetExplanation()
			attempt.Evidence, attempt.Recovery = body.AttemptEnded.GetEvidence(), body.AttemptEnded.GetRecovery()
		}
	}
}

// pauses tells whether an event begins or ends a run's pause for a checkpoint.
// Ranks pause together: rank 0 speaks for all.
func pauses(event *commonv1.Event) bool {
	return event.GetRank() == 0 && event.GetPhase().GetKind() == commonv1.PhaseKind_PHASE_KIND_CHECKPOINT
}

// pause counts a pause for a checkpoint when it ends.
func pause(attempt *controlv1.Attempt, event *commonv1.Event) {
	if event.GetPhase().GetEdge() == commonv1.PhaseEdge_PHASE_EDGE_BEGIN {
		attempt.PauseBegan = event.GetTime()
		return
	}
	if attempt.GetPauseBegan() == nil {
		return
	}
	attempt.CheckpointPauses++
	attempt.CheckpointPauseSeconds += max(0, event.GetTime().AsTime().Sub(attempt.GetPauseBegan().AsTime()).Seconds())
	attempt.PauseBegan = nil
}

func earlier(a, b *timestamppb.Timestamp) *timestamppb.Timestamp {
	if a == nil || (b != nil && b.AsTime().Before(a.AsTime())) {
		return b
	}
	return a
}

func later(a, b *timestamppb.Timestamp) *timestamppb.Timestamp {
	if a == nil || (b != nil && b.AsTime().After(a.AsTime())) {
		return b
	}
	return a
}
