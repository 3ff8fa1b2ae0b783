package controlplane

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/controlplane/ingest"
)

func TestOnlyWhatAgentsAreToldChangesWithoutARestart(t *testing.T) {
	before, after := Defaults(), Defaults()
	after.Ingest.Collectors = map[string]ingest.Collector{"host": {}}
	if got := differ(before, after); got != nil {
		t.Errorf("%q wait for a restart", got)
	}
	after.Ingest.MaxSeries++
	after.StateDir = "/elsewhere"
	if diff := cmp.Diff([]string{"state_dir", "ingest"}, differ(before, after)); diff != "" {
		t.Error(diff)
	}
}
