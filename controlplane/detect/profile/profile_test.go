package profile_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/profile"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// read reads a configuration whose detection part is text.
func read(t *testing.T, text string) (*profile.Profiles, error) {
	t.Helper()
	var file struct {
		Detection profile.Config `yaml:"detection"`
	}
	err := conf.Decode("vigil.yaml", []byte(text), &file)
	profiles, wrong := profile.New(file.Detection)
	return profiles, conf.Join(err, wrong)
}

const layered = `
detection:
  rules:
    modes: {plateau: shadow, hang: on}
    spike: {sigmas: 5, warmup: 20}
  projects:
  - match: llm-*
    rules:
      modes: {spike: off}
      spike: {sigmas: 6}
  - match: vision
    rules: {modes: {plateau: on}}
  runs:
  - match: "llm-7b-0?"
    rules: {spike: {sigmas: 7}, modes: {spike: shadow}}
`

func TestLaterLayersLieOverEarlier(t *testing.T) {
	profiles, err := read(t, layered)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		run, project string
		sigmas       float64
		modes        rules.Modes
		sources      string
	}{
		{"a", "", 5, rules.Modes{"plateau": "shadow", "hang": "on"}, "detection.rules"},
		{"a", "vision", 5, rules.Modes{"plateau": "on", "hang": "on"}, "detection.rules|detection.projects[1] (vision)"},
		{"a", "llm-7b", 6, rules.Modes{"plateau": "shadow", "hang": "on", "spike": "off"}, "detection.rules|detection.projects[0] (llm-*)"},
		{"llm-7b-01", "llm-7b", 7, rules.Modes{"plateau": "shadow", "hang": "on", "spike": "shadow"},
			"detection.rules|detection.projects[0] (llm-*)|detection.runs[0] (llm-7b-0?)"},
		{"llm-7b-011", "", 5, rules.Modes{"plateau": "shadow", "hang": "on"}, "detection.rules"},
	} {
		got := profiles.For(tc.run, tc.project)
		if got.Settings.Spike.Sigmas != tc.sigmas || got.Settings.Spike.Warmup != 20 {
			t.Errorf("%s of %s: spike %+v, want sigmas %v and warmup 20", tc.run, tc.project, got.Settings.Spike, tc.sigmas)
		}
		if diff := cmp.Diff(tc.modes, got.Settings.Modes); diff != "" {
			t.Errorf("%s of %s: modes (-want +got):\n%s", tc.run, tc.project, diff)
		}
		if sources := strings.Join(got.Sources, "|"); sources != tc.sources {
			t.Errorf("%s of %s: sources %s, want %s", tc.run, tc.project, sources, tc.sources)
		}
		if first := profiles.Choose(tc.run, tc.project); first != profiles.Choose(tc.run, tc.project) {
			t.Errorf("%s of %s: the same run gets different sets", tc.run, tc.project)
		}
	}
}

func TestNothingSaidIsTheDefaults(t *testing.T) {
	profiles, err := read(t, "")
	if err != nil {
		t.Fatal(err)
	}
	got := profiles.For("r", "p")
	if diff := cmp.Diff(rules.Defaults(), got.Settings); diff != "" || got.Sources != nil {
		t.Errorf("sources %v, settings:\n%s", got.Sources, diff)
	}
}

// TestEveryMistakeIsNamedAtOnce, in parts that are decoded later too.
func TestEveryMistakeIsNamedAtOnce(t *testing.T) {
	_, err := read(t, `detection:
  rules:
    spike: {sigmas: -1}
    modes: {spkie: off}
  projects:
  - match: ""
    rules: {leak: {blok: 3}}
  runs:
  - match: "a["
    rules: {modes: {hang: perhaps}}
  rnus: []
`)
	if !fault.Is(err, fault.Invalid) {
		t.Fatalf("error = %v, want one of kind invalid", err)
	}
	for _, want := range []string{
		"vigil.yaml:3: detection.rules.spike.sigmas: is -1", "detection.rules.modes.spkie: there is no such rule",
		"detection.projects[0].match: is empty", "detection.projects[0].rules.leak.blok: unknown key",
		"detection.runs[0].match", `detection.runs[0].rules.modes.hang: is "perhaps"; want on, off or shadow`, "detection.rnus: unknown key",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not named in:\n%v", want, err)
		}
	}
}

// TestARunGetsItsProjectsRules when a trainer says which project it is.
func TestARunGetsItsProjectsRules(t *testing.T) {
	profiles, err := read(t, "detection: {projects: [{match: quiet, rules: {modes: {nonfinite: shadow}}}]}")
	if err != nil {
		t.Fatal(err)
	}
	bank := detect.NewBankOf(profiles.Choose)
	for run, project := range map[string]string{"a": "quiet", "b": "loud"} {
		bank.Observe(&commonv1.Event{RunId: run, Body: &commonv1.Event_AttemptStarted{}})
		bank.Observe(&commonv1.Event{RunId: run, Body: &commonv1.Event_TrainerRegistered{TrainerRegistered: &commonv1.TrainerRegistered{
			Name: "a name", Settings: map[string]string{"project": project}}}})
		found := bank.Observe(&commonv1.Event{RunId: run, Body: &commonv1.Event_NonFinite{NonFinite: &commonv1.NonFinite{Step: 3}}})
		if len(found) != 1 || found[0].GetShadow() != (project == "quiet") {
			t.Errorf("run %s of project %s: %v", run, project, found)
		}
	}
}
