// Package dir keeps objects as files below a directory, for instance one that a
// file server exports.
package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/vigil-ml/vigil/agent/vault/blob"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Config is what users say.
type Config struct {
	// Dir is the directory; it is made when it is not there.
	Dir string `yaml:"dir"`
}

// Kind is the entry of the catalogue.
var Kind = plug.Of("dir", Config{}, New)

// besideName begins the names of files that are being written.
const besideName = ".put-"

type store struct{ dir string }

// New makes a store.
func New(config Config, _ blob.Deps) (blob.Store, error) {
	if config.Dir == "" {
		return nil, fault.New(fault.Invalid, "dir is empty; name a directory for the copies")
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store %s: %w", config.Dir, err)
	}
	return store{config.Dir}, nil
}

func (s store) path(key string) (string, error) {
	if err := blob.CheckKey(key); err != nil {
		return "", err
	}
	return filepath.Join(s.dir, filepath.FromSlash(key)), nil
}

// Put keeps what is read.
func (s store) Put(ctx context.Context, key string, in io.Reader, sizeBytes int64) error {
	path, err := s.path(key)
	if err != nil {
		return err
	}
	parent := filepath.Dir(path)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	beside := filepath.Join(parent, besideName+uuid.NewString())
	if err := write(ctx, beside, in, sizeBytes); err != nil {
		return fmt.Errorf("put %s: %w", key, errors.Join(err, os.Remove(beside)))
	}
	if err := os.Rename(beside, path); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return durable.OS{}.SyncDir(parent)
}

func write(ctx context.Context, path string, in io.Reader, sizeBytes int64) error {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(in, sizeBytes+1))
	if err == nil && n != sizeBytes {
		err = fault.New(fault.Invalid, "read %d bytes or more, want %d", n, sizeBytes)
	}
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close(), ctx.Err())
}

// Get gives what is kept.
func (s store) Get(_ context.Context, key string) (io.ReadCloser, error) {
	path, err := s.path(key)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "there is no object %s", key)
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	return f, nil
}

// List gives what is kept.
func (s store) List(ctx context.Context, prefix string) ([]blob.Object, error) {
	var list []blob.Object
	err := fs.WalkDir(os.DirFS(s.dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if strings.HasPrefix(entry.Name(), besideName) || !strings.HasPrefix(name, prefix) {
			return nil
		}
		info, err := entry.Info()
		if err == nil {
			list = append(list, blob.Object{Key: name, SizeBytes: info.Size()})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	slices.SortFunc(list, func(a, b blob.Object) int { return cmp.Compare(a.Key, b.Key) })
	return list, nil
}

// Delete removes an object.
func (s store) Delete(_ context.Context, key string) error {
	path, err := s.path(key)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}
