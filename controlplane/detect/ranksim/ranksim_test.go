package ranksim_test

import (
	"testing"

	"github.com/vigil-ml/vigil/controlplane/detect/ranksim"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
)

// TestTheRightRankIsNamed is the short form of make bench-detect-ranks.
func TestTheRightRankIsNamed(t *testing.T) {
	for _, fault := range ranksim.Faults() {
		t.Run(string(fault), func(t *testing.T) {
			for seed := range uint64(3) {
				play(t, ranksim.Case{Fault: fault, Ranks: 128, Steps: 260, Seed: seed})
			}
		})
	}
}

func play(t testing.TB, c ranksim.Case) ranksim.Outcome {
	t.Helper()
	out := ranksim.Play(c, rules.All(rules.Defaults()))
	if !out.Right || !out.One {
		t.Errorf("%d ranks, seed %d, %s: found %t, right %t, one %t", c.Ranks, c.Seed, c.Fault, out.Found, out.Right, out.One)
		for _, f := range out.Findings {
			t.Logf("  %s at step %d, since %d: %s", f.GetKind(), f.GetStep(), f.GetOnsetStep(), f.GetSummary())
		}
	}
	return out
}
