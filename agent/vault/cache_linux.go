package vault

import (
	"os"

	"golang.org/x/sys/unix"
)

// dropCache asks the kernel to forget a file's pages, so that the next read
// comes from the disk. It is a wish: the kernel keeps what is dirty or mapped.
func dropCache(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
