package supervise

import "syscall"

// groupLeader has a command lead a process group, and die with the supervisor
// should that be killed.
func groupLeader() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
