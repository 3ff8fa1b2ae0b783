//go:build !linux

package supervise

import "syscall"

// groupLeader has a command lead a process group.
func groupLeader() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
