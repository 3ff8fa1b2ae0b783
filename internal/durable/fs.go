// Package durable writes files that survive: whole or not at all, and on
// stable storage before anyone is told so.
//
// Everything goes through [FS], so that a test can make a write fail, tear or
// fill the disk at any moment.
package durable

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// File is an open file; the one who opened it closes it.
type File interface {
	io.ReadWriteSeeker
	io.Closer
	// Sync puts what was written on stable storage.
	Sync() error
	// Truncate sets the length in bytes.
	Truncate(sizeBytes int64) error
}

// FS is the file operations whose order and failure matter. It is safe for
// concurrent use.
type FS interface {
	// OpenFile opens a file as [os.OpenFile] does.
	OpenFile(path string, flag int, perm os.FileMode) (File, error)
	// Rename moves a file or directory, replacing a file that is there.
	Rename(from, to string) error
	// RemoveAll removes a file, or a directory with all that is in it.
	RemoveAll(path string) error
	// MkdirAll makes a directory and its parents.
	MkdirAll(path string, perm os.FileMode) error
	// SyncDir puts a directory's entries on stable storage.
	SyncDir(path string) error
}

// OS is the machine's file system.
type OS struct{}

// OpenFile opens a file.
func (OS) OpenFile(path string, flag int, perm os.FileMode) (File, error) {
	return os.OpenFile(path, flag, perm)
}

// Rename moves a file or directory.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// RemoveAll removes a file or directory tree.
func (OS) RemoveAll(path string) error { return os.RemoveAll(path) }

// MkdirAll makes a directory and its parents.
func (OS) MkdirAll(path string, perm os.FileMode) error { return os.MkdirAll(path, perm) }

// SyncDir puts a directory's entries on stable storage.
func (OS) SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := dir.Sync(); err != nil {
		_ = dir.Close()
		return err
	}
	return dir.Close()
}

// WriteFile puts data at path, whole or not at all: beside it, synced, renamed
// over it, and the directory synced. After a crash the old content or the new
// is there.
func WriteFile(fsys FS, path string, data []byte, perm os.FileMode) error {
	beside := path + ".partial"
	if err := writeSynced(fsys, beside, data, perm); err != nil {
		_ = fsys.RemoveAll(beside)
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := fsys.Rename(beside, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := fsys.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("sync directory of %s: %w", path, err)
	}
	return nil
}

func writeSynced(fsys FS, path string, data []byte, perm os.FileMode) error {
	f, err := fsys.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
