package duty

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/postgres"
)

// board is who does what at the moment.
type board struct {
	mu  sync.Mutex
	who map[string]map[string]bool
}

func (b *board) duty(replica, name string) Duty {
	return Duty{name, func(ctx context.Context) error {
		b.set(replica, name, true)
		<-ctx.Done()
		b.set(replica, name, false)
		return nil
	}}
}

func (b *board) set(replica, name string, does bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.who[name] == nil {
		b.who[name] = map[string]bool{}
	}
	if does {
		b.who[name][replica] = true
	} else {
		delete(b.who[name], replica)
	}
}

// each tells whether each of n duties is done by exactly one of some replicas.
func (b *board) each(n int, of ...string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	done := 0
	for _, who := range b.who {
		for _, replica := range of {
			if len(who) == 1 && who[replica] {
				done++
			}
		}
	}
	return done == n
}

const duties = 12

func roster(t *testing.T, s *store.Store, b *board, id string) *Roster {
	var all []Duty
	for n := range duties {
		all = append(all, b.duty(id, fmt.Sprint("duty/", n)))
	}
	return New(Config{LostAfter: time.Second}, Deps{
		Store: s, Self: store.Replica{ID: id}, Log: testkit.Logger(t), Metrics: prometheus.NewRegistry(),
	}, all...)
}

func openStore(t *testing.T, config store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), config, store.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestReplicasShareDuties: each duty has one owner, whoever comes, goes, or
// dies without a word.
func TestReplicasShareDuties(t *testing.T) {
	at := store.Config{URL: postgres.Start(t, "fsync=off").URL(t)}
	b := &board{who: map[string]map[string]bool{}}
	var ends []context.CancelFunc
	group := life.NewGroup(context.Background())
	start := func(id string, run func(*Roster) func(context.Context) error) {
		ctx, cancel := context.WithCancel(t.Context())
		r := roster(t, openStore(t, at), b, id)
		group.Go(id, func(context.Context) error { return run(r)(ctx) })
		ends = append(ends, cancel)
	}
	whole := func(r *Roster) func(context.Context) error { return r.Run }
	// One that dies ends its duties, as death does, and says nothing.
	dies := func(r *Roster) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := r.share(ctx); err != nil {
				return err
			}
			return r.keep(nil)
		}
	}
	start("a", whole)
	testkit.Eventually(t, "one to do all", func() bool { return b.each(duties, "a") })
	start("b", dies)
	start("c", whole)
	testkit.Eventually(t, "three to share", func() bool {
		return b.each(duties, "a", "b", "c") && !b.each(0, "b") && !b.each(0, "c") && !b.each(0, "a")
	})
	ends[1]()
	testkit.Eventually(t, "two to do what the dead one did", func() bool { return b.each(duties, "a", "c") })
	ends[0]()
	testkit.Eventually(t, "one to do what the other handed over", func() bool { return b.each(duties, "c") })
	ends[2]()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	err := openStore(t, at).View(t.Context(), func(tx *store.Tx) error {
		leases, err := tx.Leases()
		for name, lease := range leases {
			if lease.Owner != "" {
				t.Errorf("%s belongs to %s, which ended", name, lease.Owner)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestAlone: where nobody shares the records all is done at once, and nothing is
// written.
func TestAlone(t *testing.T) {
	b := &board{who: map[string]map[string]bool{}}
	s := openStore(t, store.Config{Path: filepath.Join(t.TempDir(), "vigil.db")})
	ctx, cancel := context.WithCancel(t.Context())
	group := life.NewGroup(ctx)
	group.Go("roster", roster(t, s, b, "a").Run)
	testkit.Eventually(t, "all duties", func() bool { return b.each(duties, "a") })
	cancel()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	err := s.View(t.Context(), func(tx *store.Tx) error {
		replicas, err := tx.Replicas()
		if len(replicas) > 0 {
			t.Errorf("it entered itself: %v", replicas)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestPreferredIsFair: of three, none does more than twice its share of many
// duties, and when one goes only its duties move.
func TestPreferredIsFair(t *testing.T) {
	const many = 300
	count, moved := map[string]int{}, 0
	for n := range many {
		name := fmt.Sprint("pipeline/", n)
		who := preferred(name, []string{"host-1a2b3c4d", "host-5e6f7a8b", "host-9c0d1e2f"})
		count[who]++
		after := preferred(name, []string{"host-1a2b3c4d", "host-5e6f7a8b"})
		if after != who && who != "host-9c0d1e2f" {
			moved++
		}
	}
	for who, n := range count {
		if n > many*2/3 {
			t.Errorf("%s does %d of %d", who, n, many)
		}
	}
	if len(count) != 3 || moved > 0 {
		t.Errorf("shares are %v, and %d moved between those who stayed", count, moved)
	}
}
