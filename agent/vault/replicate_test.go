package vault_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/agent/vault/blob"
	"github.com/vigil-ml/vigil/agent/vault/blob/dir"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// away is a store that is out of reach while away is set.
type away struct {
	blob.Store
	away  atomic.Bool
	tries atomic.Int32
}

func (a *away) Put(ctx context.Context, key string, in io.Reader, size int64) error {
	if a.away.Load() {
		a.tries.Add(1)
		return fault.New(fault.Unavailable, "the second store is away")
	}
	return a.Store.Put(ctx, key, in, size)
}

func replica(t testing.TB, path string) *away {
	t.Helper()
	s, err := dir.New(dir.Config{Dir: path}, blob.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return &away{Store: s}
}

// A checkpoint is copied once it is verified, while an outage waits, and is gone
// on from on another node that has nothing but the second store and the outer key.
func TestReplicaIsGoneOnFromElsewhere(t *testing.T) {
	home := t.TempDir()
	second, key := replica(t, filepath.Join(home, "second")), encrypted(t)
	second.away.Store(true)
	one := openReplicated(t, filepath.Join(home, "one"), second, key)
	stop := one.run()
	parts := ofRanks("ck", 7, 2)
	one.mustSave(parts...)
	testkit.Eventually(t, "the copying to be tried again", func() bool { return second.tries.Load() > 2 })
	if states := one.states("ck"); strings.Contains(states, "REPLICATED") {
		t.Errorf("states while the store is away: %s", states)
	}
	stop()
	// The agent restarts: what waits is found on the disk.
	second.away.Store(false)
	one = openReplicated(t, filepath.Join(home, "one"), second, key)
	one.run()
	testkit.Eventually(t, "both ranks to be copied", func() bool { return strings.Count(one.states("ck"), "REPLICATED") == 2 })

	other := openReplicated(t, filepath.Join(home, "other"), second, key)
	other.run()
	for rank := range uint32(2) {
		ref, _, err := other.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", Rank: rank, WorldSize: 2})
		if err != nil || ref.GetCheckpointId() != "ck" {
			t.Fatalf("rank %d: %v, %v", rank, ref, err)
		}
		if diff := cmp.Diff(parts[rank].files, readFiles(t, ref.Directory)); diff != "" {
			t.Errorf("rank %d (-want +got):\n%s", rank, diff)
		}
	}
}

// A copy that was cut short, or is damaged, is never gone on from.
func TestReplicaThatIsDamaged(t *testing.T) {
	for name, harm := range map[string]func(*testing.T, blob.Store){
		"flipped bit": func(t *testing.T, s blob.Store) {
			if err := s.Put(t.Context(), "run/new/rank-00000/files/weights.bin", strings.NewReader("x"), 1); err != nil {
				t.Fatal(err)
			}
		},
		"missing file": func(t *testing.T, s blob.Store) {
			if err := s.Delete(t.Context(), "run/new/rank-00000/files/weights.bin"); err != nil {
				t.Fatal(err)
			}
		},
		"no mark": func(t *testing.T, s blob.Store) {
			if err := s.Delete(t.Context(), "run/new/rank-00000/verified.json"); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			second := replica(t, filepath.Join(home, "second"))
			one := openReplicated(t, filepath.Join(home, "one"), second)
			one.run()
			one.mustSave(healthy("old", 1), healthy("new", 2))
			testkit.Eventually(t, "the copies", func() bool {
				return strings.Contains(one.states("new"), "REPLICATED") && strings.Contains(one.states("old"), "REPLICATED")
			})
			harm(t, second)
			other := openReplicated(t, filepath.Join(home, "other"), second)
			other.run()
			if id, passed := other.resolve(0, 1); id != "old" {
				t.Errorf("resolved %q, passed over %v", id, passed)
			}
		})
	}
}

// What is damaged here is not copied, loses its mark, and does not keep those
// behind it from being copied.
func TestDamageIsNotCopied(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"flipped bit": func(path string) error {
			return os.WriteFile(filepath.Join(path, "files", "weights.bin"), []byte(strings.Repeat("x", 3000)+"bad"), 0o600)
		},
		"cut file":         func(path string) error { return os.Truncate(filepath.Join(path, "files", "weights.bin"), 10) },
		"missing file":     func(path string) error { return os.Remove(filepath.Join(path, "files", "optimizer", "state")) },
		"missing manifest": func(path string) error { return os.Remove(filepath.Join(path, "manifest.json")) },
		"damaged mark": func(path string) error {
			return os.WriteFile(filepath.Join(path, "verified.json"), []byte(`{"manifest_sha256":"00"}`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			second := replica(t, filepath.Join(home, "second"))
			second.away.Store(true)
			one := openReplicated(t, filepath.Join(home, "one"), second)
			one.run()
			one.mustSave(healthy("bad", 1))
			one.wait("bad", "VERIFIED")
			rankDir := filepath.Join(home, "one", "vault", "run", "bad", "rank-00000")
			if err := harm(rankDir); err != nil {
				t.Fatal(err)
			}
			second.away.Store(false)
			one.mustSave(healthy("good", 2))
			testkit.Eventually(t, "the one behind to be copied", func() bool { return strings.Contains(one.states("good"), "REPLICATED") })
			if _, err := second.Get(t.Context(), "run/bad/rank-00000/verified.json"); !fault.Is(err, fault.NotFound) {
				t.Errorf("the damaged one is in the second store: %v", err)
			}
			list, err := one.List("run")
			if err != nil || len(list) != 2 {
				t.Fatalf("%+v, %v", list, err)
			}
			for _, c := range list {
				if damaged := c.Problem != ""; damaged == (c.ID == "good") {
					t.Errorf("%s has the problem %q", c.ID, c.Problem)
				}
			}
		})
	}
}

func openReplicated(t testing.TB, home string, second blob.Store, change ...func(*vault.Config)) *bench {
	t.Helper()
	return openWith(t, home, durable.OS{}, second, append(change, func(c *vault.Config) { c.RetryDelay = time.Millisecond })...)
}
