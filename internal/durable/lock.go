package durable

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Lock makes a file and holds it against every other process until unlock is
// called or this process ends, however it ends. It fails with
// [fault.Precondition] when another process holds it; what says what the lock
// is for, for instance "the bus".
func Lock(path, what string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", what, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", what, err)
		}
		return nil, fault.WithHint(fault.New(fault.Precondition, "lock %s: another process holds %s", what, path),
			"stop the other process, or choose another directory for this one")
	}
	return func() { _ = f.Close() }, nil
}
