package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit/faultfs"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine is a machine with a log, a trainer and what was reported of it. It
// started at 1,000,000 seconds.
type machine struct {
	t      *testing.T
	config Config
	state  string
	now    time.Duration // since the start
	keys   map[string]bool
	faults []*commonv1.NodeFault
	fail   error
	said   bytes.Buffer
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, state: t.TempDir(), now: 100 * time.Second, keys: map[string]bool{}}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/proc")); err != nil {
		t.Fatal(err)
	}
	m.config = Config{Log: dir + "/kmsg", Proc: dir, History: time.Hour}
	m.put("11/stat", "11 (pt_main_thread) S 1 1 1 0 -1 4194304 101 0 0 0 120 30 0 0 20 0 17 0 1167323 0 0 1\n")
	m.put("11/task/11/children", "12 ")
	m.put("12/stat", "12 (pt_data_worker) S 11 1 1 0 -1 4194304 101 0 0 0 120 30 0 0 20 0 17 0 1167324 0 0 1\n")
	m.put("11/cgroup", "0::/slurm/job_42\n")
	m.put("kmsg", "")
	return m
}

func (m *machine) put(path, text string) {
	m.t.Helper()
	path = filepath.Join(m.config.Proc, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// say appends records of the kernel to the log, from a number on.
func (m *machine) say(sequence int, at time.Duration, texts ...string) {
	m.t.Helper()
	f, err := os.OpenFile(m.config.Log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	for i, text := range texts {
		if _, err := fmt.Fprintf(f, "4,%d,%d,-;%s\n", sequence+i, at.Microseconds(), text); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		m.t.Fatal(err)
	}
}

// record takes faults as the journal does: one key once.
func (m *machine) record(_ context.Context, fault *commonv1.NodeFault) error {
	if m.fail != nil {
		return m.fail
	}
	if fault.Key == "" || fault.Time == nil {
		m.t.Error("a fault without key or time")
	}
	if !m.keys[fault.Key] {
		m.keys[fault.Key] = true
		m.faults = append(m.faults, fault)
	}
	return nil
}

// start starts an agent's collector.
func (m *machine) start() *collector {
	m.t.Helper()
	c, err := New(m.config, collect.Deps{
		Log: slog.New(slog.NewTextHandler(&m.said, nil)), StateDir: m.state, Faults: m.record,
		Trainers: func() []collect.Trainer { return []collect.Trainer{{RunID: "run", Attempt: 1, Rank: 3, PID: 11}} },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	k := c.(*collector)
	k.clock = func() time.Time { return time.Unix(1_000_000, 0).Add(m.now) }
	k.uptime = func() (time.Duration, error) { return m.now, nil }
	m.t.Cleanup(func() { k.source.close() })
	return k
}

// collect makes a call that must go well and gives its samples.
func (m *machine) collect(c *collector) map[string]float64 {
	m.t.Helper()
	got := map[string]float64{}
	status, err := c.Collect(m.t.Context(), func(s metric.Sample) {
		got[strings.TrimPrefix(s.Def.Name, "vigil_kernel_")+strings.Join(append([]string{""}, s.Labels...), " ")] = s.Value
	})
	if status != collect.Ok || err != nil {
		m.t.Errorf("Collect = %s, %v", status, err)
	}
	return got
}

// told gives what was reported: kind, device, folded.
func (m *machine) told() (all []string) {
	for _, f := range m.faults {
		kind := strings.ToLower(strings.TrimPrefix(f.Kind.String(), "FAULT_KIND_"))
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s +%d", kind, f.Device, f.Folded)))
	}
	return all
}

func TestLogOfAMachine(t *testing.T) {
	m := newMachine(t)
	data, err := os.ReadFile("testdata/gpu-5.15.kmsg")
	if err != nil {
		t.Fatal(err)
	}
	m.put("kmsg", string(data))
	got := m.collect(m.start())
	want := []string{"xid 0000:3b:00.0 +0", "oom_kill /slurm/job_42/step_0 +0", "memory_error MC0 +0"}
	if diff := cmp.Diff(want, m.told()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff(map[string]float64{
		"records_total": 9, "missed_records_total": 0, "folded_faults_total": 0,
		"faults_total xid": 1, "faults_total oom_kill": 1, "faults_total memory_error": 1,
	}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	xid, oom := m.faults[0], m.faults[1]
	if xid.GetGpu() != 1 || xid.Rank == nil || xid.GetRank() != 3 || xid.RunId != "run" {
		t.Errorf("the XID is of GPU 1 and of rank 3: %v", xid)
	}
	if at := xid.Time.AsTime(); !at.Equal(time.Unix(1_000_060, 0)) {
		t.Errorf("the XID was at %v", at)
	}
	// The victim is a child that nobody had seen: its job is known all the same.
	if oom.RunId != "run" || oom.Rank != nil || oom.Pid != 55 || oom.Process != "pt_data_worker" || oom.Severity != critical {
		t.Errorf("OOM kill: %v", oom)
	}
}

func TestVictimThatHasEndedIsKnown(t *testing.T) {
	m := newMachine(t)
	c := m.start()
	m.collect(c)
	for _, pid := range []string{"/11", "/12"} {
		if err := os.RemoveAll(m.config.Proc + pid); err != nil {
			t.Fatal(err)
		}
	}
	m.now += 10 * time.Second
	m.say(0, m.now, "Out of memory: Killed process 12 (pt_data_worker) total-vm:1kB")
	m.collect(c)
	if f := m.faults[0]; f.RunId != "run" || f.GetRank() != 3 || f.Severity != critical {
		t.Errorf("%v", f)
	}
	m.now += remember + lookEvery
	m.say(1, m.now, "Out of memory: Killed process 12 (other) total-vm:1kB")
	m.collect(c)
	if f := m.faults[1]; f.RunId != "" || f.Rank != nil || f.Severity != warning {
		t.Errorf("long after, the number is another's: %v", f)
	}
}

const (
	xid79 = "NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus."
	fsErr = "EXT4-fs (sda1): Remounting filesystem read-only"
)

func TestNothingTwiceAndNothingMissedOverRestarts(t *testing.T) {
	m := newMachine(t)
	m.say(0, 50*time.Second, "hello", xid79)
	c := m.start()
	m.collect(c)
	m.collect(c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	m.say(2, 60*time.Second, fsErr) // while no agent runs
	m.now += time.Second
	m.collect(m.start()) // and is killed: no Close
	m.collect(m.start())
	want := []string{"xid 0000:3b:00.0 +0", "file_system sda1 +0"}
	if diff := cmp.Diff(want, m.told()); diff != "" {
		t.Errorf("after restarts of the agent: %s", diff)
	}
	// The machine starts anew, and the numbers with it.
	m.put("sys/kernel/random/boot_id", "another\n")
	m.put("kmsg", "")
	m.say(0, time.Second, xid79)
	m.now = 10 * time.Second
	m.collect(m.start())
	m.collect(m.start())
	if diff := cmp.Diff(append(want, "xid 0000:3b:00.0 +0"), m.told()); diff != "" {
		t.Errorf("after a restart of the machine: %s", diff)
	}
}

func TestWhatWasWrittenOverIsCounted(t *testing.T) {
	m := newMachine(t)
	m.say(0, 50*time.Second, "one", "two")
	m.collect(m.start())
	m.now += saveEvery
	m.put("kmsg", "")
	m.say(10, 60*time.Second, "eleven") // 2 to 9 are gone
	if got := m.collect(m.start()); got["missed_records_total"] != 8 {
		t.Errorf("missed %v records, want 8", got["missed_records_total"])
	}
	if !strings.Contains(m.said.String(), "records=8") {
		t.Errorf("log:\n%s", &m.said)
	}
}

func TestHistoryOfAMachineIsNotNews(t *testing.T) {
	m := newMachine(t)
	m.now = 3 * time.Hour
	m.say(100, time.Hour, xid79)
	m.say(101, m.now-time.Minute, fsErr)
	got := m.collect(m.start())
	if diff := cmp.Diff([]string{"file_system sda1 +0"}, m.told()); diff != "" || got["missed_records_total"] != 0 {
		t.Errorf("missed %v; %s", got["missed_records_total"], diff)
	}
}

func TestFaultThatCannotBeRecordedIsToldAgain(t *testing.T) {
	m := newMachine(t)
	c := m.start()
	m.say(0, m.now, fsErr, xid79, "later")
	m.fail = errors.New("disk is full")
	for range 3 {
		if status, err := c.Collect(t.Context(), func(metric.Sample) {}); status != collect.Unknown || !errors.Is(err, m.fail) {
			t.Errorf("%s, %v", status, err)
		}
	}
	m.fail = nil
	m.collect(c)
	if diff := cmp.Diff([]string{"file_system sda1 +0", "xid 0000:3b:00.0 +0"}, m.told()); diff != "" {
		t.Error(diff)
	}
}

func TestStormIsFolded(t *testing.T) {
	m := newMachine(t)
	c := m.start()
	for i := range 100 {
		m.say(i, m.now, xid79)
	}
	m.say(100, m.now, fsErr)
	m.collect(c)
	if len(m.faults) != burst+1 {
		t.Errorf("%d faults are told at once: %v", len(m.faults), m.told())
	}
	if got := m.start(); got.begin() != nil || got.at.Next != burst {
		t.Errorf("the cursor on disk is at %d: what is folded and not told stands behind it", got.at.Next)
	}
	m.now += window
	m.collect(c)
	if diff := cmp.Diff(fmt.Sprintf("xid 0000:3b:00.0 +%d", 100-burst), m.told()[burst+1]); diff != "" {
		t.Error(diff)
	}
	m.now += time.Second
	m.say(101, m.now, xid79)
	if got := m.collect(c); len(m.faults) != burst+3 || got["folded_faults_total"] != 100-burst {
		t.Errorf("after the minute the next one is told: %v, %v", m.told(), got)
	}
}

func TestStormIsFoldedAlsoWhenTheAgentIsKilledInIt(t *testing.T) {
	m := newMachine(t)
	for i := range 20 {
		m.say(i, m.now, xid79)
	}
	m.collect(m.start())
	again := m.start()
	m.collect(again)
	m.now += window
	m.collect(again)
	told := int64(0)
	for _, f := range m.faults {
		told++
		if folded := f.Folded; folded > 0 {
			told += folded - 1
		}
	}
	if told != 20 {
		t.Errorf("%d of 20 faults are told: %v", told, m.told())
	}
}

func TestCursorThatIsDamagedLosesNothing(t *testing.T) {
	m := newMachine(t)
	if err := os.WriteFile(filepath.Join(m.state, cursorFile), []byte("{nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.now = 10 * time.Hour
	m.say(0, time.Second, xid79)
	m.collect(m.start())
	if len(m.faults) != 1 || !strings.Contains(m.said.String(), "cursor is lost") {
		t.Errorf("told %v; log:\n%s", m.told(), &m.said)
	}
}

func TestCursorThatCannotBeSavedIsSaid(t *testing.T) {
	m := newMachine(t)
	c := m.start()
	disk := faultfs.New()
	c.fs = disk
	m.say(0, m.now, xid79)
	disk.FailWith(func(faultfs.Op, string) error { return errors.New("disk is full") })
	if status, err := c.Collect(t.Context(), func(metric.Sample) {}); status != collect.Unknown || err == nil || len(m.faults) != 1 {
		t.Errorf("%s, %v, told %v", status, err, m.told())
	}
}

func TestNoLog(t *testing.T) {
	m := newMachine(t)
	m.config.Log += ".none"
	if status, err := m.start().Collect(t.Context(), func(metric.Sample) {}); status != collect.Unsupported || err != nil {
		t.Errorf("no such file: %s, %v", status, err)
	}
	m.config.Proc = t.TempDir()
	if status, err := m.start().Collect(t.Context(), func(metric.Sample) {}); status != collect.Unknown || err == nil {
		t.Errorf("no boot id: %s, %v", status, err)
	}
}
