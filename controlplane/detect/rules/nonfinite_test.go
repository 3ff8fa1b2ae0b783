package rules_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func met(rank, attempt uint32, n *commonv1.NonFinite) *commonv1.Event {
	e := at(rank, nil)
	e.Attempt, e.Body = attempt, &commonv1.Event_NonFinite{NonFinite: n}
	return e
}

// gradient is what the trainer says of a bad gradient at a step.
func gradient(step int64) *commonv1.NonFinite {
	return &commonv1.NonFinite{
		Step: step, Quantity: commonv1.Quantity_QUANTITY_GRADIENT, Tensor: "encoder.0.weight",
		NanCount: 3, TensorSize: 64, ParametersIntact: true,
	}
}

func nonFinite() *detect.Bank { return detect.NewBank([]detect.Rule{rules.NonFinite()}) }

func TestNonFiniteEvent(t *testing.T) {
	event := met(2, 0, gradient(41))
	got := observe(nonFinite(), loss(2, 40, 0.7), event)
	want := []*controlv1.Finding{{
		FindingId: detect.ID("nonfinite", 41, event), RunId: "r", Kind: "nonfinite",
		Severity: commonv1.Severity_SEVERITY_CRITICAL, OnsetStep: 41, Step: 41, Rank: 2, Node: "n2",
		Summary: "Rank 2 on node n2 met 3 NaN of 64 values in the gradient of encoder.0.weight at step 41; " +
			"the parameters are as the last good step left them.",
		Evidence: map[string]float64{
			"nan_count": 3, "inf_count": 0, "tensor_size": 64, "parameters_intact": 1, "last_finite_loss": 0.7,
		},
	}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestNonFiniteSummaries(t *testing.T) {
	nan, inf, one := math.NaN(), math.Inf(1), 1.0
	nodeless := met(4, 0, &commonv1.NonFinite{Step: 5})
	nodeless.Node = ""
	for want, event := range map[string]*commonv1.Event{
		"Rank 0 on node n0 reports that the loss is NaN at step 5.":  at(0, &commonv1.StepReport{Step: 5, Loss: &nan}),
		"Rank 0 on node n0 reports that the loss is -Inf at step 5.": loss(0, 5, math.Inf(-1)),
		"Rank 1 on node n1 reports that the gradient norm is +Inf at step 5.": at(1,
			&commonv1.StepReport{Step: 5, Loss: &one, GradientNorm: &inf}),
		"Rank 0 on node n0 reports that the loss is NaN and the gradient norm is NaN at step 5.": at(0,
			&commonv1.StepReport{Step: 5, Loss: &nan, GradientNorm: &nan}),
		"Rank 0 on node n0 met 1 NaN and 2 infinite of 9 values in the parameter head.bias at step 5; the parameters may be damaged.": met(0, 0,
			&commonv1.NonFinite{Step: 5, Quantity: commonv1.Quantity_QUANTITY_PARAMETER, Tensor: "head.bias", NanCount: 1, InfCount: 2, TensorSize: 9}),
		"Rank 0 on node n0 met 1 NaN value in the loss at step 5; the parameters are as the last good step left them.": met(0, 0,
			&commonv1.NonFinite{Step: 5, Quantity: commonv1.Quantity_QUANTITY_LOSS, Tensor: "loss", NanCount: 1, TensorSize: 1, ParametersIntact: true}),
		"Rank 0 on node n0 met 2 infinite values in the gradient at step 5; the parameters may be damaged.": met(0, 0,
			&commonv1.NonFinite{Step: 5, Quantity: commonv1.Quantity_QUANTITY_GRADIENT, InfCount: 2}),
		"Rank 4 met a non-finite value in the step at step 5; the parameters may be damaged.": nodeless,
	} {
		got := observe(nonFinite(), event)
		if len(got) != 1 || got[0].GetSummary() != want {
			t.Errorf("%v\nfound %v\nwant  %s", event, got, want)
		}
	}
}

// onsets runs events and gives "rank@step" of what was found.
func onsets(events ...*commonv1.Event) [][2]int64 {
	var found [][2]int64
	for _, f := range observe(nonFinite(), events...) {
		found = append(found, [2]int64{int64(f.GetRank()), f.GetOnsetStep()})
	}
	return found
}

func TestNonFiniteIsFoundOncePerOnset(t *testing.T) {
	nan := math.NaN()
	stays := series(1, 1, nan, nan, nan, nan)
	flickers := series(1, nan, 1, nan, 1, 1, nan, 1)
	returns := series(1, nan, 1, 1, 1, 1, 1, 1, 1, 1, nan)
	healthy := series(1, 2, 3, 0, -1, math.MaxFloat64)
	late := loss(0, 3, nan)
	restarted := met(0, 1, gradient(3))
	tests := map[string]struct {
		events []*commonv1.Event
		want   [][2]int64
	}{
		"healthy":                        {healthy, nil},
		"a run that stays NaN":           {stays, [][2]int64{{0, 3}}},
		"a run that flickers":            {flickers, [][2]int64{{0, 2}}},
		"a run that recovered":           {returns, [][2]int64{{0, 2}, {0, 11}}},
		"event and report of one step":   {[]*commonv1.Event{met(0, 0, gradient(3)), late}, [][2]int64{{0, 3}}},
		"two ranks at one step":          {[]*commonv1.Event{met(1, 0, gradient(3)), met(0, 0, gradient(3))}, [][2]int64{{1, 3}}},
		"another rank a step later":      {[]*commonv1.Event{met(1, 0, gradient(3)), met(0, 0, gradient(4))}, [][2]int64{{1, 3}}},
		"the same step in a new attempt": {[]*commonv1.Event{met(0, 0, gradient(3)), restarted}, [][2]int64{{0, 3}, {0, 3}}},
		"late word of the attempt before": {
			[]*commonv1.Event{met(0, 1, gradient(9)), met(1, 0, gradient(3)), met(2, 0, gradient(3))},
			[][2]int64{{0, 9}, {1, 3}},
		},
		"word of an attempt long over": {[]*commonv1.Event{met(0, 4, gradient(9)), met(1, 0, gradient(3))}, [][2]int64{{0, 9}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, onsets(test.events...)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestOnlyTheRankThatBeganItEndsAnEpisode(t *testing.T) {
	events := []*commonv1.Event{loss(1, 5, math.NaN())}
	for step := range int64(20) {
		events = append(events, loss(0, 6+step, 1), loss(1, 6+step, math.NaN()))
	}
	if diff := cmp.Diff([][2]int64{{1, 5}}, onsets(events...)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for step := range int64(8) {
		events = append(events, loss(1, 30+step, 1))
	}
	events = append(events, loss(0, 40, math.NaN()), loss(1, 41, 1))
	if diff := cmp.Diff([][2]int64{{1, 5}, {0, 40}}, onsets(events...)); diff != "" {
		t.Errorf("after the rank recovered: -want +got:\n%s", diff)
	}
}

func TestReportsWithoutLossSayNothing(t *testing.T) {
	events := []*commonv1.Event{met(0, 0, gradient(3))}
	for step := range int64(20) {
		events = append(events, at(0, &commonv1.StepReport{Step: 4 + step}))
	}
	events = append(events, met(0, 0, gradient(30)))
	if diff := cmp.Diff([][2]int64{{0, 3}}, onsets(events...)); diff != "" {
		t.Errorf("a report that measured nothing ended the episode: -want +got:\n%s", diff)
	}
}
