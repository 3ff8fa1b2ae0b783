package kernel

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// readBytes is the buffer of one read; a record has at most 8 KiB.
const readBytes = 8 << 10

// source reads /dev/kmsg, or a file of such lines, from its beginning. Reading
// never waits: it uses the system's own calls, since Go's would wait at the log's
// end. Waiting is Go's, which costs nothing while there is nothing.
type source struct {
	path string
	fd   int
	file *os.File // fd for the poller; nil while the log is not open
	buf  []byte
	rest []byte // an unfinished line of a file
}

// await waits until there is more to read or ctx ends. It gives false at once
// where the log is not open, or is a file, which can always be read.
func (s *source) await(ctx context.Context) bool {
	if s.file == nil || s.file.SetReadDeadline(time.Time{}) != nil {
		return false
	}
	conn, err := s.file.SyscallConn()
	if err != nil {
		return false
	}
	stop := context.AfterFunc(ctx, func() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	poll := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	err = conn.Read(func(uintptr) bool {
		n, err := unix.Poll(poll, 0)
		return n != 0 || (err != nil && !errors.Is(err, unix.EINTR))
	})
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded)
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
	if s.file != nil {
		return nil
	}
	fd, err := unix.Open(s.path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: s.path, Err: err}
	}
	s.fd, s.file, s.rest = fd, os.NewFile(uintptr(fd), s.path), s.rest[:0]
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
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}
