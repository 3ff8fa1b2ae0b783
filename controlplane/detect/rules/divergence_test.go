package rules_test

import (
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func divergence() *detect.Bank { return detect.NewBank([]detect.Rule{rules.Divergence()}) }

func repeat(v float64, n int) []float64 { return slices.Repeat([]float64{v}, n) }

func TestDivergenceFinding(t *testing.T) {
	// 5 x 1, then 1, 2, 4, 4, 4: the mean of the last five is 3. Five steps
	// later it is found.
	got := observe(divergence(), series(1, 1, 1, 1, 1, 1, 2, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5)...)
	want := []*controlv1.Finding{{
		FindingId: detect.ID("r", "divergence", 0, 7), RunId: "r", Kind: "divergence",
		Severity: commonv1.Severity_SEVERITY_CRITICAL, OnsetStep: 7, Step: 15, Node: "n0",
		Summary:  "Rank 0 on node n0 reports a loss that rose at step 7 and has not come back at step 15: 4.8 on average, 1 before.",
		Evidence: map[string]float64{"loss": 5, "mean_before": 1, "mean_after": 4.8, "ratio": 4.8},
	}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDivergenceOnsets(t *testing.T) {
	nan := math.NaN()
	ones := repeat(1, 10)
	falling := make([]float64, 200)
	growing := make([]float64, 200)
	for i := range falling {
		falling[i] = 5 * math.Exp(-float64(i)/20)
		growing[i] = math.Exp(float64(i) / 8) // 1.87-fold in 5 steps
	}
	tests := map[string]struct {
		losses []float64
		want   []int64
	}{
		"steady":                        {repeat(1, 50), nil},
		"falling":                       {falling, nil},
		"too short to tell":             {[]float64{1, 1, 1, 9, 9, 9}, nil},
		"a step up":                     {append(ones, repeat(9, 10)...), []int64{11}},
		"stays up":                      {append(ones, repeat(9, 100)...), []int64{11}},
		"exactly twice":                 {append(ones, repeat(2, 50)...), nil},
		"slow growth is missed":         {growing, nil},
		"a spike of one step":           {slices.Concat(ones, []float64{50}, repeat(1, 20)), nil},
		"a spike of five steps":         {slices.Concat(ones, repeat(9, 5), repeat(1, 20)), nil},
		"a spike of nine steps is one":  {slices.Concat(ones, repeat(9, 9), repeat(1, 20)), []int64{11}},
		"below zero is not judged":      {slices.Concat(repeat(-1, 10), repeat(9, 4)), nil},
		"up from below zero is missed":  {slices.Concat(repeat(-1, 10), repeat(9, 20)), nil},
		"non-finite losses are left":    {slices.Concat(repeat(1, 9), []float64{nan, math.Inf(1)}, repeat(9, 10)), []int64{12}},
		"again after it came back":      {slices.Concat(ones, repeat(9, 10), repeat(1, 20), repeat(9, 10)), []int64{11, 41}},
		"a noisy start before the rise": {slices.Concat([]float64{1, 3, 1, 3, 1}, []float64{4, 9, 9, 9, 9}, repeat(9, 10)), []int64{6}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got []int64
			for _, f := range observe(divergence(), series(test.losses...)...) {
				got = append(got, f.GetOnsetStep())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("onsets, -want +got:\n%s", diff)
			}
		})
	}
}

func TestDivergenceReadsTheLowestRank(t *testing.T) {
	bank := divergence()
	// Rank 3 is heard first; then rank 0 is there, and rank 3's jump is not its.
	var found []*controlv1.Finding
	for step := range int64(40) {
		found = append(found, observe(bank, loss(3, step, 1+20*float64(step/20)))...)
		found = append(found, observe(bank, loss(0, step, 1))...)
	}
	if len(found) != 0 {
		t.Errorf("found %v in rank 0, whose loss is steady", found)
	}
	alone := divergence()
	for step := range int64(40) {
		found = append(found, observe(alone, loss(3, step, 1+20*float64(step/20)))...)
	}
	if len(found) != 1 || found[0].GetRank() != 3 || found[0].GetNode() != "n3" || found[0].GetOnsetStep() != 20 {
		t.Errorf("found %v, want one of rank 3 on node n3 at step 20", found)
	}
}

func TestDivergenceStartsAnew(t *testing.T) {
	rise := func(from int64, attempt uint32) []*commonv1.Event {
		var events []*commonv1.Event
		for i := range int64(12) {
			e := loss(0, from+i, 9)
			e.Attempt = attempt
			events = append(events, e)
		}
		return events
	}
	before := series(repeat(1, 10)...)
	tests := map[string][]*commonv1.Event{
		"in a new attempt":   slices.Concat(before, rise(11, 1)),
		"when steps go back": slices.Concat(before, rise(3, 0)),
	}
	for name, events := range tests {
		if got := observe(divergence(), events...); len(got) != 0 {
			t.Errorf("%s: found %v across the break", name, got)
		}
	}
	if got := observe(divergence(), slices.Concat(before, rise(11, 0))...); len(got) != 1 {
		t.Errorf("without a break: found %d, want 1", len(got))
	}
	// An attempt that is over has no say any more.
	mixed := slices.Concat(rise(1, 1)[:10], rise(11, 0), rise(11, 1))
	if got := observe(divergence(), mixed...); len(got) != 0 {
		t.Errorf("late word of an old attempt: found %v", got)
	}
}
