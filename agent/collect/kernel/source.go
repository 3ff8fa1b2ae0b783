package kernel

import (
	"bytes"
	"context"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// readBytes is the buffer of one read; a record has at most 8 KiB.
const readBytes = 64 << 10

// source reads /dev/kmsg, or a file of such lines, from its beginning and never
// waits. It uses the system's own calls: Go's poller would wait at the log's
// end.
type source struct {
	path string
	fd   int
	open bool
	buf  []byte
	rest []byte // an unfinished line of a file
}

// lines gives the lines that have come since the call before, and returns at
// the end of the log, when ctx ends, or with the error of yield, after which it
// begins anew. What the
// kernel wrote over is left to the numbers to show.
func (s *source) lines(ctx context.Context, yield func(line []byte) error) error {
	if err := s.begin(); err != nil {
		return err
	}
	for ctx.Err() == nil {
		n, err := unix.Read(s.fd, s.buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EPIPE): // EPIPE: written over, the next is the oldest there
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil:
			s.close()
			return &fs.PathError{Op: "read", Path: s.path, Err: err}
		case n <= 0:
			return nil
		}
		if err := s.split(s.buf[:n], yield); err != nil {
			s.close() // the rest of what was read is read again
			return err
		}
	}
	return nil // the rest is for the next call
}

func (s *source) begin() error {
	if s.open {
		return nil
	}
	fd, err := unix.Open(s.path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: s.path, Err: err}
	}
	s.fd, s.open, s.rest = fd, true, s.rest[:0]
	if s.buf == nil {
		s.buf = make([]byte, readBytes)
	}
	return nil
}

// split gives whole lines. One that does not end within a read's size is
// dropped: it is none of the kernel's.
func (s *source) split(data []byte, yield func(line []byte) error) error {
	for {
		line, rest, ok := bytes.Cut(data, []byte{'\n'})
		if !ok {
			if len(s.rest)+len(data) > readBytes {
				s.rest = s.rest[:0]
			}
			s.rest = append(s.rest, data...)
			return nil
		}
		if len(s.rest) > 0 {
			line = append(s.rest, line...)
			s.rest = s.rest[:0]
		}
		if err := yield(line); err != nil {
			return err
		}
		data = rest
	}
}

// close closes the log; the next call of lines begins anew.
func (s *source) close() {
	if s.open {
		_ = unix.Close(s.fd)
		s.open = false
	}
}
