package family

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// machine is a /proc with a few processes.
type machine struct {
	t        *testing.T
	dir      string
	children bool // the kernel lists them
}

// process puts a process there whose threads have children.
func (m machine) process(pid, parent int64, state string, children map[int64]string) {
	m.t.Helper()
	dir := filepath.Join(m.dir, strconv.FormatInt(pid, 10))
	stat := fmt.Sprintf("%d (py) thon) %s %d 1 1 0 -1 4194304 101 0 0 0 120 30 0 0 20 0 17 0 1167323 0 0 1\n", pid, state, parent)
	m.put(dir+"/stat", stat)
	if children == nil {
		children = map[int64]string{pid: ""}
	}
	for thread, list := range children {
		if m.children {
			m.put(fmt.Sprintf("%s/task/%d/children", dir, thread), list)
		}
	}
}

func (m machine) put(path, text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func pids(f Family) (all []int64) {
	for _, m := range f.Members {
		all = append(all, m.PID)
	}
	return all
}

func TestFamilies(t *testing.T) {
	for _, children := range []bool{true, false} {
		t.Run(fmt.Sprintf("kernel lists children %v", children), func(t *testing.T) {
			m := machine{t, t.TempDir(), children}
			m.process(10, 1, "S", map[int64]string{10: "11 12 ", 15: "13 "})
			m.process(11, 10, "S", nil)
			m.process(12, 10, "S", map[int64]string{12: "14 "})
			m.process(13, 10, "S", nil)
			m.process(14, 12, "D", nil)
			m.process(20, 1, "Z", nil)
			m.process(30, 1, "S", nil)
			f := New(m.dir, func() []collect.Trainer {
				return []collect.Trainer{{RunID: "b", PID: 30}, {RunID: "a", Rank: 1, PID: 20}, {RunID: "a", PID: 10}, {RunID: "a", Rank: 2, PID: 99}, {RunID: "c"}}
			})
			got := f.Find(time.Unix(1000, 0))
			found := map[string][]int64{}
			for _, family := range got {
				found[family.RunID] = pids(family)
				slices.Sort(found[family.RunID])
			}
			want := map[string][]int64{"a": {10, 11, 12, 13, 14}, "b": {30}}
			if diff := cmp.Diff(want, found); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestChildrenComeAndGo(t *testing.T) {
	m := machine{t, t.TempDir(), true}
	m.process(10, 1, "S", map[int64]string{10: "", 15: "13 "})
	m.process(13, 10, "S", nil)
	f := New(m.dir, func() []collect.Trainer { return []collect.Trainer{{RunID: "a", PID: 10}} })
	find := func(at int64) []int64 { return pids(f.Find(time.Unix(at, 0))[0]) }
	if diff := cmp.Diff([]int64{10, 13}, find(1000)); diff != "" {
		t.Error(diff)
	}
	m.process(10, 1, "S", map[int64]string{10: "14 ", 15: "13 16 "})
	m.process(14, 10, "S", nil)
	m.process(16, 10, "S", nil)
	if diff := cmp.Diff([]int64{10, 13, 14}, find(1001)); diff != "" {
		t.Errorf("a second later, what the main thread started: %s", diff)
	}
	if err := os.RemoveAll(m.dir + "/13"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{10, 14}, find(1002)); diff != "" {
		t.Errorf("when one has gone: %s", diff)
	}
	m.process(10, 1, "S", map[int64]string{10: "14 ", 15: "16 "})
	if diff := cmp.Diff([]int64{10, 14, 16}, find(1000+31)); diff != "" {
		t.Errorf("after half a minute, what other threads started: %s", diff)
	}
}

func TestAnotherProcessOfTheSameNumberIsNoChild(t *testing.T) {
	m := machine{t, t.TempDir(), true}
	m.process(10, 1, "S", map[int64]string{10: "", 15: "13 "})
	m.process(13, 10, "S", nil)
	f := New(m.dir, func() []collect.Trainer { return []collect.Trainer{{RunID: "a", PID: 10}} })
	f.Find(time.Unix(1000, 0))
	m.put(m.dir+"/13/stat", "13 (other) S 1 1 1 0 -1 4194304 101 0 0 0 120 30 0 0 20 0 17 0 9999999 0 0 1\n")
	if diff := cmp.Diff([]int64{10}, pids(f.Find(time.Unix(1001, 0))[0])); diff != "" {
		t.Error(diff)
	}
}

func TestRealProcesses(t *testing.T) {
	child := exec.Command(testkit.Require(t, "sh"), "-c", "sleep 60 & sleep 60")
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that all of it can be ended
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Kill(-child.Process.Pid, unix.SIGKILL); _ = child.Wait() })
	me := int64(os.Getpid())
	testkit.Eventually(t, "the child and its own", func() bool {
		f := New("/proc", func() []collect.Trainer { return []collect.Trainer{{RunID: "a", PID: me}} })
		families := f.Find(time.Now())
		if len(families) != 1 || families[0].PID != me {
			return false
		}
		return len(pids(families[0])) == 4
	})
}

func TestReadStat(t *testing.T) {
	got, ok := ReadStat([]byte("7 (a) b) D 3 1 1 0 -1 4194304 101 0 0 0 120 30 0 0 20 0 17 0 1167323 0"))
	want := Stat{Name: "a) b", State: 'D', Parent: 3, CPUTicks: 150, Threads: 17, Started: 1167323}
	if diff := cmp.Diff(want, got); diff != "" || !ok {
		t.Errorf("%v %s", ok, diff)
	}
	for _, in := range []string{"", "7 (a", "7 a) (", "7 (a) D 3", "7 (a) DD 3 1 1 0 -1 4194304 101 0 0 0 120 30 0 0 20 0 17 0 1167323 0"} {
		if _, ok := ReadStat([]byte(in)); ok {
			t.Errorf("%q was read", in)
		}
	}
}

func FuzzReadStat(f *testing.F) {
	f.Add([]byte("7 (a) b) D 3 1 1 0 -1 4194304 101 0 0 0 120 30 0 0 20 0 17 0 1167323 0"))
	f.Fuzz(func(_ *testing.T, line []byte) { ReadStat(line) })
}

func BenchmarkFind(b *testing.B) {
	me := int64(os.Getpid())
	f := New("/proc", func() []collect.Trainer { return []collect.Trainer{{RunID: "a", PID: me}} })
	b.ReportAllocs()
	for b.Loop() {
		f.Find(time.Now())
	}
}
