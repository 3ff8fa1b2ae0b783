package retain

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/testkit"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// TestOldRecordsGo puts more old incidents than one step takes, and one that is
// resolved a moment ago; a look later only that is left, and all is counted.
func TestOldRecordsGo(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	log := testkit.Logger(t)
	s, err := store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "vigil.db")}, store.Deps{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	const old = stepRecords + 20
	err = s.Update(t.Context(), func(tx *store.Tx) error {
		var all error
		for i := range old + 1 {
			resolved := now.Add(-500 * 24 * time.Hour)
			if i == old {
				resolved = now.Add(-time.Minute)
			}
			all = errors.Join(all, tx.PutIncident(store.IncidentRecord{Incident: &controlv1.Incident{
				IncidentId: fmt.Sprintf("i%03d", i), State: controlv1.IncidentState_INCIDENT_STATE_RESOLVED,
				Opened: timestamppb.New(resolved.Add(-time.Hour)), Resolved: timestamppb.New(resolved),
			}}))
		}
		return all
	})
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	r := New(Defaults(), Deps{Store: s, Log: log, Metrics: reg, Clock: func() time.Time { return now }, Others: []Kept{{"events", time.Hour}}})
	if err := r.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = s.View(t.Context(), func(tx *store.Tx) error {
		left, err := tx.Incidents("", 0)
		if len(left) != 1 || left[0].GetIncidentId() != fmt.Sprintf("i%03d", old) {
			t.Errorf("%d incidents are left, want the recent one", len(left))
		}
		return err
	})
	if n := testutil.ToFloat64(r.expired.WithLabelValues("incidents")); err != nil || n != old {
		t.Errorf("%v are counted, want %d (%v)", n, old, err)
	}
	if n, err := testutil.GatherAndCount(reg, "vigil_control_retention_seconds"); n != 4 || err != nil {
		t.Errorf("%d kinds of records are shown, want 4 (%v)", n, err)
	}
}

func TestConfigCheck(t *testing.T) {
	var keys []string
	report := func(key, _ string, _ ...any) { keys = append(keys, key) }
	Defaults().Check(report)
	Config{}.Check(report)
	if keys != nil {
		t.Errorf("refused %v", keys)
	}
	Config{Incidents: time.Minute, Findings: -time.Hour, Runs: time.Hour}.Check(report)
	if !slices.Equal(keys, []string{"incidents", "findings"}) {
		t.Errorf("refused %v", keys)
	}
}
