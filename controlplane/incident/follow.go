package incident

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// follow writes into the run's open incidents what the event means for them.
func (e *Engine) follow(ctx context.Context, tx *store.Tx, event *commonv1.Event) error {
	switch body := event.GetBody().(type) {
	case *commonv1.Event_Checkpoint:
		return e.checkpoint(tx, body.Checkpoint)
	case *commonv1.Event_Step:
		return e.step(ctx, tx, event, body.Step)
	case *commonv1.Event_Resumed:
		return e.note(tx, event, fmt.Sprintf("Attempt %d goes on from checkpoint %s of step %d.",
			event.GetAttempt(), body.Resumed.GetCheckpointId(), body.Resumed.GetStep()))
	case *commonv1.Event_AttemptEnded:
		if err := e.note(tx, event, ended(event.GetAttempt(), body.AttemptEnded)); err != nil {
			return err
		}
		return e.runEnded(ctx, tx, event)
	case *commonv1.Event_RunEnded:
		return e.runEnded(ctx, tx, event)
	case *commonv1.Event_CheckpointChanged:
		return e.judged(tx, event, body.CheckpointChanged)
	}
	return nil
}

// judged notes that a checkpoint is not to be trusted any more in the incidents
// of its run: why a restart goes on from an earlier one.
func (e *Engine) judged(tx *store.Tx, event *commonv1.Event, c *commonv1.CheckpointChanged) error {
	if c.GetChange() != commonv1.CheckpointChange_CHECKPOINT_CHANGE_JUDGED || c.GetHealth() < commonv1.CheckpointHealth_CHECKPOINT_HEALTH_SUSPECT {
		return nil
	}
	open, err := tx.OpenIncidents(event.GetRunId())
	if err != nil {
		return err
	}
	word := strings.ToLower(strings.TrimPrefix(c.GetHealth().String(), "CHECKPOINT_HEALTH_"))
	text := fmt.Sprintf("Checkpoint %s of step %d is %s.", c.GetCheckpointId(), c.GetStep(), word)
	for _, record := range open {
		i, err := tx.Incident(record.Incident.GetIncidentId())
		if err != nil {
			return err
		}
		// Every node that has a rank of it says so.
		if slices.ContainsFunc(i.GetTimeline(), func(t *controlv1.TimelineEntry) bool { return strings.HasPrefix(t.GetText(), text) }) {
			continue
		}
		why := strings.TrimSuffix(strings.Join(c.GetReasons(), "; "), ".")
		if err := e.happened(tx, i.GetIncidentId(), event.GetTime().AsTime(), "checkpoint", text+" "+upperFirst(why)+".", ""); err != nil {
			return err
		}
	}
	return nil
}

func upperFirst(s string) string {
	if s == "" {
		return "No reason was given"
	}
	return first(s, unicode.ToUpper)
}

// first changes a text's first letter.
func first(s string, change func(rune) rune) string {
	letter, size := utf8.DecodeRuneInString(s)
	if size == 0 {
		return s
	}
	return string(change(letter)) + s[size:]
}

// checkpoint notes the states that an awaited checkpoint reached, each once,
// with the time since it was asked for.
func (e *Engine) checkpoint(tx *store.Tx, progress *commonv1.CheckpointProgress) error {
	awaited, err := tx.Awaited(progress.GetCheckpointId())
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	c, err := tx.Checkpoint(awaited.CheckpointID)
	if err != nil {
		return err
	}
	before := awaited.Noted
	for _, stage := range c.GetStages() {
		bit := uint64(1) << stage.GetState()
		if awaited.Noted&bit != 0 {
			continue
		}
		awaited.Noted |= bit
		at := stage.GetTime().AsTime()
		since := max(0, at.Sub(c.GetStages()[0].GetTime().AsTime())).Milliseconds()
		action, text := staged(c, stage.GetState())
		if err := e.happened(tx, awaited.IncidentID, at, action, fmt.Sprintf(text, since), ""); err != nil {
			return err
		}
	}
	if awaited.Noted == before {
		return nil
	}
	return tx.PutAwaited(awaited)
}

// staged says that a checkpoint reached a state, with %d for the milliseconds.
func staged(c *controlv1.Checkpoint, state commonv1.CheckpointState) (action, text string) {
	id := c.GetCheckpointId()
	switch state {
	case commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED:
		return "directive", "The trainers got the directive to save checkpoint " + id + " after %d ms."
	case commonv1.CheckpointState_CHECKPOINT_STATE_FAILED:
		cause := strings.ReplaceAll(strings.TrimSuffix(c.GetError(), "."), "%", "%%")
		return "checkpoint", "Checkpoint " + id + " failed after %d ms: " + cause + "."
	}
	word := strings.ToLower(strings.TrimPrefix(state.String(), "CHECKPOINT_STATE_"))
	return "checkpoint", fmt.Sprintf("Checkpoint %s of step %d is %s after %%d ms.", id, c.GetStep(), word)
}

// ended says how an attempt ended, by what that was told, and what follows. What
// comes before the evidence does not differ from node to node: [told] goes by it,
// so that a thousand nodes make one entry, with the evidence of the first.
func ended(attempt uint32, body *commonv1.AttemptEnded) string {
	why := strings.ToLower(strings.TrimPrefix(body.GetFailure().String(), "FAILURE_KIND_"))
	if body.GetFailure() == commonv1.FailureKind_FAILURE_KIND_UNSPECIFIED {
		why = "no failure named"
	}
	text := fmt.Sprintf("Attempt %d ended (%s); no other follows.", attempt, why)
	if body.GetRestarting() {
		text = fmt.Sprintf("Attempt %d ended (%s); another follows.", attempt, why)
	}
	if decision := body.GetRecovery().GetDecision(); decision != "" {
		text += evidenceMark + strings.TrimSuffix(decision, ".") + "."
	}
	if len(body.GetEvidence()) > 0 {
		told := body.GetEvidence()[:min(len(body.GetEvidence()), maxEvidence)]
		text += " Told by: " + strings.Join(told, "; ") + "."
	}
	return text
}

const (
	// evidenceMark is before what a node says of its own.
	evidenceMark = " Decided: "
	maxEvidence  = 3 // of an attempt's end, in a timeline
)

// common gives the part of an entry that all nodes say alike.
func common(text string) string {
	text, _, _ = strings.Cut(text, evidenceMark)
	text, _, _ = strings.Cut(text, " Told by: ")
	return text
}

// note adds a restart's entry to each open incident of the event's run, unless
// it is there already from another node.
func (e *Engine) note(tx *store.Tx, event *commonv1.Event, text string) error {
	open, err := tx.OpenIncidents(event.GetRunId())
	if err != nil {
		return err
	}
	for _, record := range open {
		if event.GetAttempt() < record.Attempt {
			continue
		}
		i, err := tx.Incident(record.Incident.GetIncidentId())
		if err != nil {
			return err
		}
		if told(i, text) {
			continue
		}
		if err := e.happened(tx, i.GetIncidentId(), event.GetTime().AsTime(), "restart", text, ""); err != nil {
			return err
		}
	}
	return nil
}

// told tells whether a timeline has a text already, since the incident was last
// reopened: a run that was started anew counts its attempts anew.
func told(i *controlv1.Incident, text string) bool {
	for _, entry := range slices.Backward(i.GetTimeline()) {
		if common(entry.GetText()) == common(text) {
			return true
		}
		if entry.GetAction() == reopened {
			return false
		}
	}
	return false
}

// step resolves the incidents that the run has left behind: a later attempt
// made the step at which they began, with a finite loss. Rank 0 speaks for the
// run.
func (e *Engine) step(ctx context.Context, tx *store.Tx, event *commonv1.Event, s *commonv1.StepReport) error {
	if event.GetRank() != 0 || s.Loss == nil || math.IsNaN(s.GetLoss()) || math.IsInf(s.GetLoss(), 0) {
		return nil
	}
	open, err := tx.OpenIncidents(event.GetRunId())
	if err != nil {
		return err
	}
	for _, record := range open {
		if event.GetAttempt() <= record.Attempt || s.GetStep() < record.OnsetStep {
			continue
		}
		if still, err := nodeGoesOn(tx, record); err != nil {
			return err
		} else if still {
			continue
		}
		reason := fmt.Sprintf("Attempt %d passed step %d with a finite loss.", event.GetAttempt(), record.OnsetStep)
		if err := e.resolve(ctx, tx, event.GetTime().AsTime(), record, reason, ""); err != nil {
			return err
		}
	}
	return nil
}

// runEnded resolves all incidents of a run that has ended.
func (e *Engine) runEnded(ctx context.Context, tx *store.Tx, event *commonv1.Event) error {
	runID := event.GetRunId()
	if runID == "" {
		return nil
	}
	run, err := tx.Run(runID)
	if fault.Is(err, fault.NotFound) || (err == nil && run.GetEnded() == nil) {
		return nil
	}
	if err != nil {
		return err
	}
	open, err := tx.OpenIncidents(runID)
	if err != nil {
		return err
	}
	for _, record := range open {
		if still, err := nodeGoesOn(tx, record); err != nil {
			return err
		} else if still {
			continue
		}
		if called, err := callsSomebody(tx, record); err != nil {
			return err
		} else if called && run.GetState() == controlv1.RunState_RUN_STATE_FAILED {
			continue // that it failed is the problem
		}
		if err := e.resolve(ctx, tx, event.GetTime().AsTime(), record, endReason(run.GetState(), record.Incident.GetKind()), ""); err != nil {
			return err
		}
	}
	return nil
}

// callsSomebody tells whether the supervisor called a person for an incident.
func callsSomebody(tx *store.Tx, record store.IncidentRecord) (bool, error) {
	whole, err := tx.Incident(record.Incident.GetIncidentId())
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(whole.GetFindings(), func(f *controlv1.Finding) bool {
		return f.GetKind() == gaveUp && f.GetSeverity() == commonv1.Severity_SEVERITY_CRITICAL
	}), nil
}

// endReason says why a run's end resolves an incident. That a run made all its
// steps does not say that it is well: one that diverged may have made them all
// with a loss that is lost.
func endReason(state controlv1.RunState, kind string) string {
	switch {
	case state != controlv1.RunState_RUN_STATE_SUCCEEDED:
		return "The run ended."
	case kind == divergence:
		return "The run made all its steps; whether its loss came back is for a person to judge."
	}
	return "The run made all its steps."
}

// resolve ends an incident, as happened at a time, and has who was told of it
// told why. The author is who did it; empty for Vigil itself.
func (e *Engine) resolve(ctx context.Context, tx *store.Tx, at time.Time, record store.IncidentRecord, reason, author string) error {
	i, now := record.Incident, e.deps.Clock()
	record.ResolvedEvent, record.Changed = at, now
	i.State, i.Resolved = resolved, timestamppb.New(now)
	if len(i.GetLabels()) == 0 {
		i.Summary += " Resolved: " + lowerFirst(reason)
	} else {
		i.Resolved = timestamppb.New(at) // the alert's sender knows when
	}
	text := reason
	if record.Findings > 1 {
		text = fmt.Sprintf("%s It had %d findings.", reason, record.Findings)
	}
	if err := noteBy(tx, i.GetIncidentId(), now, "resolved", text, author); err != nil {
		return err
	}
	if err := tx.PutIncident(record); err != nil {
		return err
	}
	return e.deps.Router.Alert(ctx, tx, record)
}

func lowerFirst(s string) string { return first(s, unicode.ToLower) }
