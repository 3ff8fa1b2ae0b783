package vault

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	// ownerSuffix names the file beside a staging root in memory that says whose
	// it is: the path of the vault's directory and the vault's identity.
	ownerSuffix = ".vault"
	// identityName is the file in the vault's directory with its identity.
	identityName = ".id"
)

// identity gives the name that a vault gets when it is made. One that was
// removed and made again at the same path is another vault: what was staged in
// memory for the first must never become a checkpoint of the second.
func identity(dir string) (string, error) {
	path := filepath.Join(dir, identityName)
	for range 2 {
		data, err := readBounded(path, 128)
		if id := strings.TrimSpace(string(data)); err == nil && id != "" {
			return id, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("read identity: %w", err)
		}
		// Nodes may share the directory: the link makes one of them the first.
		fresh := filepath.Join(dir, identityName+"."+uuid.NewString())
		if err := os.WriteFile(fresh, []byte(uuid.NewString()+"\n"), 0o600); err != nil {
			return "", fmt.Errorf("write identity: %w", err)
		}
		err = os.Link(fresh, path)
		_ = os.Remove(fresh)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("write identity: %w", err)
		}
	}
	return "", fault.New(fault.Corrupt, "read identity: %s is empty; write any name into it", path)
}

// memoryStaging gives the staging root in memory, or "" where it cannot be
// had; it is made when it is needed. The directory above it is the user's own:
// another user could have made it first, where all may write.
func memoryStaging(log *slog.Logger, dir, id, node string) string {
	own := fmt.Sprintf("/dev/shm/vigil-%d", os.Getuid())
	sum := sha256.Sum256([]byte(dir + "\x00" + id + "\x00" + node))
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
	return os.WriteFile(owner, []byte(v.config.Dir+"\n"+v.id), 0o600)
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

// stands tells whether a vault is still the one that it was. In doubt it is.
func stands(dir, id string) bool {
	data, err := readBounded(filepath.Join(dir, identityName), 128)
	if errors.Is(err, fs.ErrNotExist) {
		_, err := os.Lstat(dir)
		return id == "" && !errors.Is(err, fs.ErrNotExist)
	}
	return err != nil || id == "" || strings.TrimSpace(string(data)) == id
}

// sweepMemory removes roots of vaults that are gone: nobody would ever seal
// what is in them, and it takes memory.
func sweepMemory(log *slog.Logger, own string) {
	owners, err := filepath.Glob(filepath.Join(own, "*"+ownerSuffix))
	if err != nil {
		return
	}
	for _, owner := range owners {
		text, err := readBounded(owner, 1<<16)
		dir, id, _ := strings.Cut(string(text), "\n")
		if err != nil || !filepath.IsAbs(dir) || stands(dir, id) {
			continue
		}
		root := strings.TrimSuffix(owner, ownerSuffix)
		log.Info("remove the staging directory of a vault that is gone", "directory", root, "vault", dir)
		if err := os.RemoveAll(root); err != nil {
			log.Warn("remove staging directory", "directory", root, "error", err)
			continue
		}
		_ = os.Remove(owner)
	}
}
