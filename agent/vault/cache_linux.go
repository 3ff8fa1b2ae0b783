package vault

import (
	"errors"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/internal/durable"
)

// dropCache asks the kernel to forget a file's pages, so that the next read
// comes from the disk. It is a wish: the kernel keeps what is dirty or mapped.
func dropCache(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

const (
	// startBytes is how much is written before the disk is told to begin with it.
	startBytes = 8 << 20
	// directBytes is what a write past the page cache is aligned to: a page, and
	// no smaller than a block of any disk.
	directBytes = 4096
	// directLeast is the least that is worth a write past the page cache.
	directLeast = 256 << 10
)

// writing gives what a file is written through. On a local disk large pieces go
// past the page cache: what is sealed is not read again soon, its pages would
// take the place of the trainer's, and to get them costs more than to encrypt
// what is in them. Elsewhere the disk begins with what is written while more is
// written, so that the sync at the end has little left to wait for. Neither
// promises anything: only the sync does.
func writing(f durable.File) io.Writer {
	on, ok := f.(*os.File)
	if !ok {
		return f
	}
	if local(on) {
		return &direct{starting: starting{File: on}, able: true}
	}
	return &starting{File: on}
}

// local tells whether a file is on a disk of this machine that is read and
// written past the page cache as fast as through it.
func local(f *os.File) bool {
	var stat unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &stat) == nil && (stat.Type == unix.EXT4_SUPER_MAGIC || stat.Type == unix.XFS_SUPER_MAGIC)
}

// bypass has a file read past the page cache, or through it again, and tells
// whether it is read past it. Where that is not known to work, the kernel is
// asked to forget the file.
func bypass(f *os.File, on bool) bool {
	if on {
		dropCache(f)
		on = local(f)
	}
	return past(f, on) == nil && on
}

// past says whether a file is read and written past the page cache.
func past(f *os.File, on bool) error {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	flags &^= unix.O_DIRECT
	if on {
		flags |= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, flags)
	return err
}

// starting has the disk begin early.
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

// direct writes what is large and aligned past the page cache, and from the
// first piece on that is not, as the last one is, through it.
type direct struct {
	starting
	able, on bool
}

// Write writes.
func (d *direct) Write(p []byte) (int, error) {
	whole := 0
	if d.able && len(p) >= directLeast && uintptr(unsafe.Pointer(unsafe.SliceData(p)))%directBytes == 0 {
		whole = len(p) &^ (directBytes - 1)
	}
	if whole > 0 && d.set(true) {
		n, err := d.File.Write(p[:whole])
		d.at += int64(n)
		d.started = d.at
		if errors.Is(err, unix.EINVAL) && n == 0 { // a disk that wants more than pages
			whole = 0
		} else if err != nil || n == len(p) {
			return n, err
		}
	} else {
		whole = 0
	}
	d.set(false)
	d.able = false
	n, err := d.starting.Write(p[whole:])
	return whole + n, err
}

// set says whether writes go past the page cache, and tells whether they do.
func (d *direct) set(on bool) bool {
	if d.on == on {
		return on
	}
	if past(d.File, on) != nil {
		return d.on
	}
	d.on = on
	return on
}
