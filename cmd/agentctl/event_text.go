package main

import (
	"fmt"
	"strings"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// eventText says in a few words what happened.
func eventText(event *commonv1.Event) (string, style) {
	switch body := event.Body.(type) {
	case *commonv1.Event_TrainerRegistered:
		return registeredText(body.TrainerRegistered), plainStyle
	case *commonv1.Event_Step:
		return stepText(body.Step), plainStyle
	case *commonv1.Event_NonFinite:
		return nonFiniteText(body.NonFinite), bad
	case *commonv1.Event_Checkpoint:
		return progressText(body.Checkpoint)
	case *commonv1.Event_CheckpointChanged:
		return changedText(body.CheckpointChanged)
	case *commonv1.Event_CommandResult:
		return commandText(body.CommandResult)
	case *commonv1.Event_AttemptStarted:
		return "launched " + strings.Join(body.AttemptStarted.Command, " "), strong
	case *commonv1.Event_AttemptEnded:
		return attemptEndedText(body.AttemptEnded)
	case *commonv1.Event_Resumed:
		return fmt.Sprintf("goes on from step %d, checkpoint %s", body.Resumed.Step, body.Resumed.CheckpointId), good
	case *commonv1.Event_RunEnded:
		return endedText(body.RunEnded)
	case *commonv1.Event_Tick:
		return fmt.Sprintf("no step has finished since step %d", body.Tick.LastStep), warn
	case *commonv1.Event_Phase:
		return fmt.Sprintf("phase %s: %s, after step %d", word(body.Phase.Kind), word(body.Phase.Edge), body.Phase.Step), plainStyle
	case *commonv1.Event_NodeReport:
		return nodeReportText(body.NodeReport), plainStyle
	case *commonv1.Event_NodeFault:
		return nodeFaultText(body.NodeFault)
	case *commonv1.Event_KeyUsed:
		return fmt.Sprintf("used key %s of checkpoints: %s", body.KeyUsed.KekId, body.KeyUsed.Use), plainStyle
	case *commonv1.Event_NodeLink:
		return nodeLinkText(body.NodeLink)
	case *commonv1.Event_Evaluation:
		return fmt.Sprintf("evaluated after step %d: loss %s", body.Evaluation.Step, number(body.Evaluation.Loss)), plainStyle
	case *commonv1.Event_Preemption:
		return preemptionText(body.Preemption), warn
	case *commonv1.Event_RecoveryAnswer:
		return recoveryAnswerText(body.RecoveryAnswer)
	case *commonv1.Event_Exception:
		return fmt.Sprintf("step %d: %s: %s", body.Exception.Step, body.Exception.Type, body.Exception.Message), bad
	case *commonv1.Event_StackDump:
		return fmt.Sprintf("stacks of all threads after step %d: %s", body.StackDump.LastStep, body.StackDump.Reason), warn
	case *commonv1.Event_Profile:
		return profileText(body.Profile)
	default:
		return "something that this agentctl does not know", faint
	}
}

func registeredText(r *commonv1.TrainerRegistered) string {
	text := fmt.Sprintf("trainer is there, one of %d, pid %d", r.WorldSize, r.Pid)
	if r.Framework != "" {
		text += ", " + r.Framework
	}
	return text
}

func stepText(s *commonv1.StepReport) string {
	text := fmt.Sprintf("step %d", s.Step)
	if s.Loss != nil {
		text += "  loss " + number(s.Loss)
	}
	if s.GradientNorm != nil {
		text += "  gradient " + number(s.GradientNorm)
	}
	if s.StepSeconds != nil {
		text += fmt.Sprintf("  %.1f ms", *s.StepSeconds*1000)
	}
	return text
}

func nonFiniteText(n *commonv1.NonFinite) string {
	text := fmt.Sprintf("step %d stopped: %s of %s has %d NaN and %d infinite values of %d",
		n.Step, word(n.Quantity), orNone(n.Tensor), n.NanCount, n.InfCount, n.TensorSize)
	if n.ParametersIntact {
		text += "; parameters are intact"
	}
	return text
}

func progressText(c *commonv1.CheckpointProgress) (string, style) {
	text := "checkpoint " + word(c.State)
	if c.Step > 0 {
		text += fmt.Sprintf(", step %d", c.Step)
	}
	if c.SizeBytes > 0 {
		text += ", " + size(c.SizeBytes)
	}
	if c.Error != "" {
		text += ": " + c.Error
	}
	return text + "  " + c.CheckpointId, state(c.State).style
}

func changedText(c *commonv1.CheckpointChanged) (string, style) {
	text, how := "checkpoint "+word(c.Change), plainStyle
	if c.Change == commonv1.CheckpointChange_CHECKPOINT_CHANGE_JUDGED {
		judged := state(c.Health)
		text, how = "checkpoint judged "+judged.text, judged.style
	}
	text += fmt.Sprintf(", step %d", c.Step)
	if len(c.Reasons) > 0 {
		text += ": " + strings.Join(c.Reasons, "; ")
	}
	return text + "  " + c.CheckpointId, how
}

func commandText(c *commonv1.CommandResult) (string, style) {
	text := "command " + word(c.Stage)
	if c.Error != "" {
		text += ": " + c.Error
	}
	return text + "  " + c.CommandId, state(c.Stage).style
}

func attemptEndedText(e *commonv1.AttemptEnded) (string, style) {
	how := "processes ended"
	switch {
	case e.Signal != nil:
		how = fmt.Sprintf("processes ended by signal %d", *e.Signal)
	case e.ExitCode != nil:
		how = fmt.Sprintf("processes ended with exit code %d", *e.ExitCode)
	}
	if e.Explanation != "" {
		how += ": " + e.Explanation
	}
	if len(e.Evidence) > 0 {
		how += " [" + strings.Join(e.Evidence, "; ") + "]"
	}
	if e.Restarting {
		how = fmt.Sprintf("%s; starts again in %.1f s", how, e.BackoffSeconds)
	}
	if decision := e.Recovery.GetDecision(); decision != "" {
		how += " (" + decision + ")"
	}
	if e.Restarting {
		return how, warn
	}
	return how, plainStyle
}

func endedText(e *commonv1.RunEnded) (string, style) {
	text := fmt.Sprintf("run %s at step %d", word(e.Outcome), e.Step)
	if e.Explanation != "" {
		text += ": " + e.Explanation
	}
	return text, state(e.Outcome).style
}

func profileText(p *commonv1.ProfileProgress) (string, style) {
	text := "profile " + word(p.State)
	if p.LastStep > 0 {
		text += fmt.Sprintf(", steps %d to %d, %s, %s: %s", p.FirstStep, p.LastStep, size(p.SizeBytes), orNone(p.Format), p.Path)
	}
	if p.Error != "" {
		text += ": " + p.Error
	}
	return text + "  " + p.ProfileId, state(p.State).style
}
