package vault

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// ownerSuffix names the file beside a staging root in memory that says whose it
// is: the path of the vault's directory.
const ownerSuffix = ".vault"

// memoryStaging gives the staging root in memory, or "" where it cannot be
// had; it is made when it is needed. The directory above it is the user's own:
// another user could have made it first, where all may write.
func memoryStaging(log *slog.Logger, dir, node string) string {
	own := fmt.Sprintf("/dev/shm/vigil-%d", os.Getuid())
	sum := sha256.Sum256([]byte(dir + "\x00" + node))
	root := filepath.Join(own, hex.EncodeToString(sum[:8]))
	if err := makePrivate(own); err != nil {
		log.Info("stage checkpoints on disk: memory cannot be used", "directory", own, "error", err)
		return ""
	}
	sweepMemory(log, own)
	return root
}

// claimMemory notes whose a root in memory is, before something is in it.
func (v *Vault) claimMemory() error {
	owner := v.memory + ownerSuffix
	if _, err := os.Lstat(owner); err == nil {
		return nil
	}
	return os.WriteFile(owner, []byte(v.config.Dir), 0o600)
}

// leaveMemory removes the root when nothing is in it; a later Begin makes it
// again.
func (v *Vault) leaveMemory() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.memory == "" {
		return
	}
	if err := os.Remove(v.memory); err == nil || os.IsNotExist(err) {
		_ = os.Remove(v.memory + ownerSuffix)
	}
}

// sweepMemory removes roots of vaults that are gone: nobody would ever seal
// what is in them, and it takes memory.
func sweepMemory(log *slog.Logger, own string) {
	owners, err := filepath.Glob(filepath.Join(own, "*"+ownerSuffix))
	if err != nil {
		return
	}
	for _, owner := range owners {
		dir, err := readBounded(owner, 1<<16)
		if err != nil || !filepath.IsAbs(string(dir)) {
			continue
		}
		if _, err := os.Lstat(string(dir)); !os.IsNotExist(err) {
			continue
		}
		root := strings.TrimSuffix(owner, ownerSuffix)
		log.Info("remove the staging directory of a vault that is gone", "directory", root, "vault", string(dir))
		if err := os.RemoveAll(root); err != nil {
			log.Warn("remove staging directory", "directory", root, "error", err)
			continue
		}
		_ = os.Remove(owner)
	}
}
