package store_test

import (
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/controlplane/store/storetest"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func TestMain(m *testing.M) {
	if path := childPath(); path != "" {
		commitForever(path)
		return
	}
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, path string, clock func() time.Time) *store.Store {
	t.Helper()
	return openAs(t, store.Config{Path: path}, clock)
}

func openAs(t testing.TB, config store.Config, clock func() time.Time) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), config, store.Deps{Log: testkit.Logger(t), Clock: clock, Exports: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestSQLiteEncrypted: with what is said of people encrypted all is the same.
func TestSQLiteEncrypted(t *testing.T) {
	storetest.Run(t, func(t *testing.T, clock func() time.Time) *store.Store {
		s := open(t, filepath.Join(t.TempDir(), "vigil.db"), clock)
		s.Protect(&storetest.Sealer{Key: 9})
		return s
	})
}

func TestSQLite(t *testing.T) {
	storetest.Run(t, func(t *testing.T, clock func() time.Time) *store.Store {
		return open(t, filepath.Join(t.TempDir(), "vigil.db"), clock)
	})
}
