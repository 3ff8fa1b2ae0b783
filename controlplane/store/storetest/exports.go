package storetest

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// testExports holds that changes are recorded once, in order and without gaps,
// also around a transaction that fails. The store is one with Deps.Exports.
func testExports(t *testing.T, b *bench) {
	incident := func(id string, state controlv1.IncidentState) store.IncidentRecord {
		return store.IncidentRecord{Incident: &controlv1.Incident{IncidentId: id, RunId: "r", State: state}}
	}
	b.update(func(tx *store.Tx) error {
		for range 2 { // the second is there already
			if _, err := tx.PutFinding(&controlv1.Finding{FindingId: "f1", RunId: "r"}); err != nil {
				return err
			}
		}
		return tx.PutIncident(incident("i1", controlv1.IncidentState_INCIDENT_STATE_FIRING))
	})
	undone := errors.New("undone")
	err := b.store.Update(t.Context(), func(tx *store.Tx) error {
		if err := tx.PutIncident(incident("i2", controlv1.IncidentState_INCIDENT_STATE_FIRING)); err != nil {
			return err
		}
		return undone
	})
	if !errors.Is(err, undone) {
		t.Fatal(err)
	}
	b.update(func(tx *store.Tx) error {
		if err := tx.PutIncident(incident("i1", controlv1.IncidentState_INCIDENT_STATE_FIRING)); err != nil { // as it was
			return err
		}
		return tx.PutIncident(incident("i1", controlv1.IncidentState_INCIDENT_STATE_RESOLVED))
	})
	type row struct {
		Sequence uint64
		Kind, ID string
	}
	read := func(after uint64, limit int) (rows []row) {
		b.view(func(tx *store.Tx) error {
			records, err := tx.ExportRecords(after, limit)
			for _, r := range records {
				rows = append(rows, row{r.Sequence, r.Kind, r.ID})
			}
			return err
		})
		return rows
	}
	want := []row{{1, store.ExportFinding, "f1"}, {2, store.ExportIncident, "i1"}, {3, store.ExportIncident, "i1"}}
	if diff := cmp.Diff(want, read(0, 0)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want[1:2], read(1, 1)); diff != "" {
		t.Error(diff)
	}
	b.update(func(tx *store.Tx) error { return tx.DropExportRecords(2) })
	b.update(func(tx *store.Tx) error {
		return tx.PutIncident(incident("i3", controlv1.IncidentState_INCIDENT_STATE_FIRING))
	})
	if diff := cmp.Diff([]row{want[2], {4, store.ExportIncident, "i3"}}, read(0, 0)); diff != "" {
		t.Error(diff)
	}
}

// testTelemetry holds that what control planes say of themselves is bounded, the
// oldest going first, and that the rest is not touched.
func testTelemetry(t *testing.T, b *bench) {
	b.update(func(tx *store.Tx) error {
		if _, err := tx.PutFinding(&controlv1.Finding{FindingId: "f1", RunId: "r"}); err != nil {
			return err
		}
		for _, id := range []string{"t2", "t3", "t4"} {
			if err := tx.RecordTelemetry(id, &commonv1.Telemetry{Otlp: make([]byte, 1000)}); err != nil {
				return err
			}
		}
		return nil
	})
	left := map[int64][]string{4000: {"f1", "t2", "t3", "t4"}, 2500: {"f1", "t3", "t4"}, 500: {"f1"}}
	for _, tc := range []struct{ bytes, dropped int64 }{{4000, 0}, {2500, 1}, {2500, 0}, {500, 2}} {
		b.update(func(tx *store.Tx) error {
			dropped, err := tx.BoundTelemetry(tc.bytes)
			if dropped != tc.dropped {
				t.Errorf("bounding to %d bytes dropped %d batches, want %d", tc.bytes, dropped, tc.dropped)
			}
			return err
		})
		var ids []string
		b.view(func(tx *store.Tx) error {
			records, err := tx.ExportRecords(0, 0)
			for _, r := range records {
				ids = append(ids, r.ID)
			}
			return err
		})
		if diff := cmp.Diff(left[tc.bytes], ids); diff != "" {
			t.Errorf("after bounding to %d bytes: %s", tc.bytes, diff)
		}
	}
}
