package host

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/procfs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newCollector(t *testing.T, config Config) *collector {
	t.Helper()
	c, err := New(config, collect.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return c.(*collector)
}

// measure gives what a call emits, as "name{labels}" to value.
func measure(t *testing.T, c *collector) map[string]float64 {
	t.Helper()
	got := map[string]float64{}
	status, err := c.Collect(t.Context(), func(s metric.Sample) {
		if len(s.Labels) != len(s.Def.Labels) {
			t.Errorf("%s has labels %q, the dictionary %q", s.Def.Name, s.Labels, s.Def.Labels)
		}
		got[strings.TrimPrefix(s.Def.Name, "vigil_host_")+strings.Join(append([]string{""}, s.Labels...), " ")] = s.Value
	})
	if status != collect.Ok || err != nil {
		t.Errorf("Collect = %s, %v", status, err)
	}
	return got
}

// fixture gives a collector over one of testdata's machines, copied so that the
// test can change it.
func fixture(t *testing.T, machine string, change func(*Config)) (*collector, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/"+machine)); err != nil {
		t.Fatal(err)
	}
	config := *Kind.Defaults().(*Config)
	config.Proc, config.Sys, config.Root = dir+"/proc", dir+"/sys", "/host"
	if change != nil {
		change(&config)
	}
	c := newCollector(t, config)
	c.disks = newFileSystems(func(path string, into *unix.Statfs_t) error {
		*into = unix.Statfs_t{Bsize: 4096, Frsize: 1024, Blocks: 100, Bfree: 50, Bavail: uint64(len(path))}
		switch path {
		case "/host/scratch":
			return unix.EACCES
		case "/host/home":
			into.Files, into.Ffree, into.Flags = 10, 3, unix.ST_RDONLY
		}
		return nil
	})
	c.adjtimex = func(into *unix.Timex) (int, error) {
		*into = unix.Timex{Offset: 250_000, Maxerror: 1500, Status: unix.STA_NANO}
		return unix.TIME_OK, nil
	}
	return c, dir
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// want reads what a machine's test expects: "name labels value" a line.
func want(t *testing.T, machine string) map[string]float64 {
	t.Helper()
	data, err := os.ReadFile("testdata/" + machine + "/want")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for line := range strings.Lines(string(data)) {
		at := strings.LastIndex(line, " ")
		value, err := strconv.ParseFloat(strings.TrimSpace(line[at+1:]), 64)
		if err != nil {
			t.Fatal(err)
		}
		all[line[:at]] = value
	}
	return all
}

func TestFixtures(t *testing.T) {
	for _, machine := range []string{"small", "gpu-5.15", "vm-6.18"} {
		t.Run(machine, func(t *testing.T) {
			c, _ := fixture(t, machine, nil)
			got := measure(t, c)
			if *update {
				var lines []string
				for name, value := range got {
					lines = append(lines, fmt.Sprintf("%s %v\n", name, value))
				}
				slices.Sort(lines)
				put(t, "testdata/"+machine+"/want", strings.Join(lines, ""))
			}
			if diff := cmp.Diff(want(t, machine), got, cmp.Comparer(near)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

var update = flag.Bool("update", false, "write what is expected anew; then read it with care")

func TestBusyShareIsThatBetweenTwoCalls(t *testing.T) {
	c, dir := fixture(t, "small", nil)
	if _, ok := measure(t, c)["cpu_busy_ratio"]; ok {
		t.Error("the first call has a share: of what time?")
	}
	// 300 of 1,000 ticks more were work.
	put(t, dir+"/proc/stat", "cpu  1200 0 600 8500 700 0 0 0 0 0\n")
	if got := measure(t, c)["cpu_busy_ratio"]; !near(got, 0.3) {
		t.Errorf("share %v, want 0.3", got)
	}
	if _, ok := measure(t, c)["cpu_busy_ratio"]; ok {
		t.Error("no time has passed since: unknown is not zero")
	}
}

func TestEachCoreIsGivenWhereItIsWanted(t *testing.T) {
	c, _ := fixture(t, "gpu-5.15", func(config *Config) { config.PerCore = true })
	got := measure(t, c)
	for name, want := range map[string]float64{
		"core_seconds_total 0 user": 61234.56, "core_seconds_total 3 steal": 0, "core_seconds_total 3 idle": 1901122.11,
	} {
		if value, ok := got[name]; !ok || !near(value, want) {
			t.Errorf("%s = %v, %v, want %v", name, value, ok, want)
		}
	}
}

func TestEnergyGoesOnWhereItsCounterStartsAnew(t *testing.T) {
	c, dir := fixture(t, "gpu-5.15", nil)
	file := dir + "/sys/class/powercap/intel-rapl:0/energy_uj"
	energy := func() float64 { return measure(t, c)["energy_joules_total package-0"] }
	put(t, file, "262143000000")
	if got := energy(); got != 0 {
		t.Errorf("before anything was used: %v J", got)
	}
	put(t, file, "999671") // the maximum is 262143328850
	if got := energy(); !near(got, 0.328850+0.999671) {
		t.Errorf("behind the maximum: %v J", got)
	}
	put(t, file, "1999671")
	if got := energy(); !near(got, 0.328850+1.999671) {
		t.Errorf("after it: %v J", got)
	}
}

func TestClock(t *testing.T) {
	for name, tc := range map[string]struct {
		state int
		timex unix.Timex
		want  map[string]float64
	}{
		"kept, in microseconds": {unix.TIME_OK, unix.Timex{Offset: -1500, Maxerror: 20},
			map[string]float64{"clock_synchronised": 1, "clock_offset_seconds": 0.0015, "clock_error_bound_seconds": 0.00002}},
		"not kept": {unix.TIME_ERROR, unix.Timex{Offset: 5, Maxerror: 16_000_000, Status: unix.STA_UNSYNC},
			map[string]float64{"clock_synchronised": 0}},
	} {
		c, _ := fixture(t, "small", nil)
		c.adjtimex = func(into *unix.Timex) (int, error) { *into = tc.timex; return tc.state, nil }
		got := measure(t, c)
		for _, quantity := range []string{"clock_synchronised", "clock_offset_seconds", "clock_error_bound_seconds"} {
			value, ok := got[quantity]
			if want, wanted := tc.want[quantity]; ok != wanted || !near(value, want) {
				t.Errorf("%s: %s = %v, %v", name, quantity, value, ok)
			}
		}
	}
}

func near(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 }

func TestWhatIsMissingIsLeftOut(t *testing.T) {
	c, dir := fixture(t, "small", nil)
	for _, gone := range []string{"/proc/diskstats", "/proc/net/dev", "/proc/self/mountinfo", "/proc/loadavg", "/proc/stat"} {
		if err := os.Remove(dir + gone); err != nil {
			t.Fatal(err)
		}
	}
	c.adjtimex = func(*unix.Timex) (int, error) { return 0, unix.EPERM }
	want := map[string]float64{"memory_total_bytes": 16 << 20, "memory_available_bytes": 8 << 20, "memory_free_bytes": 1 << 20}
	if diff := cmp.Diff(want, measure(t, c)); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsWrongTakesNothingElseWithIt(t *testing.T) {
	for file, text := range map[string]string{
		"meminfo": "MemTotal: much\n", "stat": "cpu  a b\n", "loadavg": "1 2\n", "net/dev": "eth0: 1 2\n", "diskstats": "8 0 sda\n",
	} {
		t.Run(file, func(t *testing.T) {
			c, dir := fixture(t, "small", nil)
			put(t, dir+"/proc/"+file, text)
			c.disks = newFileSystems(func(string, *unix.Statfs_t) error { return unix.EIO })
			emitted := 0
			status, err := c.Collect(t.Context(), func(metric.Sample) { emitted++ })
			if status != collect.Unknown || emitted == 0 {
				t.Errorf("status %s, %d samples", status, emitted)
			}
			for _, says := range []string{"read " + file, "measure /home", "input/output error"} {
				if err == nil || !strings.Contains(err.Error(), says) {
					t.Errorf("error %v does not say %q", err, says)
				}
			}
		})
	}
}

func TestThisMachine(t *testing.T) {
	c, err := Kind.Build(Kind.Defaults(), collect.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	got := measure(t, c.(*collector))
	for _, name := range []string{"memory_total_bytes", "memory_available_bytes"} {
		if got[name] <= 0 {
			t.Errorf("%s = %v", name, got[name])
		}
	}
	if got["memory_available_bytes"] > got["memory_total_bytes"] {
		t.Errorf("more memory available than there is: %v", got)
	}
	if _, ok := got["load1"]; !ok {
		t.Errorf("no load in %v", got)
	}
	testkit.Eventually(t, "a CPU rate", func() bool {
		busy, ok := measure(t, c.(*collector))["cpu_busy_ratio"]
		return ok && busy >= 0 && busy <= 1
	})
}

func TestNewRefuses(t *testing.T) {
	for _, config := range []Config{{Proc: "/nowhere", Sys: "/sys"}, {Proc: "/proc", Sys: "/nowhere"}} {
		if _, err := New(config, collect.Deps{}); err == nil {
			t.Errorf("New(%+v) did not fail", config)
		}
	}
	var keys int
	Config{}.Check(func(string, string, ...any) { keys++ })
	if keys != 3 {
		t.Errorf("%d problems with an empty configuration, want 3", keys)
	}
}

func TestBusyRatio(t *testing.T) {
	for name, tc := range map[string]struct {
		before, now times
		want        float64
		ok          bool
	}{
		"idle":               {times{}, times{idleColumn: 5, iowaitColumn: 5}, 0, true},
		"busy":               {times{idleColumn: 5}, times{idleColumn: 5, 0: 1, 7: 3}, 1, true},
		"no time":            {times{idleColumn: 5}, times{idleColumn: 5}, 0, false},
		"counters went back": {times{0: 5}, times{idleColumn: 5}, 0, false},
	} {
		if got, ok := busyRatio(tc.before, tc.now); got != tc.want || ok != tc.ok {
			t.Errorf("%s: %v, %v, want %v, %v", name, got, ok, tc.want, tc.ok)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`/a`: "/a", `/a\040b\134`: `/a b\`, `/x\04`: `/x\04`, `/x\999`: `/x\999`, `\`: `\`} {
		if got := unescape(in); got != want {
			t.Errorf("unescape(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestFileSystemThatDoesNotAnswerIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release, asked := make(chan struct{}), atomic.Int64{}
		f := newFileSystems(func(string, *unix.Statfs_t) error {
			asked.Add(1)
			<-release
			return nil
		})
		for range 3 {
			began := time.Now()
			if _, err := f.stat(t.Context(), "/home", true); !fault.Is(err, fault.Deadline) {
				t.Errorf("error = %v", err)
			}
			if waited := time.Since(began); waited > remoteWait {
				t.Errorf("waited %v", waited)
			}
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times, want once", n)
		}
		close(release)
		synctest.Wait()
		if _, err := f.stat(t.Context(), "/home", true); err != nil {
			t.Errorf("after its answer: %v", err)
		}
	})
}

func TestRemoteFileSystem(t *testing.T) {
	f := newFileSystems(func(path string, into *unix.Statfs_t) error {
		into.Blocks = 7
		if path == "/stale" {
			return unix.ESTALE
		}
		return nil
	})
	if got, err := f.stat(context.Background(), "/home", true); err != nil || got.Blocks != 7 {
		t.Errorf("stat = %v, %v", got.Blocks, err)
	}
	if _, err := f.stat(context.Background(), "/stale", true); !errors.Is(err, unix.ESTALE) {
		t.Errorf("error = %v", err)
	}
	testkit.Eventually(t, "the answers", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.pending) == 0 })
}

// BenchmarkCollect puts the collector beside a general parser that reads a part
// of the same files, in one run: the ratio is what counts.
func BenchmarkCollect(b *testing.B) {
	c, err := Kind.Build(Kind.Defaults(), collect.Deps{})
	if err != nil {
		b.Fatal(err)
	}
	proc, err := procfs.NewFS("/proc")
	if err != nil {
		b.Fatal(err)
	}
	for _, bench := range []struct {
		name string
		read func() error
	}{
		{"everything", func() error { _, err := c.Collect(b.Context(), func(metric.Sample) {}); return err }},
		{"procfs stat meminfo net mounts", func() error {
			_, err1 := proc.Stat()
			_, err2 := proc.Meminfo()
			_, err3 := proc.NetDev()
			_, err4 := proc.GetMounts()
			return errors.Join(err1, err2, err3, err4)
		}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := bench.read(); err != nil {
					b.Fatal(fmt.Errorf("collect: %w", err))
				}
			}
		})
	}
	for _, p := range c.(*collector).parts {
		b.Run("part "+p.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = p.measure(b.Context(), func(metric.Def, float64, []string) {})
			}
		})
	}
}
