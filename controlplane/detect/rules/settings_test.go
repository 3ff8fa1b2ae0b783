package rules_test

import (
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	"github.com/vigil-ml/vigil/internal/conf"
)

func TestSettingsAreChecked(t *testing.T) {
	var wrong []string
	s := rules.Defaults()
	s.Check(func(key, _ string, _ ...any) { wrong = append(wrong, key) })
	if len(wrong) > 0 {
		t.Errorf("of the defaults, %v are wrong", wrong)
	}
	s.Spike.Window, s.Divergence.Rise.Memory, s.Leak.Growth = 1e6, 0, -1
	s.Check(func(key, _ string, _ ...any) { wrong = append(wrong, key) })
	if diff := cmp.Diff([]string{"divergence.rise.memory", "spike.window", "leak.growth"}, wrong); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAFileChangesWhatItNames(t *testing.T) {
	s, want := rules.Defaults(), rules.Defaults()
	if err := conf.Decode("rules.yaml", []byte("spike: {factor: 1.5}\nhang: {medians: 50}"), &s); err != nil {
		t.Fatal(err)
	}
	want.Spike.Factor, want.Hang.Medians = 1.5, 50
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err := conf.Decode("rules.yaml", []byte("spike: {faktor: 1.5, window: 0}"), &s); err == nil {
		t.Error("a name that is none was taken")
	}
}

// TestEveryKindHasAPage holds that what a finding means can be looked up.
func TestEveryKindHasAPage(t *testing.T) {
	var missing []string
	for _, rule := range all() {
		if _, err := os.Stat("../../../docs/runbook/" + rule.Code + ".md"); err != nil {
			missing = append(missing, rule.Code)
		}
	}
	if slices.Sort(missing); len(missing) > 0 {
		t.Errorf("docs/runbook has no page of %v", missing)
	}
}
