package seal

import (
	"context"
	"errors"
	"io"

	"github.com/vigil-ml/vigil/internal/life"
)

const (
	// behindBuffers is how many pieces may wait to be written: enough that neither
	// side stands still for the other's hiccups.
	behindBuffers = 4
	// behindBytes is the size of a piece: large enough that a disk which is waited
	// for at each is still busy all the time. So large a slice begins at a page, as
	// a write past the page cache wants it.
	behindBytes = 2 << 20
)

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
		b.free <- make([]byte, 0, behindBytes)
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
		room, err := b.room()
		if err != nil {
			return written, err
		}
		n := copy(room, p)
		b.filled(n)
		p, written = p[n:], written+n
	}
	return written, nil
}

// fill reads to the end of in without a copy in between.
func (b *behind) fill(ctx context.Context, in io.Reader) (int64, error) {
	read := int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return read, err
		}
		room, err := b.room()
		if err != nil {
			return read, err
		}
		n, err := in.Read(room[:min(len(room), readBytes)])
		b.filled(n)
		read += int64(n)
		if errors.Is(err, io.EOF) {
			return read, nil
		}
		if err != nil {
			return read, err
		}
	}
}

// room is what is free of the buffer that is being filled.
func (b *behind) room() ([]byte, error) {
	if b.filling == nil {
		select {
		case b.filling = <-b.free:
		case <-b.failed:
			return nil, b.end()
		}
	}
	return b.filling[len(b.filling):cap(b.filling)], nil
}

// filled takes n bytes of the room, and has the buffer written when it is full.
func (b *behind) filled(n int) {
	b.filling = b.filling[:len(b.filling)+n]
	if len(b.filling) == cap(b.filling) {
		b.full <- b.filling // has room for all buffers
		b.filling = nil
	}
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
