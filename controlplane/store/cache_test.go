package store_test

import (
	"errors"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/testkit"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// TestTransactionsSeeWhatTheyPut: runs are written late, and nobody can tell.
func TestTransactionsSeeWhatTheyPut(t *testing.T) {
	s, err := store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "vigil.db")}, store.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	put := func(tx *store.Tx, step int64) {
		t.Helper()
		if err := tx.PutRun(&controlv1.Run{RunId: "r", Step: step, Started: timestamppb.Now()}, 7); err != nil {
			t.Fatal(err)
		}
	}
	want := func(tx *store.Tx, step int64) {
		t.Helper()
		run, err := tx.Run("r")
		if err != nil || run.Step != step {
			t.Fatalf("run is %v, %v, want step %d", run, err, step)
		}
		run.Step = 999 // the caller's own
		again, err := tx.Run("r")
		if err != nil || again.Step != step {
			t.Errorf("a change of what was given shows: %v, %v", again, err)
		}
		all, err := tx.Runs(0)
		if err != nil || len(all) != 1 || all[0].Step != step {
			t.Errorf("runs are %v, %v, want step %d", all, err, step)
		}
	}
	update := func(do func(*store.Tx) error) error { return s.Update(t.Context(), do) }

	if err := update(func(tx *store.Tx) error {
		put(tx, 1)
		put(tx, 2)
		want(tx, 2)
		put(tx, 3)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	undone := errors.New("undone")
	if err := update(func(tx *store.Tx) error {
		want(tx, 3)
		put(tx, 4)
		put(tx, 5)
		return undone
	}); !errors.Is(err, undone) {
		t.Fatal(err)
	}
	if err := s.View(t.Context(), func(tx *store.Tx) error { want(tx, 3); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := update(func(tx *store.Tx) error {
		run, err := tx.Run("r")
		if err != nil {
			return err
		}
		run.Ended = timestamppb.Now()
		if err := tx.PutRun(run, 9); err != nil {
			return err
		}
		if _, open, err := tx.FirstOpenSequence(); err != nil || open {
			t.Errorf("an ended run counts as open (%v)", err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
