package localapi

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
)

// maxSocketPath is what the kernel's sockaddr_un has room for.
const maxSocketPath = 107

// mode reads the socket's mode.
func (c Config) mode() (os.FileMode, error) {
	switch c.SocketMode {
	case "0600", "0660", "0666":
		n, err := strconv.ParseUint(c.SocketMode, 8, 16)
		return os.FileMode(n), err
	}
	return 0, fault.New(fault.Invalid, "mode %q of the socket is not 0600, 0660 or 0666", c.SocketMode)
}

// listen opens the trainers' socket, for those whom its mode lets in. A lock beside it,
// which the kernel takes from a dead process, tells a socket that was left
// from one that is served. Release gives the lock back.
func listen(path string, mode os.FileMode) (_ net.Listener, release func(), err error) {
	if len(path) > maxSocketPath {
		return nil, nil, fault.New(fault.Invalid, "socket %s: the path has %d bytes; the kernel takes at most %d", path, len(path), maxSocketPath)
	}
	if err := makeSocketDir(filepath.Dir(path), mode); err != nil {
		return nil, nil, err
	}
	unlock, err := durable.Lock(path+".lock", "the socket")
	if fault.Is(err, fault.Precondition) {
		return nil, nil, fault.WithHint(fault.New(fault.Exists, "socket %s: another agent serves it", path),
			"stop that agent, or name another socket")
	}
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	if err := removeStale(path); err != nil {
		return nil, nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, nil, fmt.Errorf("listen on socket: %w", err)
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("protect socket: %w", err), listener.Close())
	}
	return listener, unlock, nil
}

// makeSocketDir makes the socket's directory, through which those come whom the
// socket lets in. One that is there is taken as it is, unless others may write to it
// and so put a socket of their own in the place of the agent's.
func makeSocketDir(dir string, mode os.FileMode) error {
	through := 0o700 | (mode&0o060)>>1&0o010 | (mode&0o006)>>1&0o001 // whoever may read the socket may pass
	_, err := os.Stat(dir)
	fresh := errors.Is(err, os.ErrNotExist)
	if err := os.MkdirAll(dir, through); err != nil {
		return fmt.Errorf("make directory of socket: %w", err)
	}
	if fresh { // whatever the umask took away
		if err := os.Chmod(dir, through); err != nil {
			return fmt.Errorf("make directory of socket: %w", err)
		}
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("read directory of socket: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fault.WithHint(fault.New(fault.Denied, "directory %s of the socket can be written to by others (mode %04o)", dir, mode),
			"put the socket into a directory of its own, or chmod 700 this one")
	}
	return nil
}

// removeStale removes the socket that a dead agent left, and nothing else.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read socket: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return fault.New(fault.Exists, "socket %s: something that is no socket stands there", path)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return fault.New(fault.Exists, "socket %s: another program serves it", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	return nil
}
