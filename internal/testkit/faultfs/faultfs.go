// Package faultfs is a file system whose operations fail when a test says so.
package faultfs

import (
	"os"
	"sync"

	"github.com/vigil-ml/vigil/internal/durable"
)

// Op is a file operation.
type Op string

// The operations.
const (
	Open    Op = "open"
	Write   Op = "write"
	Sync    Op = "sync"
	Rename  Op = "rename"
	Remove  Op = "remove"
	Mkdir   Op = "mkdir"
	SyncDir Op = "syncdir"
)

// FS passes operations on to another file system after asking Fail. It is safe
// for concurrent use.
type FS struct {
	// Below does the work.
	Below durable.FS

	mu   sync.Mutex
	fail func(op Op, path string) error
	log  []string
}

// New makes a file system over the machine's that never fails.
func New() *FS { return &FS{Below: durable.OS{}} }

// FailWith makes every later operation fail with what the function returns for
// it; nil lets it pass.
func (f *FS) FailWith(fail func(op Op, path string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

// Log gives the operations so far, each as "op path".
func (f *FS) Log() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.log...)
}

func (f *FS) check(op Op, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, string(op)+" "+path)
	if f.fail == nil {
		return nil
	}
	return f.fail(op, path)
}

// OpenFile opens a file whose writes and syncs can fail.
func (f *FS) OpenFile(path string, flag int, perm os.FileMode) (durable.File, error) {
	if err := f.check(Open, path); err != nil {
		return nil, err
	}
	below, err := f.Below.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return &file{File: below, fs: f, path: path}, nil
}

// Rename moves a file or directory.
func (f *FS) Rename(from, to string) error {
	if err := f.check(Rename, to); err != nil {
		return err
	}
	return f.Below.Rename(from, to)
}

// RemoveAll removes a file or directory tree.
func (f *FS) RemoveAll(path string) error {
	if err := f.check(Remove, path); err != nil {
		return err
	}
	return f.Below.RemoveAll(path)
}

// MkdirAll makes a directory and its parents.
func (f *FS) MkdirAll(path string, perm os.FileMode) error {
	if err := f.check(Mkdir, path); err != nil {
		return err
	}
	return f.Below.MkdirAll(path, perm)
}

// SyncDir puts a directory's entries on stable storage.
func (f *FS) SyncDir(path string) error {
	if err := f.check(SyncDir, path); err != nil {
		return err
	}
	return f.Below.SyncDir(path)
}

type file struct {
	durable.File
	fs   *FS
	path string
}

// Write tears a failing write: half of the bytes reach the file.
func (f *file) Write(p []byte) (int, error) {
	if err := f.fs.check(Write, f.path); err != nil {
		n, _ := f.File.Write(p[:len(p)/2])
		return n, err
	}
	return f.File.Write(p)
}

func (f *file) Sync() error {
	if err := f.fs.check(Sync, f.path); err != nil {
		return err
	}
	return f.File.Sync()
}
