//go:build unix

package scratch

import (
	"os"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// identityOf says which file it is.
func identityOf(info os.FileInfo) (identity, bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, false
	}
	return identity{device: uint64(stat.Dev), inode: stat.Ino}, true
}

// Alone tells whether a file has no name but the one under which it was looked at:
// what has another is somebody's, and is not written over.
func Alone(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink == 1
}

// mapFile maps a file that has these bytes.
func mapFile(f *os.File, sizeBytes int) (*mapping, error) {
	memory, err := unix.Mmap(int(f.Fd()), 0, sizeBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|populate)
	if err != nil {
		return nil, err
	}
	return &mapping{memory}, nil
}

// fill copies into the file's memory. Where that is not there any more, because
// somebody cut the file, it fails and the process lives.
func (m *mapping) fill(data []byte) (err error) {
	if len(data) > len(m.memory) {
		return errLost
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			err = errLost
		}
	}()
	copy(m.memory, data)
	return nil
}

func (m *mapping) close() error { return unix.Munmap(m.memory) }
