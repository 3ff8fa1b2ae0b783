package serve

import (
	"net"

	"golang.org/x/sys/unix"
)

// uidOf asks the kernel who connected.
func uidOf(conn *net.UnixConn) int {
	raw, err := conn.SyscallConn()
	if err != nil {
		return unknownUser
	}
	uid := unknownUser
	err = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid = int(cred.Uid)
		}
	})
	if err != nil {
		return unknownUser
	}
	return uid
}
