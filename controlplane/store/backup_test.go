package store_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit/postgres"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// filled gives a store with records of several tables, bytes, texts and zeros.
func filled(t *testing.T) *store.Store {
	s := open(t, filepath.Join(t.TempDir(), "vigil.db"), nil)
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		for n := range uint64(40) {
			if err := tx.PutRun(numbered(n), n); err != nil {
				return err
			}
		}
		if err := tx.PutIncident(store.IncidentRecord{Incident: &controlv1.Incident{IncidentId: "inc-é'", Kind: "k"}}); err != nil {
			return err
		}
		if err := tx.InsertNotification(store.Notification{IncidentID: "inc-é'", Receiver: "r", State: 1}); err != nil {
			return err
		}
		return tx.SetCursor("pipeline", 1<<40)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func backup(t *testing.T, s *store.Store) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := s.Backup(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// contents is what a store has to say of its records.
func contents(t *testing.T, s *store.Store) (all []any) {
	t.Helper()
	err := s.View(t.Context(), func(tx *store.Tx) error {
		runs, err := tx.Runs(0)
		if err != nil {
			return err
		}
		incident, err := tx.Incident("inc-é'")
		if err != nil {
			return err
		}
		cursor, err := tx.Cursor("pipeline")
		all = append(all, runs, incident, cursor)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestBackup goes from SQLite to PostgreSQL and back to SQLite.
func TestBackup(t *testing.T) {
	first := filled(t)
	want := contents(t, first)
	at := store.Config{URL: postgres.Start(t, "fsync=off").URL(t)}
	saved := backup(t, first)
	if rows, err := store.Restore(t.Context(), at, bytes.NewReader(saved), false); err != nil || rows < 43 {
		t.Fatalf("restored %d rows: %v", rows, err)
	}
	second := openAs(t, at, nil)
	if diff := cmp.Diff(want, contents(t, second), protocmp.Transform()); diff != "" {
		t.Errorf("in PostgreSQL (-want +got):\n%s", diff)
	}
	back := store.Config{Path: filepath.Join(t.TempDir(), "back.db")}
	if _, err := store.Restore(t.Context(), back, bytes.NewReader(backup(t, second)), false); err != nil {
		t.Fatal(err)
	}
	third := openAs(t, back, nil)
	if diff := cmp.Diff(want, contents(t, third), protocmp.Transform()); diff != "" {
		t.Errorf("in SQLite again (-want +got):\n%s", diff)
	}
	if err := third.Update(t.Context(), func(tx *store.Tx) error { return tx.PutRun(numbered(99), 1) }); err != nil {
		t.Errorf("the restored store takes nothing: %v", err)
	}
	anew := store.Config{Path: filepath.Join(t.TempDir(), "anew.db")}
	if _, err := store.Restore(t.Context(), anew, bytes.NewReader(saved), true); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, openAs(t, anew, nil)); got[2] != uint64(0) {
		t.Errorf("with a new bus the pipeline is at %v", got[2])
	}
	if _, err := store.Restore(t.Context(), back, bytes.NewReader(saved), false); !fault.Is(err, fault.Precondition) {
		t.Errorf("a restore over records gives %v, want that there are some", err)
	}
}

func TestRestoreRefuses(t *testing.T) {
	saved := backup(t, filled(t))
	spoil := map[string][]byte{"cut short": saved[:len(saved)*2/3], "none": []byte("no backup"), "empty": nil}
	flipped := bytes.Clone(saved)
	flipped[len(flipped)/2] ^= 0x10
	spoil["a bit flipped"] = flipped
	for name, data := range spoil {
		at := store.Config{Path: filepath.Join(t.TempDir(), "x.db")}
		if _, err := store.Restore(t.Context(), at, bytes.NewReader(data), true); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: got %v, want an error of kind corrupt", name, err)
		}
		if name != "empty" { // what came to nothing is not in the way
			if _, err := store.Restore(t.Context(), at, bytes.NewReader(saved), false); err != nil {
				t.Errorf("%s: the next one fails: %v", name, err)
			}
			continue
		}
		s := openAs(t, at, nil)
		if err := s.View(t.Context(), func(tx *store.Tx) error {
			runs, err := tx.Runs(0)
			if len(runs) != 0 {
				t.Errorf("%s: %d runs were restored", name, len(runs))
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	}
}
