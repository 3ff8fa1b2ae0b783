//go:build !linux

package supervise

import (
	"syscall"

	"github.com/vigil-ml/vigil/internal/protocol"
)

// groupLeader has a command lead a process group.
func groupLeader() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// adoptOrphans is for Linux alone.
func adoptOrphans() error { return nil }

// sweepDescendants is for Linux alone: who leaves the group is not found here.
func sweepDescendants(string, bool) int { return 0 }

// marker is what a command has in its environment.
func marker(exitFile string) string { return protocol.EnvExitFile + "=" + exitFile }
