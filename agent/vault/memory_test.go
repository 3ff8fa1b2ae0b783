package vault

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vigil-ml/vigil/internal/testkit"
)

// Roots in memory go with their vault, and those of others stay.
func TestMemoryOfVaultsThatAreGoneIsRemoved(t *testing.T) {
	own, vaults := t.TempDir(), t.TempDir()
	id, err := identity(vaults)
	if err != nil {
		t.Fatal(err)
	}
	for name, owner := range map[string]string{
		"gone": filepath.Join(vaults, "gone") + "\nan id", "there": vaults + "\n" + id, "another": vaults + "\nanother id",
		"unnamed": "", "odd": "not absolute",
	} {
		if err := os.MkdirAll(filepath.Join(own, name, "run/ck/rank-00000/files"), 0o700); err != nil {
			t.Fatal(err)
		}
		if name == "unnamed" {
			continue
		}
		if err := os.WriteFile(filepath.Join(own, name+ownerSuffix), []byte(owner), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sweepMemory(testkit.Logger(t), own)
	for name, want := range map[string]bool{
		"gone": false, "gone.vault": false, "another": false, "another.vault": false, "there": true, "there.vault": true, "unnamed": true, "odd": true,
	} {
		if _, err := os.Lstat(filepath.Join(own, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAVaultMadeAnewIsAnother: what was staged for a vault that was removed
// never becomes a checkpoint of the one that was made in its place.
func TestAVaultMadeAnewIsAnother(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	var ids []string
	for range 2 {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		first, err := identity(dir)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := identity(dir); err != nil || again != first {
			t.Errorf("opened again: %q, %v, want %q", again, err, first)
		}
		ids = append(ids, first)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if ids[0] == ids[1] {
		t.Error("the vault that was made anew has the old identity")
	}
}

func TestEmptyMemoryIsLeft(t *testing.T) {
	for name, empty := range map[string]bool{"empty": true, "in use": false} {
		t.Run(name, func(t *testing.T) {
			v := &Vault{memory: filepath.Join(t.TempDir(), "root"), config: Config{Dir: t.TempDir()}}
			if err := v.claimMemory(); err != nil {
				t.Fatal(err)
			}
			dir := v.memory
			if !empty {
				dir = filepath.Join(v.memory, "run")
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			v.leaveMemory()
			for _, path := range []string{v.memory, v.memory + ownerSuffix} {
				if _, err := os.Lstat(path); (err == nil) == empty {
					t.Errorf("%s: %v", path, err)
				}
			}
		})
	}
}
