package vault_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/agent/vault/blob"
	"github.com/vigil-ml/vigil/agent/vault/seal"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/testkit"
)

const keyringFile = ".keyring.json"

// ring is a second store that sees what becomes of the keyring.
type ring struct {
	blob.Store
	mu    sync.Mutex
	gets  int
	puts  int
	after func(puts int) // is called after each put
}

func (r *ring) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if key == keyringFile {
		r.mu.Lock()
		r.gets++
		r.mu.Unlock()
	}
	return r.Store.Get(ctx, key)
}

func (r *ring) Put(ctx context.Context, key string, in io.Reader, size int64) error {
	err := r.Store.Put(ctx, key, in, size)
	if err == nil && key == keyringFile {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.puts++
		if r.after != nil {
			r.after(r.puts)
		}
	}
	return err
}

func (r *ring) counts() (gets, puts int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gets, r.puts
}

func contentOf(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A keyring that was damaged here does not go over the good one of the second store.
func TestADamagedKeyringIsNotShared(t *testing.T) {
	for name, damage := range map[string]func(good string) string{
		"empty": func(string) string { return "" }, "another thing": func(string) string { return "{}" },
		"other bytes": func(good string) string {
			return strings.Replace(good, `"encryptedKeyset": "`, `"encryptedKeyset": "AAAA`, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			second := &ring{Store: replica(t, filepath.Join(home, "second"))}
			b := openReplicated(t, filepath.Join(home, "one"), second, withKeys(keyFile(t)))
			b.run()
			b.mustSave(healthy("a", 1))
			testkit.Eventually(t, "the copy", func() bool { return strings.Contains(b.states("a"), "REPLICATED") })
			good := contentOf(t, filepath.Join(home, "second", keyringFile))
			own := filepath.Join(home, "one", "vault", keyringFile)
			if damage(good) == good {
				t.Fatal("nothing is damaged")
			}
			if err := os.WriteFile(own, []byte(damage(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			before, _ := second.counts()
			b.mustSave(healthy("b", 2))
			testkit.Eventually(t, "the copying to be tried again", func() bool { gets, _ := second.counts(); return gets > before+2 })
			if now := contentOf(t, filepath.Join(home, "second", keyringFile)); now != good {
				t.Errorf("the second store's keyring became %.40q", now)
			}
			if strings.Contains(b.states("b"), "REPLICATED") {
				t.Error("what nobody could open elsewhere is said to be copied")
			}
			if err := os.WriteFile(own, []byte(good), 0o600); err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, "what waited to be copied", func() bool { return strings.Contains(b.states("b"), "REPLICATED") })
		})
	}
}

// Two nodes with vaults of their own put their keyrings at the same time: in the end
// the second store has the keys of both.
func TestTwoNodesShareTheirKeysAtOnce(t *testing.T) {
	home, kek := t.TempDir(), keyFile(t)
	open(t, filepath.Join(home, "two"), durable.OS{}, withKeys(kek))
	twos := contentOf(t, filepath.Join(home, "two", "vault", keyringFile))
	second := &ring{Store: replica(t, filepath.Join(home, "second"))}
	second.after = func(puts int) {
		if puts == 1 { // the other node had looked before
			if err := second.Store.Put(t.Context(), keyringFile, strings.NewReader(twos), int64(len(twos))); err != nil {
				t.Error(err)
			}
		}
	}
	one := openReplicated(t, filepath.Join(home, "one"), second, withKeys(kek))
	one.run()
	one.mustSave(healthy("a", 1))
	testkit.Eventually(t, "the copy", func() bool { return strings.Contains(one.states("a"), "REPLICATED") })
	keys, err := envelope.Settings{KeyFile: kek}.Keys(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	both, err := seal.OpenKeyring(t.Context(), envelope.File{
		FS: durable.OS{}, Path: filepath.Join(home, "second", keyringFile), Keys: keys, Template: seal.Template(), Clock: time.Now,
	})
	if err != nil || both.Size() != 2 {
		t.Errorf("the second store has %d keys, %v; want those of both nodes", both.Size(), err)
	}
}

// The service that has the outer key is not asked for each rank that is copied.
func TestTheOuterKeyIsNotAskedForEachCopy(t *testing.T) {
	home := t.TempDir()
	asked := filepath.Join(home, "asked")
	service := filepath.Join(home, "kms")
	if err := os.WriteFile(service, []byte("#!/bin/sh\necho x >>"+asked+"\nexec cat\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	second := &ring{Store: replica(t, filepath.Join(home, "second"))}
	with := func(c *vault.Config) { c.Encryption.Command, c.Encryption.KeyID = []string{service}, "k" }
	// Both have the same keys, and not as the same bytes.
	other := openReplicated(t, filepath.Join(home, "other"), second, with)
	other.run()
	other.mustSave(healthy("o", 1))
	testkit.Eventually(t, "the copy", func() bool { return strings.Contains(other.states("o"), "REPLICATED") })
	one := openDeps(t, filepath.Join(home, "one"), func(d *vault.Deps) {
		d.Metrics, d.Replica = prometheus.NewRegistry(), second
	}, with, func(c *vault.Config) { c.RetryDelay = time.Millisecond })
	one.run()
	if _, _, err := one.rotate(true); err != nil { // makes them differ, and shares
		t.Fatal(err)
	}
	if _, _, err := other.rotate(true); err != nil {
		t.Fatal(err)
	}
	one.mustSave(healthy("a", 2))
	testkit.Eventually(t, "the copy", func() bool { return strings.Contains(one.states("a"), "REPLICATED") })
	before := len(contentOf(t, asked))
	for _, id := range []string{"b", "c", "d", "e"} {
		one.mustSave(healthy(id, 3))
	}
	for _, id := range []string{"b", "c", "d", "e"} {
		testkit.Eventually(t, "the copy of "+id, func() bool { return strings.Contains(one.states(id), "REPLICATED") })
	}
	if now := len(contentOf(t, asked)); now != before {
		t.Errorf("it was asked %d times for four copies", (now-before)/2)
	}
}
