package vault_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// keyFile writes a fresh outer key.
func keyFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(envelope.Generate()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// withKeys configures the outer key and those before it.
func withKeys(current string, previous ...string) func(*vault.Config) {
	return func(c *vault.Config) {
		c.Encryption.KeyFile = current
		for _, path := range previous {
			c.Encryption.Previous = append(c.Encryption.Previous, envelope.Source{KeyFile: path})
		}
	}
}

// rotate does what a command of the control plane asks for.
func (b *bench) rotate(fresh bool) (detail string, steps int64, err error) {
	action := commonv1.CheckpointAction_CHECKPOINT_ACTION_REWRAP_KEYS
	if fresh {
		action = commonv1.CheckpointAction_CHECKPOINT_ACTION_ROTATE_KEYS
	}
	detail, err = b.Do(b.t.Context(), &commonv1.CheckpointTask{RunId: "run", CheckpointId: "any", Action: action},
		func(done, total int64) { steps = total })
	return detail, steps, err
}

// The outer key is replaced, here and in the second store, and with the old one
// gone everything still opens; a new inner key is used from then on.
func TestKeysAreRotated(t *testing.T) {
	home := t.TempDir()
	second, old, fresh := replica(t, filepath.Join(home, "second")), keyFile(t), keyFile(t)
	one := openReplicated(t, filepath.Join(home, "one"), second, withKeys(old))
	stop := one.run()
	one.mustSave(healthy("a", 1), healthy("b", 2))
	testkit.Eventually(t, "the copies", func() bool { return strings.Contains(one.states("b"), "REPLICATED") })
	stop()

	// The new key is configured, and nothing happens before somebody asks.
	one = openReplicated(t, filepath.Join(home, "one"), second, withKeys(fresh, old))
	stop = one.run()
	detail, ranks, err := one.rotate(true)
	if err != nil || ranks != 2 || !strings.Contains(detail, "2 encrypted ranks of checkpoints open with it") || !strings.Contains(detail, "second store") {
		t.Fatalf("%q of %d ranks, %v", detail, ranks, err)
	}
	one.mustSave(healthy("c", 3))
	testkit.Eventually(t, "the copy", func() bool { return strings.Contains(one.states("c"), "REPLICATED") })
	keys := map[string]bool{}
	list, err := one.List("run")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		keys[c.Ranks[0].KeyID] = true
	}
	if len(list) != 3 || len(keys) != 2 {
		t.Errorf("%d checkpoints have the keys %v, want two", len(list), keys)
	}
	if detail, _, err := one.rotate(false); err != nil || !strings.Contains(detail, "already") {
		t.Errorf("asked again: %q, %v", detail, err)
	}
	stop()

	// The old key is gone, and a new node has only the new one and the second store.
	if err := os.Remove(old); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"one", "other"} {
		b := openReplicated(t, filepath.Join(home, dir), second, withKeys(fresh))
		b.run()
		ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", WorldSize: 1})
		if err != nil || ref.GetCheckpointId() != "c" {
			t.Fatalf("%s goes on from %v, %v", dir, ref, err)
		}
		if diff := cmp.Diff(healthy("c", 3).files, readFiles(t, ref.Directory)); diff != "" {
			t.Errorf("%s: %s", dir, diff)
		}
	}
}

func TestKeysThatCannotBeRotated(t *testing.T) {
	home := t.TempDir()
	clear := openReplicated(t, filepath.Join(home, "clear"), nil)
	if _, _, err := clear.rotate(false); !fault.Is(err, fault.Precondition) {
		t.Errorf("a vault without keys: %v", err)
	}
	// The second store is away: the vault's own keyring is done, and the next try
	// does the rest.
	second, old, fresh := replica(t, filepath.Join(home, "second")), keyFile(t), keyFile(t)
	one := openReplicated(t, filepath.Join(home, "one"), second, withKeys(old))
	stop := one.run()
	one.mustSave(healthy("a", 1))
	testkit.Eventually(t, "the copy", func() bool { return strings.Contains(one.states("a"), "REPLICATED") })
	stop()
	one = openReplicated(t, filepath.Join(home, "one"), second, withKeys(fresh, old))
	second.away.Store(true)
	if _, _, err := one.rotate(false); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "second store") {
		t.Errorf("with the second store away: %v", err)
	}
	second.away.Store(false)
	if detail, _, err := one.rotate(false); err != nil || !strings.Contains(detail, "already") {
		t.Errorf("the next try: %q, %v", detail, err)
	}
	r, err := second.Get(t.Context(), ".keyring.json")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	copied, err := io.ReadAll(r)
	here, hereErr := os.ReadFile(filepath.Join(home, "one", "vault", ".keyring.json"))
	if err != nil || hereErr != nil || string(copied) != string(here) {
		t.Errorf("the second store's keyring is another: %v, %v", err, hereErr)
	}
}

// Each use of the outer key is told.
func TestKeyUseIsTold(t *testing.T) {
	home, old := t.TempDir(), keyFile(t)
	var used []string
	open := func(change func(*vault.Config)) *vault.Vault {
		config := vault.Defaults(filepath.Join(home, "vault"))
		config.StagingDir = filepath.Join(home, "staging")
		change(&config)
		deps := depsFor(t)
		deps.KeyUsed = func(_ context.Context, u envelope.Use) { used = append(used, u.What) }
		v, err := vault.New(config, deps)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	open(withKeys(old))
	v := open(withKeys(keyFile(t), old))
	if _, err := v.RotateKeys(t.Context(), true, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"make", "open", "open", "open", "rewrap", "open", "add"}, used); diff != "" {
		t.Error(diff)
	}
}
