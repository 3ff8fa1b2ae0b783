// Package blob is the contract of a second store: where the vault puts copies of
// its checkpoints, and gets them back from on another node. It never imports an
// implementation; those are in agent's builtin.go. What each must do is in
// blobtest.
package blob

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Object is what a store says of one thing that it keeps.
type Object struct {
	Key       string
	SizeBytes int64
}

// Store keeps objects by key. It is safe for concurrent use. Errors that may pass
// by themselves have the kind [fault.Unavailable] or none; [fault.Denied] and
// [fault.Invalid] do not.
type Store interface {
	// Put keeps what is read under a key, whole or not at all, in the place of what
	// was there. It reads sizeBytes; fewer or more is an error of kind
	// [fault.Invalid] and keeps nothing.
	Put(ctx context.Context, key string, in io.Reader, sizeBytes int64) error
	// Get gives what is kept under a key; the caller closes it. It fails with
	// [fault.NotFound], then or at the first read, when there is nothing.
	Get(ctx context.Context, key string) (io.ReadCloser, error)
	// List gives the objects whose keys begin with a prefix, in the order of their
	// keys as bytes.
	List(ctx context.Context, prefix string) ([]Object, error)
	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, key string) error
}

// Deps is what code injects into a store.
type Deps struct {
	Log *slog.Logger
	// Getenv reads the environment, for secrets.
	Getenv func(string) string
}

// CheckKey gives an error of kind [fault.Invalid] for what is no key: a key is
// slash-separated and clean, at most 1,024 bytes.
func CheckKey(key string) error {
	if key == "" || len(key) > 1024 || strings.ContainsRune(key, 0) {
		return fault.New(fault.Invalid, "object key %.140q is empty, too long or holds a zero byte", key)
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part == "." || part == ".." {
			return fault.New(fault.Invalid, "object key %.140q is not a clean relative path", key)
		}
	}
	return nil
}
