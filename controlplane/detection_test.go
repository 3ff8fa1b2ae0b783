package controlplane

import (
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/internal/conf"
)

// TestMistakesOfAllPartsAreNamedTogether: what decoding sees, what receivers
// see, and what the rules' settings of one run see.
func TestMistakesOfAllPartsAreNamedTogether(t *testing.T) {
	c, err := decode(`bus: {sync: never}
alerting: {receivers: [{name: ops, slakc: {}}]}
detection:
  runs:
  - {match: "a*", rules: {modes: {spkie: off}, leak: {growth: -1}}}
`)
	err = conf.Join(err, Check(c))
	if err == nil {
		t.Fatal("nothing is wrong")
	}
	for _, want := range []string{":1: bus.sync", ":2: alerting.receivers[0].slakc", "detection.runs[0].rules.modes.spkie", ":5: detection.runs[0].rules.leak.growth"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not named in:\n%v", want, err)
		}
	}
}
