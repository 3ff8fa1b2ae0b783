package cores

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// giveBack gives the machine back what this program has of its memory and does
// not use now: free pages of the heap, and pages of the program and its libraries,
// of which starting touches many that nothing needs again. Those are read from the
// page cache when they are needed.
func giveBack() {
	debug.FreeOSMemory()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return // what is kept is kept
	}
	defer func() { _ = f.Close() }()
	for _, m := range unchanged(f) {
		// An error means that the pages stay, as they did before.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.begin, m.end-m.begin, unix.MADV_DONTNEED)
	}
}

// mapping is a piece of this program's address space.
type mapping struct{ begin, end uintptr }

// unchanged finds, in what smaps says, the mappings of files that cannot be
// written to and of which no page differs from its file: a page that does is lost
// when it is given back.
func unchanged(smaps io.Reader) (all []mapping) {
	var m mapping
	var file bool
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		fields := bytes.Fields(lines.Bytes())
		if begin, end, ok := bytes.Cut(field(fields, 0), []byte{'-'}); ok && len(fields) >= 5 {
			m = mapping{hex(begin), hex(end)}
			access := fields[1]
			file = len(fields) >= 6 && fields[5][0] == '/' && m.begin < m.end && len(access) == 4 && access[0] == 'r' && access[1] == '-'
			continue
		}
		if file && len(fields) >= 2 && string(fields[0]) == "Anonymous:" && string(fields[1]) == "0" {
			all = append(all, m)
		}
	}
	return all
}

func field(fields [][]byte, i int) []byte {
	if i >= len(fields) {
		return nil
	}
	return fields[i]
}

func hex(text []byte) uintptr {
	n, err := strconv.ParseUint(string(text), 16, 64)
	if err != nil {
		return 0
	}
	return uintptr(n)
}
