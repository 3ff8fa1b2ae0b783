package supervise

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vigil-ml/vigil/trainer/supervise/cgroup"
)

// confinement is where the control groups of attempts are made. Its zero value
// makes none.
type confinement struct {
	parent *cgroup.Parent
	list   string // the file of those that were made
	said   bool   // what is left out was said
}

// openConfinement finds where control groups can be made. Where they cannot be it
// says so once; a limit that needs them is then an error.
func (s *supervisor) openConfinement() error {
	s.confinement.list = filepath.Join(s.dir, groupsName)
	if !s.config.ControlGroup {
		return nil
	}
	parent, err := cgroup.Open()
	if err != nil {
		return s.unconfined(err)
	}
	s.confinement.parent = parent
	return nil
}

// unconfined says why a command has no control group of its own, and what is not
// known for want of it.
func (s *supervisor) unconfined(err error) error {
	if s.config.Limits.MemoryBytes > 0 {
		return fmt.Errorf("limit the command's memory: %w", err)
	}
	if !s.confinement.said {
		s.deps.Log.Info("the command has no control group of its own: that memory ran out is told by the group of the supervisor, and who leaves the command by environment and descent",
			"cause", err)
		s.confinement.said = true
	}
	return nil
}

// confine makes the control group of an attempt; nil where there is none.
func (s *supervisor) confine(number uint32) (*cgroup.Group, error) {
	if s.confinement.parent == nil {
		return nil, nil
	}
	group, err := s.confinement.parent.Make(fmt.Sprintf("%s-attempt-%d", filepath.Base(s.dir), number), s.config.Limits.MemoryBytes)
	if err != nil {
		return nil, s.unconfined(err)
	}
	if err := appendLines(s.confinement.list, group.Paths()); err != nil {
		s.deps.Log.Warn("control groups may be left behind when the supervisor is killed", "cause", err)
	}
	if err := group.LeftOut(); err != nil && !s.confinement.said {
		s.deps.Log.Info("the command's control group does not do all that it could", "counts memory", group.CountsMemory(), "cause", err)
		s.confinement.said = true
	}
	return group, nil
}

func appendLines(path string, lines []string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(lines, "\n") + "\n")
	return errors.Join(err, f.Close())
}

// release removes an attempt's control group.
func (s *supervisor) release(group *cgroup.Group) {
	if group == nil {
		return
	}
	if err := group.Remove(); err != nil {
		s.deps.Log.Warn("a control group is left behind", "cause", err)
	}
}

// counter is a control group as far as it counts memory; [cgroup.Group] is one.
type counter interface {
	CountsMemory() bool
	OOMKills() (int64, bool)
	PeakBytes() (int64, bool)
}

// memory is what is counted of host memory while an attempt lasts.
type memory struct {
	group  counter              // of the attempt; nil: none
	own    func() (int64, bool) // OOM kills in the supervisor's own group, which the attempt's is in
	before int64                // of these when the attempt was launched
	known  bool
}

// watchMemory begins to count.
func watchMemory(group *cgroup.Group, own func() (int64, bool)) memory {
	m := memory{own: own}
	m.before, m.known = own()
	if group != nil {
		m.group = group
	}
	return m
}

// ownKills gives the OOM kills in the supervisor's own group.
func ownKills() (int64, bool) { return oomKills(cgroups, "/proc/self") }

// counts tells whether the attempt's group knows of its memory, which is certain
// only once the command is launched: it may not have been let in.
func (m memory) counts() bool { return m.group != nil && m.group.CountsMemory() }

// kills gives how many processes the kernel killed for want of memory.
func (m memory) kills() int64 {
	if m.counts() {
		kills, _ := m.group.OOMKills()
		return kills
	}
	now, ok := m.own()
	if !ok || !m.known {
		return 0
	}
	return now - m.before
}

// peak says how much memory the attempt used at most, where it was killed for
// want of it.
func (m memory) peak(limit int64) []string {
	if !m.counts() || m.kills() == 0 {
		return nil
	}
	peak, ok := m.group.PeakBytes()
	switch {
	case !ok:
		return nil
	case limit > 0:
		return []string{fmt.Sprintf("its control group used %d bytes of memory at most; --max-memory-bytes allows %d", peak, limit)}
	}
	return []string{fmt.Sprintf("its control group used %d bytes of memory at most", peak)}
}
