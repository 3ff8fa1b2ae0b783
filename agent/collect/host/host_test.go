package host

import (
	"context"
	"errors"
	"fmt"
	"os"
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

func TestFixtures(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	c := newCollector(t, Config{Proc: dir + "/proc", Sys: dir + "/sys", Root: "/host"})
	c.disks = newFileSystems(func(path string, into *unix.Statfs_t) error {
		*into = unix.Statfs_t{Bsize: 4096, Frsize: 1024, Blocks: 100, Bavail: uint64(len(path))}
		if path == "/host/scratch" {
			return unix.EACCES
		}
		return nil
	})
	want := map[string]float64{
		"load1": 0.25, "memory_total_bytes": 16 << 20, "memory_available_bytes": 8 << 20,
		"network_received_bytes_total eth0": 12345, "network_sent_bytes_total eth0": 54321,
		"network_receive_errors_total eth0": 1, "network_send_errors_total eth0": 2,
		"network_received_bytes_total ib0": 0, "network_sent_bytes_total ib0": 0,
		"network_receive_errors_total ib0": 0, "network_send_errors_total ib0": 0,
		"disk_read_bytes_total sda": 2000 * 512, "disk_written_bytes_total sda": 1000 * 512,
		"disk_read_bytes_total nvme0n1": 0, "disk_written_bytes_total nvme0n1": 16 * 512,
		"disk_total_bytes /": 102400, "disk_available_bytes /": 5 * 1024,
		"disk_total_bytes /dev/shm": 102400, "disk_available_bytes /dev/shm": 13 * 1024,
		"disk_total_bytes /data sets": 102400, "disk_available_bytes /data sets": 15 * 1024,
		"disk_total_bytes /home": 102400, "disk_available_bytes /home": 10 * 1024,
	}
	if diff := cmp.Diff(want, measure(t, c)); diff != "" {
		t.Errorf("first call (-want +got):\n%s", diff)
	}
	// 300 of 1,000 ticks more were work.
	stat := "cpu  1200 0 600 8500 700 0 0 0 0 0\n"
	if err := os.WriteFile(dir+"/proc/stat", []byte(stat), 0o600); err != nil {
		t.Fatal(err)
	}
	want["cpu_busy_ratio"] = 0.3
	if diff := cmp.Diff(want, measure(t, c), cmp.Comparer(near)); diff != "" {
		t.Errorf("second call (-want +got):\n%s", diff)
	}
	// Nothing has passed since: unknown is not zero.
	delete(want, "cpu_busy_ratio")
	if diff := cmp.Diff(want, measure(t, c)); diff != "" {
		t.Errorf("third call (-want +got):\n%s", diff)
	}
}

func near(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 }

func TestWhatIsMissingIsLeftOut(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"/proc/diskstats", "/proc/net/dev", "/proc/self/mountinfo", "/proc/loadavg"} {
		if err := os.Remove(dir + gone); err != nil {
			t.Fatal(err)
		}
	}
	got := measure(t, newCollector(t, Config{Proc: dir + "/proc", Sys: dir + "/sys", Root: "/"}))
	want := map[string]float64{"memory_total_bytes": 16 << 20, "memory_available_bytes": 8 << 20}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsWrongTakesNothingElseWithIt(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/proc/meminfo", []byte("MemTotal: much\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newCollector(t, Config{Proc: dir + "/proc", Sys: dir + "/sys", Root: "/"})
	c.disks = newFileSystems(func(string, *unix.Statfs_t) error { return unix.EIO })
	emitted := 0
	status, err := c.Collect(t.Context(), func(metric.Sample) { emitted++ })
	if status != collect.Unknown || emitted == 0 {
		t.Errorf("status %s, %d samples", status, emitted)
	}
	for _, says := range []string{"measure memory", "measure /home", "input/output error"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v does not say %q", err, says)
		}
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
		before, now procfs.CPUStat
		want        float64
		ok          bool
	}{
		"idle":               {procfs.CPUStat{}, procfs.CPUStat{Idle: 5, Iowait: 5}, 0, true},
		"busy":               {procfs.CPUStat{Idle: 5}, procfs.CPUStat{Idle: 5, User: 1, Steal: 3}, 1, true},
		"guest is user":      {procfs.CPUStat{}, procfs.CPUStat{User: 1, Guest: 1, Idle: 1}, 0.5, true},
		"no time":            {procfs.CPUStat{Idle: 5}, procfs.CPUStat{Idle: 5}, 0, false},
		"counters went back": {procfs.CPUStat{User: 5}, procfs.CPUStat{Idle: 5}, 0, false},
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

func BenchmarkCollect(b *testing.B) {
	c, err := Kind.Build(Kind.Defaults(), collect.Deps{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := c.Collect(b.Context(), func(metric.Sample) {}); err != nil {
			b.Fatal(fmt.Errorf("collect: %w", err))
		}
	}
}
