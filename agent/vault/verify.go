package vault

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
)

// verify reads a rank's files back and writes the mark that says so. Files that
// do not agree are taken out of the vault again, so that sealing can be tried
// anew.
func (v *Vault) verify(ctx context.Context, k key, m *Manifest, manifestSHA256 string) error {
	rankDir := v.rankDir(k)
	if err := checkDigests(ctx, rankDir, m); err != nil {
		if fault.Is(err, fault.Corrupt) {
			err = errors.Join(err, v.withdraw(k))
		}
		return fmt.Errorf("verify checkpoint: %w", err)
	}
	data, err := json.Marshal(verification{ManifestSHA256: manifestSHA256, Verified: v.deps.Clock().UTC()})
	if err != nil {
		return fmt.Errorf("encode verified mark: %w", err)
	}
	if err := durable.WriteFile(v.deps.FS, filepath.Join(rankDir, verifiedName), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("verify checkpoint: %w", err)
	}
	return nil
}

// withdraw gives a rank's directory the name of an unfinished one.
func (v *Vault) withdraw(k key) error {
	if err := v.deps.FS.RemoveAll(v.partialDir(k)); err != nil {
		return err
	}
	return v.deps.FS.Rename(v.rankDir(k), v.partialDir(k))
}

// checkDigests reads a rank's files and compares them with its manifest. A
// disagreement is of kind [fault.Corrupt] and names the file.
func checkDigests(ctx context.Context, rankDir string, m *Manifest) error {
	root, err := os.OpenRoot(filepath.Join(rankDir, filesName))
	if err != nil {
		return missingIsCorrupt(err, "directory %q", filesName)
	}
	defer func() { _ = root.Close() }()
	buffer := make([]byte, copyBytes)
	for _, want := range m.Files {
		f, err := root.Open(filepath.FromSlash(want.Name))
		if err != nil {
			return missingIsCorrupt(err, "file %q", want.Name)
		}
		err = checkDigest(ctx, f, want, buffer)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("file %q: %w", want.Name, err)
		}
	}
	return nil
}

func missingIsCorrupt(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	if errors.Is(err, os.ErrNotExist) {
		return fault.New(fault.Corrupt, "%s is missing", what)
	}
	return fmt.Errorf("read %s: %w", what, err)
}

func checkDigest(ctx context.Context, f *os.File, want File, buffer []byte) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != want.SizeBytes {
		return fault.New(fault.Corrupt, "has %d bytes, its manifest says %d", info.Size(), want.SizeBytes)
	}
	// Without this, what is read is the memory that was just written.
	dropCache(f)
	digest := sha256.New()
	if _, err := copyDigesting(ctx, io.Discard, f, digest, buffer); err != nil {
		return err
	}
	if got := hex.EncodeToString(digest.Sum(nil)); got != want.SHA256 {
		return fault.New(fault.Corrupt, "its SHA-256 is %s, its manifest says %s", got, want.SHA256)
	}
	return nil
}
