package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// machine is a /proc with a few processes, as kernels 5.15 and 6.8 write it.
type machine struct {
	t   *testing.T
	dir string
}

func (m machine) put(path, text string) {
	m.t.Helper()
	path = filepath.Join(m.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// process puts one there that has used some ticks and read some bytes.
func (m machine) process(pid int64, ticks, read int, children string) {
	dir := strconv.FormatInt(pid, 10)
	m.put(dir+"/stat", fmt.Sprintf("%d (python3) R 1 1 1 0 -1 4194304 101 0 0 0 %d 0 0 0 20 0 17 0 %d 0 0 1\n", pid, ticks, pid))
	m.put(dir+"/task/"+dir+"/children", children)
	m.put(dir+"/status", "Name:\tpython3\nState:\tR (running)\nVmPeak:\t 9000 kB\nVmRSS:\t    1000 kB\nRssAnon:\t     600 kB\n"+
		"RssFile:\t     100 kB\nRssShmem:\t     300 kB\nVmSwap:\t       8 kB\nThreads:\t17\n")
	m.put(dir+"/io", fmt.Sprintf("rchar: 99999\nwchar: 0\nsyscr: 1\nsyscw: 1\nread_bytes: %d\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n", read))
	m.put(dir+"/smaps_rollup", "5606b89fe000-7ffcb8319000 ---p 00000000 00:00 0    [rollup]\nRss:    1000 kB\nPss:     345 kB\nPss_Dirty: 1 kB\n")
	for _, fd := range []string{"0", "1", "2"} {
		m.put(dir+"/fd/"+fd, "")
	}
}

func (m machine) collector(trainers ...collect.Trainer) *collector {
	m.t.Helper()
	c, err := New(Config{Proc: m.dir}, collect.Deps{Trainers: func() []collect.Trainer { return trainers }})
	if err != nil {
		m.t.Fatal(err)
	}
	return c.(*collector)
}

func measure(t *testing.T, c collect.Collector) map[string]float64 {
	t.Helper()
	got := map[string]float64{}
	status, err := c.Collect(t.Context(), func(s metric.Sample) {
		if len(s.Labels) != len(s.Def.Labels) {
			t.Errorf("%s has labels %q", s.Def.Name, s.Labels)
		}
		got[strings.TrimPrefix(s.Def.Name, "vigil_process_")+" "+strings.Join(s.Labels, " ")] = s.Value
	})
	if status != collect.Ok || err != nil {
		t.Errorf("Collect = %s, %v", status, err)
	}
	return got
}

func TestTrainerAndItsChildrenAreOne(t *testing.T) {
	m := machine{t, t.TempDir()}
	m.process(10, 200, 1000, "11 ")
	m.process(11, 100, 500, "")
	c := m.collector(collect.Trainer{RunID: "r", Rank: 3, PID: 10})
	want := map[string]float64{
		"processes r 3": 2, "threads r 3": 34, "cpu_seconds_total r 3": 3, "open_files r 3": 6,
		"resident_bytes r 3": 2000 << 10, "anonymous_bytes r 3": 1200 << 10, "shared_memory_bytes r 3": 600 << 10,
		"swapped_bytes r 3": 16 << 10, "read_bytes_total r 3": 1500, "written_bytes_total r 3": 8192,
	}
	if diff := cmp.Diff(want, measure(t, c)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// The child ends: what it used stays counted.
	if err := os.RemoveAll(m.dir + "/11"); err != nil {
		t.Fatal(err)
	}
	m.process(10, 250, 1001, "")
	got := measure(t, c)
	if got["cpu_seconds_total r 3"] != 3.5 || got["read_bytes_total r 3"] != 1501 || got["processes r 3"] != 1 {
		t.Errorf("after the child's end: %v", got)
	}
	// The whole trainer ends: there is nothing to say, not zero.
	if err := os.RemoveAll(m.dir + "/10"); err != nil {
		t.Fatal(err)
	}
	if got := measure(t, c); len(got) > 0 {
		t.Errorf("after its end: %v", got)
	}
}

func TestWhatMayNotBeReadIsLeftOut(t *testing.T) {
	m := machine{t, t.TempDir()}
	m.process(10, 200, 1000, "")
	for _, gone := range []string{"/10/io", "/10/fd"} {
		if err := os.RemoveAll(m.dir + gone); err != nil {
			t.Fatal(err)
		}
	}
	got := measure(t, m.collector(collect.Trainer{RunID: "r", PID: 10}))
	for _, name := range []string{"read_bytes_total r 0", "written_bytes_total r 0", "open_files r 0"} {
		if value, ok := got[name]; ok {
			t.Errorf("%s = %v", name, value)
		}
	}
	if got["resident_bytes r 0"] != 1000<<10 {
		t.Errorf("resident %v", got["resident_bytes r 0"])
	}
}

func TestProportionalMemory(t *testing.T) {
	m := machine{t, t.TempDir()}
	m.process(10, 1, 1, "11 ")
	m.process(11, 1, 1, "")
	m.process(20, 1, 1, "")
	m.put("20/smaps_rollup", "nothing\n")
	m.process(30, 1, 1, "")
	if err := os.Remove(m.dir + "/30/smaps_rollup"); err != nil { // before 4.14
		t.Fatal(err)
	}
	trainers := []collect.Trainer{{RunID: "r", PID: 10}, {RunID: "old", PID: 30}}
	c, err := NewMemory(Config{Proc: m.dir}, collect.Deps{Trainers: func() []collect.Trainer { return trainers }})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]float64{"proportional_bytes r 0": 690 << 10}, measure(t, c)); diff != "" {
		t.Error(diff)
	}
	trainers = append(trainers, collect.Trainer{RunID: "s", PID: 20})
	if status, err := c.Collect(t.Context(), func(metric.Sample) {}); status != collect.Unknown || err == nil {
		t.Errorf("with a file that cannot be read: %s, %v", status, err)
	}
}

func TestThisProcess(t *testing.T) {
	me := []collect.Trainer{{RunID: "r", PID: int64(os.Getpid())}}
	deps := collect.Deps{Log: testkit.Logger(t), Trainers: func() []collect.Trainer { return me }}
	c, err := Kind.Build(Kind.Defaults(), deps)
	if err != nil {
		t.Fatal(err)
	}
	got := measure(t, c)
	opened, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	if files := got["open_files r 0"]; files < 3 || files > float64(len(opened)+5) {
		t.Errorf("%v files open, the directory has %d", files, len(opened))
	}
	if got["resident_bytes r 0"] <= 0 || got["resident_bytes r 0"] < got["anonymous_bytes r 0"] || got["threads r 0"] < 1 {
		t.Errorf("%v", got)
	}
	shared, err := MemoryKind.Build(MemoryKind.Defaults(), deps)
	if err != nil {
		t.Fatal(err)
	}
	if pss := measure(t, shared)["proportional_bytes r 0"]; pss <= 0 || pss > got["resident_bytes r 0"]*2 {
		t.Errorf("proportional %v", pss)
	}
	if pace := shared.(interface{ Pace() time.Duration }).Pace(); pace < 30*time.Second {
		t.Errorf("a dear collector is called every %v", pace)
	}
}

func TestRefusesAProcThatIsNotThere(t *testing.T) {
	if _, err := New(Config{Proc: "/nowhere"}, collect.Deps{}); err == nil {
		t.Error("New did not fail")
	}
	problems := 0
	Config{}.Check(func(string, string, ...any) { problems++ })
	if problems != 1 {
		t.Errorf("%d problems with an empty path", problems)
	}
}

func BenchmarkCollect(b *testing.B) {
	me := []collect.Trainer{{RunID: "r", PID: int64(os.Getpid())}}
	deps := collect.Deps{Trainers: func() []collect.Trainer { return me }}
	for _, kind := range []struct {
		name  string
		build func() (collect.Collector, error)
	}{
		{"process", func() (collect.Collector, error) { return New(Config{Proc: "/proc"}, deps) }},
		{"process_memory", func() (collect.Collector, error) { return NewMemory(Config{Proc: "/proc"}, deps) }},
	} {
		b.Run(kind.name, func(b *testing.B) {
			c, err := kind.build()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Collect(b.Context(), func(metric.Sample) {}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
