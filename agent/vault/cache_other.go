//go:build !linux

package vault

import (
	"io"
	"os"

	"github.com/vigil-ml/vigil/internal/durable"
)

// dropCache does nothing where there is no call for it.
func dropCache(*os.File) {}

// startWriting does nothing where there is no call for it.
func startWriting(f durable.File) io.Writer { return f }
