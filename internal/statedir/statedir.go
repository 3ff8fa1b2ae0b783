// Package statedir says where a program keeps what it must not lose.
package statedir

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Default is where programs of this user keep the state of a part of Vigil:
// below XDG_STATE_HOME, or below the place that the XDG base directory
// specification gives without it, or below /var/lib for a user without a home.
func Default(part string) string {
	home, err := os.UserHomeDir()
	base := filepath.Join(home, ".local", "state")
	if err != nil {
		base = "/var/lib"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		base = dir
	}
	return filepath.Join(base, "vigil", part)
}

// Settle makes a state directory, readable by its user alone, and puts the
// relative ones among the paths below it.
func Settle(dir string, paths ...*string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.WithHint(fmt.Errorf("make state directory %s: %w", dir, err), "set state_dir to a directory that this user may make")
	}
	for _, path := range paths {
		if !filepath.IsAbs(*path) {
			*path = filepath.Join(dir, *path)
		}
	}
	return nil
}
