package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
)

const hybrid = `31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
35 31 0:32 / ROOT/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / ROOT/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
`

func TestPlacesAreFound(t *testing.T) {
	root, proc := t.TempDir(), t.TempDir()
	for _, dir := range []string{"memory/job/7", "unified/user/x", "unified/step_0", "unified"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		groups, mounts string
		want           places
	}{
		"hybrid": {"9:name=systemd:/\n4:memory:/job/7\n0::/user/x\n", hybrid, places{"ROOT/unified/user/x", "ROOT/memory/job/7"}},
		"version 2 alone, in a group's own view": {"0::/\n",
			"30 23 0:26 / ROOT/unified rw,nosuid - cgroup2 cgroup rw\n", places{unified: "ROOT/unified"}},
		"a container that sees its part of a hierarchy": {"0::/slurm/job_1/step_0\n",
			"30 23 0:26 /slurm/job_1 ROOT/unified rw - cgroup2 cgroup rw\n", places{unified: "ROOT/unified/step_0"}},
		"a mount of somebody else's part": {"0::/slurm/job_1\n", "30 23 0:26 /slurm/job_2 ROOT/unified rw - cgroup2 cgroup rw\n", places{}},
		"joined controllers":              {"4:cpu,memory:/job/7\n", "35 31 0:32 / ROOT/memory rw - cgroup cgroup rw,cpu,memory\n", places{memory: "ROOT/memory/job/7"}},
		"nothing":                         {"", "", places{}},
	} {
		t.Run(name, func(t *testing.T) {
			put(t, filepath.Join(proc, "cgroup"), c.groups)
			put(t, filepath.Join(proc, "mountinfo"), strings.ReplaceAll(c.mounts, "ROOT", root))
			got, err := find(proc)
			if err != nil {
				t.Fatal(err)
			}
			want := places{strings.Replace(c.want.unified, "ROOT", root, 1), strings.Replace(c.want.memory, "ROOT", root, 1)}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(places{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if _, err := openAt(proc); (got == places{}) != fault.Is(err, fault.Unavailable) {
				t.Errorf("open with %+v: %v", got, err)
			}
		})
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// In version 2 memory is counted for groups that are made in one only where it
// hands the controller on.
func TestMemoryIsHandedOn(t *testing.T) {
	for name, c := range map[string]struct {
		controllers, control string
		want                 bool
		written              string
	}{
		"already":        {"cpu memory pids", "memory pids", true, "memory pids"},
		"when asked":     {"cpu memory", "", true, "+memory"},
		"not given here": {"cpu hugetlb", "", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, filepath.Join(dir, "cgroup.controllers"), c.controllers)
			put(t, filepath.Join(dir, "cgroup.subtree_control"), c.control)
			got := handOnMemory(dir)
			text, _ := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
			if got != c.want || string(text) != c.written {
				t.Errorf("handed on: %v, %q is written; want %v, %q", got, text, c.want, c.written)
			}
		})
	}
}

func TestCountersOfVersion2AreRead(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "memory.events"), "low 0\nmax 12\noom 2\noom_kill 4\noom_group_kill 1\n")
	put(t, filepath.Join(dir, "memory.peak"), "4096\n")
	opened, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = opened.Close() }()
	g := &Group{unified: opened, counts: true}
	kills, known := g.OOMKills()
	peak, peakKnown := g.PeakBytes()
	if kills != 4 || !known || peak != 4096 || !peakKnown || !g.CountsMemory() {
		t.Errorf("kills %d (%v), peak %d (%v)", kills, known, peak, peakKnown)
	}
	if err := g.bound(64 << 20); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a bound where there is no memory.max: %v", err)
	}
	put(t, filepath.Join(dir, "memory.max"), "max")
	if err := g.bound(64 << 20); err != nil {
		t.Error(err)
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "memory.max")); string(text) != "67108864" {
		t.Errorf("memory.max is %q", text)
	}
	if _, known := (&Group{unified: opened}).OOMKills(); known {
		t.Error("kills are known of a group that does not count memory")
	}
}

// A command that is not let in is not counted here, whatever the group's files say.
func TestWhoIsOutsideIsNotCounted(t *testing.T) {
	dir := t.TempDir()
	opened, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = opened.Close() }()
	put(t, filepath.Join(dir, "memory.events"), "oom_kill 0\n")
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	g := &Group{unified: opened, counts: true}
	if err := g.take(cmd); err != nil { // there is no cgroup.procs
		t.Fatal(err)
	}
	if _, known := g.OOMKills(); known || g.CountsMemory() || g.LeftOut() == nil {
		t.Errorf("kills are known (%v) of a command outside; left out is %v", known, g.LeftOut())
	}
}

// group makes a real group, where this machine lets tests make one.
func group(t *testing.T, memoryMax int64) *Group {
	t.Helper()
	parent, err := Open()
	if err != nil {
		t.Skipf("this machine lets nobody make control groups here: %v", err)
	}
	g, err := parent.Make("vigil-test-"+strconv.Itoa(os.Getpid()), memoryMax)
	if err != nil {
		t.Skipf("this machine lets nobody make control groups here: %v", err)
	}
	t.Cleanup(func() {
		g.Kill()
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// launch starts a shell's text in a group.
func launch(t *testing.T, g *Group, text string) *exec.Cmd {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command("sh", "-c", text)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd, err := g.Launch(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestNobodyLeavesAGroup(t *testing.T) {
	testkit.Require(t, "setsid")
	g := group(t, 0)
	file := filepath.Join(t.TempDir(), "pid")
	cmd := launch(t, g, `env -i setsid sh -c 'echo $$ > `+file+`.new; mv `+file+`.new `+file+`; exec sleep 1000' & wait`)
	testkit.Eventually(t, "a process that leaves", func() bool { _, err := os.Stat(file); return err == nil })
	met := g.Kill()
	err := cmd.Wait()
	if met < 2 || err == nil {
		t.Errorf("killed %d processes, and the command ended with %v", met, err)
	}
	text, _ := os.ReadFile(file)
	if state, err := os.ReadFile("/proc/" + strings.TrimSpace(string(text)) + "/stat"); err == nil && !strings.Contains(string(state), ") Z ") {
		t.Errorf("who left lives on: %s", state)
	}
	// This test's own thread is outside again.
	if procs := pidsIn(g.Paths()[0]); len(procs) > 0 {
		t.Errorf("processes %v are in the group", procs)
	}
}

func TestTheKernelsKillsAreCounted(t *testing.T) {
	testkit.Require(t, "python3")
	g := group(t, 48<<20) // skips where memory is not handed on
	cmd := launch(t, g, `python3 -c 'b = bytearray(256 << 20)'; exit 3`)
	_ = cmd.Wait()
	kills, known := g.OOMKills()
	peak, peakKnown := g.PeakBytes()
	if kills != 1 || !known {
		t.Errorf("%d kills (known: %v), want 1", kills, known)
	}
	if !peakKnown || peak < 24<<20 || peak > 48<<20 {
		t.Errorf("at most %d bytes were used (known: %v), with a bound of %d", peak, peakKnown, 48<<20)
	}
}

func TestWhatIsLeftIsCleared(t *testing.T) {
	g := group(t, 0)
	cmd := launch(t, g, "sleep 1000")
	paths := g.Paths()
	elsewhere := t.TempDir()
	if err := Clear(append(paths, elsewhere, "/no/such/group")); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the command ended well")
	}
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	if _, err := os.Stat(elsewhere); err != nil {
		t.Errorf("a directory that is no group is gone: %v", err)
	}
}

// A supervisor in the same process may be starting a command, with a thread in the
// command's group: that is no process to kill, and no place to make groups in.
func TestAThreadThatStartsACommandIsSpared(t *testing.T) {
	g := group(t, 0)
	if g.memory == "" {
		t.Skip("memory is counted by version 2, where no thread enters a group")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread := strconv.Itoa(syscall.Gettid())
	if err := write(filepath.Join(g.memory, "tasks"), thread); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = write(filepath.Join(g.outside, "tasks"), thread) }()
	if met := g.Kill(); met != 0 {
		t.Errorf("killed %d processes of none", met)
	}
	// Every thread sees where it is itself, so another sees the supervisor's own group.
	inside, err := Open()
	if err != nil || inside.at.memory != g.memory {
		t.Errorf("a thread in %s finds %q (%v)", g.memory, inside.at.memory, err)
	}
	outside := make(chan string)
	go func() {
		p, err := Open()
		if err != nil {
			outside <- err.Error()
			return
		}
		outside <- p.at.memory
	}()
	if at := <-outside; at != g.outside {
		t.Errorf("another thread finds %q, want %q", at, g.outside)
	}
}
