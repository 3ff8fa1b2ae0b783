//go:build !linux

package cgroup

import (
	"os/exec"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Parent is for Linux alone.
type Parent struct{}

// Group is for Linux alone.
type Group struct{}

// Open fails with fault.Unavailable.
func Open() (*Parent, error) {
	return nil, fault.New(fault.Unavailable, "find control groups: only Linux has them")
}

// Make is for Linux alone.
func (*Parent) Make(string, int64) (*Group, error) { return nil, nil }

// CountsMemory is for Linux alone.
func (*Group) CountsMemory() bool { return false }

// LeftOut is for Linux alone.
func (*Group) LeftOut() error { return nil }

// Paths is for Linux alone.
func (*Group) Paths() []string { return nil }

// Launch is for Linux alone.
func (*Group) Launch(cmd *exec.Cmd) (*exec.Cmd, error) { return cmd, cmd.Start() }

// OOMKills is for Linux alone.
func (*Group) OOMKills() (int64, bool) { return 0, false }

// PeakBytes is for Linux alone.
func (*Group) PeakBytes() (int64, bool) { return 0, false }

// Kill is for Linux alone.
func (*Group) Kill() int { return 0 }

// Remove is for Linux alone.
func (*Group) Remove() error { return nil }

// Clear is for Linux alone.
func Clear([]string) error { return nil }
