package seal

import (
	"context"
	"io"

	"github.com/vigil-ml/vigil/internal/life"
)

// behindBuffers is how many chunks may wait to be written: enough that neither
// side stands still for the other's hiccups.
const behindBuffers = 4

// behind writes on a task of its own, so that reading and encrypting go on
// meanwhile. Close waits until all is written; stop gives up. It is for one
// caller.
type behind struct {
	group   *life.Group
	full    chan []byte
	free    chan []byte
	failed  chan struct{} // closed when writing failed
	filling []byte
	closed  bool
}

func newBehind(ctx context.Context, to io.Writer) *behind {
	b := &behind{
		group: life.NewGroup(ctx),
		full:  make(chan []byte, behindBuffers), free: make(chan []byte, behindBuffers), failed: make(chan struct{}),
	}
	for range behindBuffers {
		b.free <- make([]byte, 0, chunkBytes)
	}
	b.group.Go("write behind", func(context.Context) error {
		for chunk := range b.full {
			if _, err := to.Write(chunk); err != nil {
				close(b.failed)
				return err
			}
			b.free <- chunk[:0]
		}
		return nil
	})
	return b
}

// Write copies what comes. After an error of the task it gives that error.
func (b *behind) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		if b.filling == nil {
			select {
			case b.filling = <-b.free:
			case <-b.failed:
				return written, b.end()
			}
		}
		n := min(len(p), cap(b.filling)-len(b.filling))
		b.filling = append(b.filling, p[:n]...)
		p, written = p[n:], written+n
		if len(b.filling) == cap(b.filling) {
			b.full <- b.filling // has room for all buffers
			b.filling = nil
		}
	}
	return written, nil
}

// Close writes what is left and waits.
func (b *behind) Close() error {
	if len(b.filling) > 0 && !b.closed {
		b.full <- b.filling
		b.filling = nil
	}
	return b.end()
}

func (b *behind) end() error {
	if !b.closed {
		b.closed = true
		close(b.full)
	}
	return b.group.Wait()
}
