package vault

import (
	"context"
	"io"
	"os"

	"github.com/vigil-ml/vigil/internal/life"
)

const (
	// aheadBytes is read at a time and aheadBuffers is how many such pieces there
	// are. So large a slice begins at a page, as a read past the page cache wants
	// it.
	aheadBytes   = 2 << 20
	aheadBuffers = 3
)

// ahead reads on a task of its own, so that the disk is busy while what was read
// is looked at. It is for one caller, who closes it.
type ahead struct {
	group *life.Group
	ready chan []byte
	free  chan []byte
	err   error // why there is no more; set before ready is closed
	piece []byte
	whole []byte // the buffer that piece is the rest of
}

// fromDisk reads a stored file from the disk, whatever the page cache has of it,
// until closed is called.
func fromDisk(ctx context.Context, f *os.File, sizeBytes int64) (from io.Reader, closed func()) {
	if sizeBytes < aheadBytes { // not worth a task
		dropCache(f)
		return f, func() {}
	}
	a := &ahead{group: life.NewGroup(ctx), ready: make(chan []byte, aheadBuffers), free: make(chan []byte, aheadBuffers)}
	for range aheadBuffers {
		a.free <- make([]byte, aheadBytes)
	}
	a.group.Go("read ahead", func(ctx context.Context) error {
		a.err = a.read(ctx, f)
		close(a.ready)
		return nil
	})
	return a, a.close
}

// read reads to the end of the file and gives what ended it, io.EOF if all is well.
func (a *ahead) read(ctx context.Context, f *os.File) error {
	past := bypass(f, true)
	for {
		var buffer []byte
		select {
		case buffer = <-a.free:
		case <-ctx.Done():
			return ctx.Err()
		}
		n, err := f.Read(buffer)
		if n > 0 {
			a.ready <- buffer[:n] // has room for all buffers
		} else {
			a.free <- buffer
		}
		if past && n < len(buffer) {
			// The end, which is no multiple of a page, or a disk that does not do this:
			// what is left is read as any file is.
			past = bypass(f, false)
			continue
		}
		if err != nil {
			return err
		}
	}
}

// Read gives what was read, and then the error that ended it.
func (a *ahead) Read(p []byte) (int, error) {
	if len(a.piece) == 0 {
		if a.whole != nil {
			a.free <- a.whole // has room for all buffers
			a.whole = nil
		}
		piece, ok := <-a.ready
		if !ok {
			return 0, a.err
		}
		a.piece, a.whole = piece, piece[:cap(piece)]
	}
	n := copy(p, a.piece)
	a.piece = a.piece[n:]
	return n, nil
}

// close ends the task.
func (a *ahead) close() {
	a.group.Stop()
	_ = a.group.Wait()
}
