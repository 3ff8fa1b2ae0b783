package controlplane

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/controlplane/ingest"
	"github.com/vigil-ml/vigil/internal/conf"
)

func TestOnlyWhatAgentsAreToldChangesWithoutARestart(t *testing.T) {
	before, after := Defaults(), Defaults()
	after.Ingest.Collectors = map[string]ingest.Collector{"host": {}}
	if got := waits(before, after); got != nil {
		t.Errorf("%q wait for a restart", got)
	}
	after.Ingest.MaxSeries++
	after.StateDir = "/elsewhere"
	if diff := cmp.Diff([]string{"state_dir", "ingest"}, waits(before, after)); diff != "" {
		t.Error(diff)
	}
}

// TestAFileThatSaysTheSameWaitsForNothing: settings that are decoded late are
// compared by what they say, not by where.
func TestAFileThatSaysTheSameWaitsForNothing(t *testing.T) {
	read := func(text string) Config {
		config := Defaults()
		if err := conf.Decode("vigil.yaml", []byte(text), &config); err != nil {
			t.Fatal(err)
		}
		return config
	}
	before := read("alerting: {receivers: [{name: desk, log: {level: warn}}]}\nexports: [{name: a, kind: otlp, settings: {endpoint: 'x:1'}}]")
	if got := waits(before, read("# moved\nexports:\n- {name: a, kind: otlp, settings: {endpoint: x:1}} # the collector\nalerting:\n  receivers:\n  - name: desk\n    log: {level: warn}\n")); got != nil {
		t.Errorf("%q wait for a restart", got)
	}
	if diff := cmp.Diff([]string{"alerting"}, waits(before, read("alerting: {receivers: [{name: desk, log: {level: info}}]}\nexports: [{name: a, kind: otlp, settings: {endpoint: 'x:1'}}]"))); diff != "" {
		t.Error(diff)
	}
}
