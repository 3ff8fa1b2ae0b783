package store_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/controlplane/store/storetest"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/postgres"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestPostgres(t *testing.T) {
	server := postgres.Start(t, "fsync=off")
	storetest.Run(t, func(t *testing.T, clock func() time.Time) *store.Store {
		return openAs(t, store.Config{URL: server.URL(t)}, clock)
	})
	t.Run("shared", func(t *testing.T) { testShared(t, server.URL(t)) })
	t.Run("in the way", func(t *testing.T) { testInTheWay(t, server.URL(t)) })
	t.Run("another program's", func(t *testing.T) { testAnothers(t, server) })
	t.Run("NUL", func(t *testing.T) { testNUL(t, openAs(t, store.Config{URL: server.URL(t)}, nil)) })
}

// testShared has three control planes open one empty database at once, count
// in one row, and take from one outbox.
func testShared(t *testing.T, url string) {
	const replicas, updates, notifications = 3, 20, 45
	stores := make([]*store.Store, replicas)
	var wg sync.WaitGroup
	for i := range stores {
		wg.Go(func() { stores[i] = openAs(t, store.Config{URL: url}, nil) })
	}
	wg.Wait()
	err := stores[0].Update(t.Context(), func(tx *store.Tx) error {
		for i := range notifications {
			id := fmt.Sprint("inc-", i)
			if err := tx.PutIncident(store.IncidentRecord{Incident: &controlv1.Incident{IncidentId: id}}); err != nil {
				return err
			}
			if err := tx.InsertNotification(store.Notification{IncidentID: id, Receiver: "r", State: 1, Created: time.Now()}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	leased := map[string]int{}
	for _, s := range stores {
		wg.Go(func() {
			for range updates {
				err := s.Update(t.Context(), func(tx *store.Tx) error {
					n, err := tx.Cursor("count")
					if err != nil {
						return err
					}
					return tx.SetCursor("count", n+1)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for {
				got, err := s.Outbox().Lease(t.Context(), 4, time.Hour)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, d := range got {
					leased[d.ID]++
				}
				all := len(leased) == notifications
				mu.Unlock()
				if all {
					return
				}
			}
		})
	}
	wg.Wait()
	for id, n := range leased {
		if n != 1 {
			t.Errorf("%s was leased %d times", id, n)
		}
	}
	err = stores[1].View(t.Context(), func(tx *store.Tx) error {
		n, err := tx.Cursor("count")
		if n != replicas*updates {
			t.Errorf("counted %d, want %d: an update was lost", n, replicas*updates)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// testInTheWay: a transaction that another one got in the way of runs again, also
// where its function took the error of the statement for something else, of the
// same kind, and went on.
func testInTheWay(t *testing.T, url string) {
	mine, others := openAs(t, store.Config{URL: url}, nil), openAs(t, store.Config{URL: url}, nil)
	tries := 0
	err := mine.Update(t.Context(), func(tx *store.Tx) error {
		tries++
		n, err := tx.Cursor("c")
		if err != nil {
			return err
		}
		if tries == 1 {
			if err := others.Update(t.Context(), func(tx *store.Tx) error { return tx.SetCursor("c", 40) }); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.SetCursor("c", n+2); fault.Is(err, fault.Unavailable) {
			_, err = tx.Checkpoints("r", 0)
			return err
		}
		return tx.SetCursor("d", 1)
	})
	if err != nil || tries != 2 {
		t.Errorf("ran %d times, want 2: %v", tries, err)
	}
	err = mine.View(t.Context(), func(tx *store.Tx) error {
		n, err := tx.Cursor("c")
		if n != 42 {
			t.Errorf("the cursor is at %d, want 42", n)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func testAnothers(t *testing.T, server *postgres.Server) {
	url := server.URL(t)
	server.Exec(t, url, "CREATE TABLE runs (theirs TEXT)")
	s, err := store.Open(t.Context(), store.Config{URL: url}, store.Deps{Log: testkit.Logger(t)})
	if err == nil {
		_ = s.Close()
	}
	if !fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), "another program's") {
		t.Errorf("got %v, want that the schema is another program's", err)
	}
	url = server.URL(t)
	if err := openAs(t, store.Config{URL: url}, nil).View(t.Context(), func(tx *store.Tx) error {
		if err := tx.SetCursor("c", 1); !fault.Is(err, fault.Denied) {
			t.Errorf("a View could write: %v", err)
		}
		return nil
	}); err == nil {
		t.Error("a View that wrote was committed")
	}
	server.Exec(t, url, "INSERT INTO schema_version VALUES (77, 'future', 0)")
	s, err = store.Open(t.Context(), store.Config{URL: url}, store.Deps{Log: testkit.Logger(t)})
	if err == nil {
		_ = s.Close()
	}
	if !fault.Is(err, fault.Precondition) || !strings.Contains(err.Error(), "version 77") {
		t.Errorf("got %v, want that its version is too new", err)
	}
}

// testNUL: PostgreSQL has no NUL in texts, and a sender may write one.
func testNUL(t *testing.T, s *store.Store) {
	err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.PutRun(&controlv1.Run{RunId: "a\x00b"}, 1) })
	if err != nil {
		t.Fatal(err)
	}
	err = s.View(t.Context(), func(tx *store.Tx) error {
		run, err := tx.Run("a\x00b")
		if run.GetRunId() != "a\x00b" {
			t.Errorf("got %q", run.GetRunId())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestPostgresKilled kills the server under a writer, several times, and looks
// for every commit that it had told of. The store finds the server again by
// itself.
func TestPostgresKilled(t *testing.T) {
	server := postgres.Start(t)
	s := openAs(t, store.Config{URL: server.URL(t)}, nil)
	told := uint64(0)
	next := func(ctx context.Context) error {
		n := uint64(0)
		err := s.Update(ctx, func(tx *store.Tx) error {
			last, err := tx.Cursor("kill")
			if err != nil {
				return err
			}
			n = last + 1
			if err := tx.PutRun(numbered(n), n); err != nil {
				return err
			}
			return tx.SetCursor("kill", n)
		})
		if err == nil {
			told = n
		}
		return err
	}
	for round := range uint64(3) {
		begun := make(chan struct{})
		done := make(chan error)
		go func() {
			for i := 0; ; i++ {
				if err := next(t.Context()); err != nil {
					done <- err
					return
				}
				if i == 5 {
					close(begun)
				}
			}
		}()
		<-begun
		server.Kill()
		if err := <-done; !fault.Is(err, fault.Unavailable) {
			t.Errorf("round %d: a server that is gone gives %v, want an error of kind unavailable", round, err)
		}
		server.Run(t)
		testkit.Eventually(t, "the store to find the server again", func() bool { return next(t.Context()) == nil })
		err := s.View(t.Context(), func(tx *store.Tx) error {
			last, err := tx.Cursor("kill")
			if last != told {
				t.Errorf("round %d: %d was told of and the last one there is %d", round, told, last)
			}
			if err != nil {
				return err
			}
			runs, err := tx.Runs(0)
			if uint64(len(runs)) != last {
				t.Errorf("round %d: %d runs for cursor %d: half a transaction", round, len(runs), last)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
