package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	// supervisorGroup is where a supervisor goes that must leave its own group: in
	// version 2 a group that hands on controllers has no processes itself.
	supervisorGroup = "vigil-supervisor"

	rounds     = 100 // of killing, and of removing
	roundPause = 10 * time.Millisecond
)

// Parent is the groups that the groups of attempts are made in: those that the
// supervisor itself is in. Its zero value is none. It is for one goroutine.
type Parent struct {
	at     places
	counts bool // version 2 has memory for groups that are made in it
}

// Open finds where groups can be made. It fails with fault.Unavailable where
// there is no place, and says why.
func Open() (*Parent, error) {
	// By this thread, not by the process, which is shown where its first thread is:
	// that may be the one that another supervisor starts a command from, see Launch.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return openAt("/proc/thread-self")
}

func openAt(proc string) (*Parent, error) {
	at, err := find(proc)
	if err != nil {
		return nil, fault.Mark(fault.Unavailable, err)
	}
	p := &Parent{at: at}
	if at.unified != "" {
		p.counts = handOnMemory(at.unified)
	}
	if p.counts {
		p.at.memory = "" // version 2 has it
	}
	if p.at == (places{}) {
		return nil, fault.New(fault.Unavailable, "find control groups: none is mounted")
	}
	return p, nil
}

// handOnMemory has groups that are made in dir count memory, and tells whether
// they do.
func handOnMemory(dir string) bool {
	if !has(filepath.Join(dir, "cgroup.controllers"), "memory") {
		return false
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	if has(control, "memory") {
		return true
	}
	err := write(control, "+memory")
	if errors.Is(err, syscall.EBUSY) && aloneIn(dir) {
		// Only this supervisor stands in the way.
		own := filepath.Join(dir, supervisorGroup)
		if err = os.Mkdir(own, 0o755); err == nil || errors.Is(err, os.ErrExist) {
			if err = write(filepath.Join(own, "cgroup.procs"), strconv.Itoa(os.Getpid())); err == nil {
				err = write(control, "+memory")
			}
		}
	}
	return err == nil
}

func has(path, word string) bool {
	text, err := os.ReadFile(path)
	return err == nil && slices.Contains(strings.Fields(string(text)), word)
}

// aloneIn tells whether this process is the only one in a group.
func aloneIn(dir string) bool {
	pids := pidsIn(dir)
	return len(pids) == 1 && pids[0] == os.Getpid()
}

// write writes what a control file is told, without making one.
func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// Group is the control groups of one attempt. It is for one goroutine at a time;
// whoever made it calls Remove.
type Group struct {
	unified *os.File // the directory, of version 2; nil: none
	memory  string   // the directory, of version 1; empty: none
	outside string   // the group of version 1 that the supervisor is in
	counts  bool     // memory is counted in unified
	bounded bool     // its memory is
	wrong   error    // why something is left out
}

// Make makes a group, whose name no other in the machine has. MemoryMax bounds the memory of its processes in bytes; 0
// does not. It fails with fault.Unavailable where no group can be made, or none
// that has the bound that is asked for.
func (p *Parent) Make(name string, memoryMax int64) (*Group, error) {
	g := &Group{outside: p.at.memory, counts: p.counts}
	if p.at.unified != "" {
		g.wrong = errors.Join(g.wrong, g.makeUnified(filepath.Join(p.at.unified, name)))
	}
	if p.at.memory != "" {
		dir := filepath.Join(p.at.memory, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			g.wrong = errors.Join(g.wrong, err)
		} else {
			g.memory = dir
		}
	}
	err := g.wrong
	switch {
	case g.unified == nil && g.memory == "":
	case memoryMax > 0 && !g.CountsMemory():
		err = errors.Join(errors.New("the memory controller is not handed on to it"), err)
	case memoryMax > 0:
		if err = g.bound(memoryMax); err == nil {
			g.bounded = true
			return g, nil
		}
	default:
		return g, nil
	}
	_ = g.Remove()
	return nil, fault.Mark(fault.Unavailable, fmt.Errorf("make control group %s: %w", name, err))
}

func (g *Group) makeUnified(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	// The kernels that can kill a group can also start a process in one.
	if _, err := os.Stat(filepath.Join(dir, "cgroup.kill")); err != nil {
		_ = os.Remove(dir)
		return err
	}
	opened, err := os.Open(dir)
	if err != nil {
		return err
	}
	g.unified = opened
	return nil
}

func (g *Group) bound(memoryMax int64) error {
	text := strconv.FormatInt(memoryMax, 10)
	if !g.counted() {
		return write(filepath.Join(g.memory, "memory.limit_in_bytes"), text)
	}
	// Without swap of its own, or what does not fit would go there.
	_ = write(filepath.Join(g.unified.Name(), "memory.swap.max"), "0")
	return write(filepath.Join(g.unified.Name(), "memory.max"), text)
}

// counted tells whether version 2 counts the group's memory.
func (g *Group) counted() bool { return g.unified != nil && g.counts }

// CountsMemory tells whether it is known whom the kernel kills here for want of
// memory; after Launch, whether the command was let in.
func (g *Group) CountsMemory() bool { return g.counted() || g.memory != "" }

// LeftOut says what could not be made; nil: nothing.
func (g *Group) LeftOut() error { return g.wrong }

// Paths gives the group's directories, for whoever has to remove them later.
func (g *Group) Paths() []string {
	var paths []string
	if g.unified != nil {
		paths = append(paths, g.unified.Name())
	}
	if g.memory != "" {
		paths = append(paths, g.memory)
	}
	return paths
}

// Launch starts a command in the group, and gives the one that was started: where
// the machine cannot start a process in a group it is a copy, put there at once.
// The calling goroutine is locked to its thread, which is in the group meanwhile
// as far as version 1 goes: what a process starts is where the thread is that
// starts it.
func (g *Group) Launch(cmd *exec.Cmd) (*exec.Cmd, error) {
	if g.memory != "" {
		thread := strconv.Itoa(unix.Gettid())
		switch err := write(filepath.Join(g.memory, "tasks"), thread); {
		case err == nil:
			defer func() { _ = write(filepath.Join(g.outside, "tasks"), thread) }()
		case g.bounded:
			return cmd, fmt.Errorf("enter control group: %w", err)
		default:
			g.wrong = errors.Join(g.wrong, fmt.Errorf("enter control group: %w", err))
			_ = os.Remove(g.memory)
			g.memory = ""
		}
	}
	if g.unified == nil {
		return cmd, cmd.Start()
	}
	second := exec.Cmd{
		Path: cmd.Path, Args: cmd.Args, Env: cmd.Env, Dir: cmd.Dir, Stdin: cmd.Stdin, Stdout: cmd.Stdout, Stderr: cmd.Stderr,
		SysProcAttr: new(*cmd.SysProcAttr),
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(g.unified.Fd())
	err := cmd.Start()
	if !cannotStartInside(err) {
		return cmd, err
	}
	if err := second.Start(); err != nil {
		return &second, err
	}
	return &second, g.take(&second)
}

// cannotStartInside tells whether this is what kernels and their filters answer
// that do not let a process be started in a group.
func cannotStartInside(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	return ok && slices.Contains([]syscall.Errno{syscall.ENOSYS, syscall.EINVAL, syscall.EPERM, syscall.EBUSY, syscall.EOPNOTSUPP}, errno)
}

// take puts a process that was started outside into the group.
func (g *Group) take(cmd *exec.Cmd) error {
	err := write(filepath.Join(g.unified.Name(), "cgroup.procs"), strconv.Itoa(cmd.Process.Pid))
	if err == nil || errors.Is(err, syscall.ESRCH) { // it may be over already
		return nil
	}
	g.wrong = errors.Join(g.wrong, fmt.Errorf("enter control group: %w", err))
	if !g.bounded || !g.counted() {
		g.counts = false // nothing of the command, which is outside
		return nil
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return fmt.Errorf("enter control group: %w", err)
}

// OOMKills gives how many processes of the group the kernel killed for want of
// memory, its own or the machine's; false where that is not known.
func (g *Group) OOMKills() (int64, bool) {
	if g.counted() {
		return number(filepath.Join(g.unified.Name(), "memory.events"), "oom_kill")
	}
	if g.memory != "" {
		return number(filepath.Join(g.memory, "memory.oom_control"), "oom_kill")
	}
	return 0, false
}

// PeakBytes gives the most memory that the group used at a time; false where that
// is not known. Caches of files are in it.
func (g *Group) PeakBytes() (int64, bool) {
	if g.counted() {
		return number(filepath.Join(g.unified.Name(), "memory.peak"), "")
	}
	if g.memory != "" {
		return number(filepath.Join(g.memory, "memory.max_usage_in_bytes"), "")
	}
	return 0, false
}

// number reads the number behind a name, one pair a line, or the only number
// where the name is empty.
func number(path, name string) (int64, bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || (name != "" && (len(fields) != 2 || fields[0] != name)) {
			continue
		}
		n, err := strconv.ParseInt(fields[len(fields)-1], 10, 64)
		return n, err == nil
	}
	return 0, false
}

// Kill kills every process in the group, and gives how many it met.
func (g *Group) Kill() int { return kill(g.Paths()) }

// Remove removes the group, which must be empty.
func (g *Group) Remove() error {
	paths := g.Paths()
	if g.unified != nil {
		_ = g.unified.Close()
		g.unified = nil
	}
	g.memory = ""
	return remove(paths)
}

// Clear kills whoever is in the groups with these directories and removes them:
// what a supervisor that was killed left behind. A directory that is no control
// group is left alone.
func Clear(paths []string) error {
	paths = slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		_, err := os.Stat(filepath.Join(path, "cgroup.procs"))
		return err != nil
	})
	kill(paths)
	return remove(paths)
}

// kill kills in rounds: what is killed may have been about to fork, and takes a
// moment to be gone.
func kill(paths []string) int {
	met := map[int]bool{}
	for range rounds {
		left := 0
		for _, path := range paths {
			pids := othersIn(path)
			left += len(pids)
			if len(pids) == 0 {
				continue
			}
			for _, pid := range pids {
				met[pid] = true
			}
			if write(filepath.Join(path, "cgroup.kill"), "1") != nil { // version 1 has none
				for _, pid := range pids {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		if left == 0 {
			break
		}
		time.Sleep(roundPause)
	}
	return len(met)
}

// remove removes groups, and those that the command made in them first.
func remove(paths []string) error {
	var all []string
	for _, path := range paths {
		below := dirsIn(path)
		slices.Reverse(below)
		all = append(all, below...)
	}
	var wrong error
	for _, path := range all {
		err := os.Remove(path)
		for round := 0; round < rounds && errors.Is(err, syscall.EBUSY); round++ {
			time.Sleep(roundPause)
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			wrong = errors.Join(wrong, fmt.Errorf("remove control group: %w", err))
		}
	}
	return wrong
}

// dirsIn gives a directory and all below it, each before what is in it.
func dirsIn(dir string) []string {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	return dirs
}

// othersIn gives the processes of a group, and of the groups in it, but this one:
// a thread of it that starts a command is in the command's group for a moment.
func othersIn(dir string) []int {
	return slices.DeleteFunc(pidsIn(dir), func(pid int) bool { return pid == os.Getpid() })
}

// pidsIn gives the processes of a group and of the groups in it.
func pidsIn(dir string) []int {
	var pids []int
	for _, path := range dirsIn(dir) {
		text, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for _, field := range bytes.Fields(text) {
			if pid, err := strconv.Atoi(string(field)); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
