package vault

import (
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/internal/durable"
)

// dropCache asks the kernel to forget a file's pages, so that the next read
// comes from the disk. It is a wish: the kernel keeps what is dirty or mapped.
func dropCache(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// startBytes is how much is written before the disk is told to begin with it.
const startBytes = 8 << 20

// startWriting has the disk begin with what is written to a file while more is
// written, so that the sync at the end has little left to wait for. It promises
// nothing: only the sync does.
func startWriting(f durable.File) io.Writer {
	on, ok := f.(*os.File)
	if !ok {
		return f
	}
	return &starting{File: on}
}

type starting struct {
	*os.File
	at, started int64
}

// Write writes, and starts what came together.
func (s *starting) Write(p []byte) (int, error) {
	n, err := s.File.Write(p)
	s.at += int64(n)
	if s.at-s.started >= startBytes {
		_ = unix.SyncFileRange(int(s.Fd()), s.started, s.at-s.started, unix.SYNC_FILE_RANGE_WRITE)
		s.started = s.at
	}
	return n, err
}
