package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/metric"
)

// machine is a tree of control groups and processes in it, in the format of
// kernel 6.8.
type machine struct {
	t        testing.TB
	dir      string
	trainers []collect.Trainer
}

func newMachine(t testing.TB) *machine {
	m := &machine{t: t, dir: t.TempDir()}
	m.put("cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc\n")
	return m
}

func (m *machine) put(path, text string) {
	m.t.Helper()
	path = filepath.Join(m.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) job(where string) {
	dir := "cgroup" + where + "/"
	m.put(dir+"memory.current", "8589934592\n")
	m.put(dir+"memory.peak", "9663676416\n")
	m.put(dir+"memory.max", "max\n")
	m.put(dir+"memory.stat", "anon 7516192768\nfile 536870912\nkernel 33554432\nshmem 268435456\npgfault 12\n")
	m.put(dir+"memory.events", "low 0\nhigh 3\nmax 17\noom 2\noom_kill 1\noom_group_kill 0\n")
	m.put(dir+"cpu.stat", "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\nnr_periods 100\nnr_throttled 7\nthrottled_usec 1500000\n")
	m.put(dir+"memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=3000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n")
}

func (m *machine) collector() collect.Collector {
	m.t.Helper()
	c, err := New(Config{Proc: m.dir + "/proc", Root: m.dir + "/cgroup"}, collect.Deps{
		Trainers: func() []collect.Trainer { return m.trainers },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

func measure(t testing.TB, c collect.Collector) (map[string]float64, collect.Status, error) {
	t.Helper()
	got := map[string]float64{}
	status, err := c.Collect(t.Context(), func(s metric.Sample) {
		if len(s.Labels) != len(s.Def.Labels) {
			t.Errorf("%s has labels %q", s.Def.Name, s.Labels)
		}
		got[strings.TrimPrefix(s.Def.Name, "vigil_cgroup_")+" "+strings.Join(s.Labels, " ")] = s.Value
	})
	return got, status, err
}

const step = "/system.slice/slurmstepd.scope/job_42/step_0"

func TestJob(t *testing.T) {
	m := newMachine(t)
	m.job(step)
	m.put("cgroup/system.slice/slurmstepd.scope/job_42/memory.max", "10737418240\n")
	m.put("cgroup/system.slice/memory.max", "21474836480\n")
	m.put("proc/10/cgroup", "0::"+step+"\n")
	m.put("proc/11/cgroup", "0::"+step+"\n")
	m.put("proc/12/cgroup", "0::/\n")
	m.put("proc/13/cgroup", "1:cpu:/x\n")
	m.trainers = []collect.Trainer{
		{RunID: "r", Rank: 3, PID: 11}, {RunID: "r", Rank: 2, PID: 10}, {RunID: "root", PID: 12},
		{RunID: "v1", PID: 13}, {RunID: "gone", PID: 99}, {RunID: "unknown"},
	}
	got, status, err := measure(t, m.collector())
	want := map[string]float64{
		"memory_bytes r 2": 8 << 30, "memory_peak_bytes r 2": 9 << 30, "memory_limit_bytes r 2": 10 << 30,
		"memory_anonymous_bytes r 2": 7 << 30, "memory_shared_bytes r 2": 256 << 20,
		"memory_events_total r 2 high": 3, "memory_events_total r 2 max": 17,
		"memory_events_total r 2 oom": 2, "memory_events_total r 2 oom_kill": 1,
		"stall_seconds_total r 2 memory some": 3, "stall_seconds_total r 2 memory full": 1,
		"cpu_seconds_total r 2": 2.5, "cpu_throttled_seconds_total r 2": 1.5, "cpu_throttled_periods_total r 2": 7,
	}
	if diff := cmp.Diff(want, got); diff != "" || status != collect.Ok || err != nil {
		t.Errorf("%s, %v; -want +got:\n%s", status, err, diff)
	}
}

func TestWithoutALimitThereIsNone(t *testing.T) {
	m := newMachine(t)
	m.job(step)
	m.put("proc/10/cgroup", "0::"+step+"\n")
	m.trainers = []collect.Trainer{{RunID: "r", PID: 10}}
	got, _, _ := measure(t, m.collector())
	if limit, ok := got["memory_limit_bytes r 0"]; ok {
		t.Errorf("limit %v", limit)
	}
}

func TestVersion1IsUnsupported(t *testing.T) {
	m := newMachine(t)
	for name, text := range map[string]string{"no memory there": "cpuset cpu\n", "nothing there": ""} {
		m.put("cgroup/cgroup.controllers", text)
		if _, status, err := measure(t, m.collector()); status != collect.Unsupported || err != nil {
			t.Errorf("%s: %s, %v", name, status, err)
		}
	}
	if err := os.Remove(m.dir + "/cgroup/cgroup.controllers"); err != nil {
		t.Fatal(err)
	}
	if _, status, err := measure(t, m.collector()); status != collect.Unsupported || err != nil {
		t.Errorf("no such tree: %s, %v", status, err)
	}
}

func TestGroupThatCannotBeSeenIsSaid(t *testing.T) {
	m := newMachine(t)
	m.job(step)
	m.put("proc/10/cgroup", "0::/../../job_1\n")
	m.put("proc/11/cgroup", "0::"+step+"\n")
	m.trainers = []collect.Trainer{{RunID: "a", PID: 10}, {RunID: "b", PID: 11}}
	got, status, err := measure(t, m.collector())
	if status != collect.Unknown || err == nil || !strings.Contains(err.Error(), "namespace") {
		t.Errorf("%s, %v", status, err)
	}
	if got["memory_bytes b 0"] != 8<<30 {
		t.Errorf("the other group was not measured: %v", got)
	}
}

func BenchmarkCollect(b *testing.B) {
	m := newMachine(b)
	m.job(step)
	m.put("proc/10/cgroup", "0::"+step+"\n")
	m.trainers = []collect.Trainer{{RunID: "r", PID: 10}}
	c := m.collector()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Collect(b.Context(), func(metric.Sample) {}); err != nil {
			b.Fatal(err)
		}
	}
}
