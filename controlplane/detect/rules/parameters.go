package rules

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Parameters finds parameters that are not finite: the state itself is spoilt,
// and a checkpoint of it would be.
//
// Method: it believes its first sight of a count of non-finite parameters above
// zero, of a norm of the parameters that is not finite, or, as a warning, of a
// held-out loss that is not. The problem is over after a report of the same
// rank that says otherwise. A loss or gradient that is not finite is the
// finding nonfinite, which explains this one.
//
// What it confuses: a norm that overflows in half precision while every
// parameter is finite, and an evaluation that fails by itself.
func Parameters() detect.Rule {
	return detect.Rule{
		Code:     "parameters",
		Title:    "Parameters are not finite",
		Severity: commonv1.Severity_SEVERITY_CRITICAL,
		Under:    []string{"nonfinite"},
		New:      func() detect.Detector { return &parameters{} },
	}
}

type parameters struct {
	series [lateAttempts]spoilt
}

// spoilt is an attempt's state.
type spoilt struct {
	attempt uint32
	rank    uint32 // who reported it, and alone can end it
	open    bool
	warned  bool // of an evaluation
}

// Open tells whether parameters are still not finite.
func (d *parameters) Open() bool {
	for i := range d.series {
		if d.series[i].open {
			return true
		}
	}
	return false
}

// Observe takes the run's next event.
func (d *parameters) Observe(event *commonv1.Event) []*controlv1.Finding {
	s, e := event.GetStep(), event.GetEvaluation()
	if (s == nil || (s.NonfiniteParameters == nil && s.ParameterNorm == nil)) && (e == nil || e.Loss == nil) {
		return nil
	}
	state := &d.series[event.GetAttempt()%lateAttempts]
	switch {
	case state.attempt < event.GetAttempt():
		*state = spoilt{attempt: event.GetAttempt()}
	case state.attempt > event.GetAttempt():
		return nil
	}
	if e != nil {
		return state.evaluation(event, e)
	}
	bad := s.GetNonfiniteParameters() > 0 || !finite(s.GetParameterNorm())
	if !bad {
		state.open = state.open && event.GetRank() != state.rank
		return nil
	}
	if state.open {
		return nil
	}
	state.open, state.rank = true, event.GetRank()
	f := detect.FindingOf(event, s.GetStep(), s.GetStep())
	f.Summary = fmt.Sprintf("%s has parameters that are not finite after step %d: their norm is %v.", who(event), s.GetStep(), s.GetParameterNorm())
	f.Evidence = map[string]float64{"parameter_norm_nonfinite": truth(!finite(s.GetParameterNorm()))}
	if s.GetNonfiniteParameters() > 0 {
		f.Summary = fmt.Sprintf("%s has %d parameters that are not finite after step %d.", who(event), s.GetNonfiniteParameters(), s.GetStep())
		f.Evidence["nonfinite_parameters"] = float64(s.GetNonfiniteParameters())
	}
	return []*controlv1.Finding{f}
}

// evaluation takes a held-out loss; that it is not finite is told once until it
// is again.
func (state *spoilt) evaluation(event *commonv1.Event, e *commonv1.Evaluation) []*controlv1.Finding {
	if finite(e.GetLoss()) || state.open {
		state.warned = state.warned && !finite(e.GetLoss())
		return nil
	}
	if state.warned {
		return nil
	}
	state.warned = true
	f := detect.FindingOf(event, e.GetStep(), e.GetStep())
	f.Severity = commonv1.Severity_SEVERITY_WARNING
	f.Summary = fmt.Sprintf("%s evaluated a loss of %v on held-out data after step %d.", who(event), e.GetLoss(), e.GetStep())
	f.Evidence = map[string]float64{"heldout_loss_nonfinite": 1}
	return []*controlv1.Finding{f}
}
