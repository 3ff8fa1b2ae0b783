//go:build !linux

package vault

import (
	"io"
	"os"

	"github.com/vigil-ml/vigil/internal/durable"
)

// dropCache does nothing where there is no call for it.
func dropCache(*os.File) {}

// bypass does nothing where there is no call for it.
func bypass(*os.File, bool) bool { return false }

// writing gives what a file is written through: itself.
func writing(f durable.File) io.Writer { return f }
