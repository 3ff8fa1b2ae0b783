package main

import (
	"fmt"
	"strings"
	"time"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// recoveries shows for each attempt that failed by what that was told, what was
// decided, and what became of it.
func recoveries(p *page, attempts []*controlv1.Attempt) {
	for _, at := range attempts {
		wellEnded := at.Failure == 0 && at.Recovery.GetResumeFrom() == 0
		if len(at.Evidence) == 0 || wellEnded {
			continue
		}
		p.write("\n")
		p.line(cell{text: fmt.Sprintf("  attempt %d", at.Attempt), style: strong}, cell{text: word(at.Failure)})
		for _, told := range at.Evidence {
			p.text(4, cell{text: told})
		}
		if decision := at.Recovery.GetDecision(); decision != "" {
			p.text(4, cell{text: "decided: " + decision})
		}
		if at.Recovery.GetPage() {
			p.text(4, cell{text: "a person should look", style: bad})
		}
	}
	for _, at := range attempts {
		if at.Answer == nil {
			continue
		}
		p.write("\n")
		p.line(cell{text: fmt.Sprintf("  attempt %d", at.Attempt), style: strong}, cell{text: "on what it was asked for"})
		if len(at.Answer.Honoured) > 0 {
			p.text(4, cell{text: "does: " + strings.Join(at.Answer.Honoured, "; ")})
		}
		if len(at.Answer.Refused) > 0 {
			p.text(4, cell{text: "cannot: " + strings.Join(at.Answer.Refused, "; "), style: warn})
		}
	}
}

// advice shows how often a run should save, and what that rests on.
func advice(p *page, a *controlv1.Advice) {
	failures := fmt.Sprintf("every %s (%s)", span(a.FailureIntervalSeconds), count(int(a.Failures), "failure"))
	if a.Failures == 0 {
		failures = "none in " + span(a.FailureIntervalSeconds) + ", so the interval below is the shortest that makes sense"
	}
	fact(p, "saving", fmt.Sprintf("pauses training for %s, every %s", span(a.CheckpointCostSeconds), span(a.CurrentSeconds)))
	fact(p, "failures", failures)
	every := fmt.Sprintf("every %s by Daly, %s by Young", span(a.DalySeconds), span(a.YoungSeconds))
	if a.DalySteps > 0 {
		every += fmt.Sprintf("; that is every %s", count(int(a.DalySteps), "step"))
	}
	fact(p, "save", every)
	fact(p, "lost", fmt.Sprintf("%.2g %% of the time then, %.2g %% now", 100*a.DalyLossRatio, 100*a.CurrentLossRatio))
}

// span is a time for people, from seconds.
func span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", seconds*1000)
	case d < time.Minute:
		return fmt.Sprintf("%.3g s", seconds)
	}
	return d.Round(time.Second).String()
}

func preemptionText(n *commonv1.PreemptionNotice) string {
	text := "the run will lose its place, says " + n.Source
	if n.Deadline != nil {
		text += ", at " + n.Deadline.AsTime().UTC().Format(time.TimeOnly+" MST")
	}
	return text
}

func recoveryAnswerText(a *commonv1.RecoveryAnswer) (string, style) {
	if len(a.Refused) > 0 {
		return "cannot do what recovery asked for: " + strings.Join(a.Refused, "; "), warn
	}
	return "does what recovery asked for: " + strings.Join(a.Honoured, "; "), plainStyle
}
