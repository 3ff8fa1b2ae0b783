package vault

import (
	"context"
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
	if err := v.checkFiles(ctx, rankDir, m); err != nil {
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

// checkFiles reads a rank's files, opens what is compressed or encrypted, and
// compares everything with the manifest. A disagreement is of kind
// [fault.Corrupt] and names the file.
func (v *Vault) checkFiles(ctx context.Context, rankDir string, m *Manifest) error {
	return v.readFiles(rankDir, m, func(f File, in *os.File) error {
		// Without this, what is read is the memory that was just written.
		from, closed := fromDisk(ctx, in, f.StoredBytes)
		defer closed()
		return v.codec.Decode(ctx, io.Discard, from, m.encoded(f), m.binding(f.Name))
	})
}

// readFiles opens each file of a rank in turn.
func (v *Vault) readFiles(rankDir string, m *Manifest, use func(File, *os.File) error) error {
	root, err := os.OpenRoot(filepath.Join(rankDir, filesName))
	if err != nil {
		return missingIsCorrupt(err, "directory %q", filesName)
	}
	defer func() { _ = root.Close() }()
	for _, file := range m.Files {
		in, err := root.Open(filepath.FromSlash(file.Name))
		if err != nil {
			return missingIsCorrupt(err, "file %q", file.Name)
		}
		err = checkSize(in, file.StoredBytes)
		if err == nil {
			err = use(file, in)
		}
		_ = in.Close()
		if err != nil {
			return fmt.Errorf("file %q: %w", file.Name, err)
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

// checkSize sees at once what need not be read.
func checkSize(f *os.File, want int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != want {
		return fault.New(fault.Corrupt, "has %d bytes, its manifest says %d", info.Size(), want)
	}
	return nil
}
