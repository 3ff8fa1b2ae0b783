// Package sysfile reads the small text files of /proc and /sys again and again
// at little cost: one open, one read and one close, into a buffer that is used
// anew, and parsers that cut lines and fields out of it without copying.
//
// Collectors read hundreds of such files a second; os.ReadFile and a general
// parser cost several times as much (see the benchmark).
package sysfile

import (
	"bytes"
	"fmt"
	"io/fs"
	"iter"

	"golang.org/x/sys/unix"
)

const (
	// pageBytes is what one read of a seq_file gives at most, in practice.
	pageBytes = 4096
	// maxBytes bounds a file: /proc/stat of a machine with a thousand CPUs has
	// a hundred kilobytes.
	maxBytes = 4 << 20
)

// Reader reads files into its own buffer. The zero value is ready; it is for
// one goroutine.
type Reader struct {
	buf []byte
}

// Read gives a file's content, valid until the next call. The error is an
// [fs.PathError], so that errors.Is with [fs.ErrNotExist] works.
func (r *Reader) Read(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	if r.buf == nil {
		r.buf = make([]byte, 2*pageBytes)
	}
	size := 0
	for {
		if len(r.buf)-size < pageBytes {
			if len(r.buf) >= maxBytes {
				return nil, fmt.Errorf("read %s: more than %d bytes", path, maxBytes)
			}
			r.buf = append(r.buf, make([]byte, len(r.buf))...)
		}
		n, err := unix.Read(fd, r.buf[size:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if size += n; n == 0 { // a short read does not say that the file has ended
			return r.buf[:size], nil
		}
	}
}

// Uint reads a file of one number. A file that is missing or has something
// else gives false: what it stands for is not known.
func (r *Reader) Uint(path string) (uint64, bool) {
	data, err := r.Read(path)
	if err != nil {
		return 0, false
	}
	return Uint(bytes.TrimSpace(data))
}

// Lines gives the lines of a text without their ends.
func Lines(data []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(data) > 0 {
			line, rest, _ := bytes.Cut(data, []byte{'\n'})
			if !yield(line) {
				return
			}
			data = rest
		}
	}
}

// Field cuts the first field off a line; fields are separated by blanks.
func Field(line []byte) (field, rest []byte) {
	for len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
		line = line[1:]
	}
	for i, c := range line {
		if c == ' ' || c == '\t' {
			return line[:i], line[i:]
		}
	}
	return line, nil
}

// Fields fills into with the first fields of a line and gives how many there
// were.
func Fields(line []byte, into [][]byte) int {
	for i := range into {
		into[i], line = Field(line)
		if len(into[i]) == 0 {
			return i
		}
	}
	return len(into)
}

// Uint reads a decimal number; anything else gives false.
func Uint(digits []byte) (uint64, bool) {
	if len(digits) == 0 || len(digits) > 20 {
		return 0, false
	}
	var n uint64
	for _, c := range digits {
		d := uint64(c - '0')
		if d > 9 || n > (^uint64(0)-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

// Names gives the names in a directory, in no order. The error is an
// [fs.PathError].
func (r *Reader) Names(path string) ([]string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	if r.buf == nil {
		r.buf = make([]byte, 2*pageBytes)
	}
	var names []string
	for {
		n, err := unix.ReadDirent(fd, r.buf)
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(r.buf[:n], -1, names)
	}
}

// Count gives how many names a directory has.
func (r *Reader) Count(path string) (int, bool) {
	names, err := r.Names(path)
	return len(names), err == nil
}
