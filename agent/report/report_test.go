package report

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/host"
	"github.com/vigil-ml/vigil/agent/collect/process"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is what a report is made of.
type node struct {
	samples  []metric.Sample
	statuses map[string]collect.Status
	trainers []collect.Trainer

	mu     sync.Mutex
	events []*commonv1.Event
	fail   error
	said   strings.Builder
}

func (n *node) reporter() *Reporter {
	return New(Defaults(), Deps{
		Latest: func(yield func(metric.Sample) bool) {
			for _, s := range n.samples {
				if !yield(s) {
					return
				}
			}
		},
		Statuses: func() map[string]collect.Status { return n.statuses },
		Trainers: func() []collect.Trainer { return n.trainers },
		Record:   n.record, Log: slog.New(slog.NewTextHandler(&n.said, nil)), Clock: time.Now,
	})
}

func (n *node) record(_ context.Context, event *commonv1.Event) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail == nil {
		n.events = append(n.events, event)
	}
	return n.fail
}

// at makes a sample of a time, in seconds.
func at(t int64, def metric.Def, value float64, labels ...string) metric.Sample {
	return metric.Sample{Def: def, Labels: labels, Value: value, Time: time.Unix(t, 0)}
}

// gpu makes a sample of a metric by its name.
func gpu(name string, labels, values []string, value float64) metric.Sample {
	return metric.Sample{Def: metric.Def{Name: name, Labels: labels}, Labels: values, Value: value}
}

func TestNothingMeasuredIsNothingSaid(t *testing.T) {
	n := &node{statuses: map[string]collect.Status{"host": collect.Ok, "nvml": collect.Unsupported, "kernel": collect.Stuck}}
	want := &commonv1.NodeReport{IntervalSeconds: 10, Collectors: map[string]string{"nvml": "unsupported", "kernel": "stuck"}}
	if diff := cmp.Diff(want, n.reporter().report(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestHost(t *testing.T) {
	n := &node{samples: []metric.Sample{
		at(100, metric.HostMemoryTotal, 16<<30), at(100, metric.HostMemoryAvailable, 0),
		at(100, metric.HostClockOffset, -0.25),
		at(100, metric.HostCPUSeconds, 50, "idle"), at(100, metric.HostCPUSeconds, 10, "iowait"), at(100, metric.HostCPUSeconds, 40, "user"),
		at(100, metric.HostStall, 5, "memory", "some"), at(100, metric.HostStall, 99, "memory", "full"), at(100, metric.HostStall, 99, "io", "some"),
		at(100, metric.HostDiskTotal, 1000, "/b"), at(100, metric.HostDiskAvailable, 10, "/b"),
		at(100, metric.HostDiskTotal, 2000, "/a"), at(100, metric.HostDiskAvailable, 20, "/a"),
		at(100, metric.HostDiskInodes, 300, "/a"), at(100, metric.HostDiskInodesFree, 3, "/a"),
		at(100, metric.HostDiskAvailable, 3, "/size-not-known"),
		at(100, metric.HostLoad1, 7),
	}}
	r := n.reporter()
	want := &commonv1.NodeReport{
		IntervalSeconds: 10, MemoryTotalBytes: proto.Int64(16 << 30), MemoryAvailableBytes: proto.Int64(0), ClockOffsetSeconds: proto.Float64(-0.25),
		FileSystems: []*commonv1.FileSystemReport{
			{Mount: "/a", SizeBytes: 2000, AvailableBytes: 20, Inodes: 300, InodesFree: 3},
			{Mount: "/b", SizeBytes: 1000, AvailableBytes: 10},
		},
	}
	if diff := cmp.Diff(want, r.report(), protocmp.Transform()); diff != "" {
		t.Errorf("first report (-want +got):\n%s", diff)
	}
	n.samples = []metric.Sample{
		at(110, metric.HostCPUSeconds, 55, "idle"), at(110, metric.HostCPUSeconds, 12, "iowait"), at(110, metric.HostCPUSeconds, 53, "user"),
		at(110, metric.HostStall, 7.5, "memory", "some"),
	}
	want = &commonv1.NodeReport{IntervalSeconds: 10, CpuBusyRatio: proto.Float64(0.65), MemoryStallRatio: proto.Float64(0.25)}
	for _, which := range []string{"second", "third, without new samples"} {
		if diff := cmp.Diff(want, r.report(), protocmp.Transform()); diff != "" {
			t.Errorf("%s report (-want +got):\n%s", which, diff)
		}
	}
	// The collector is gone: its figures are too.
	n.samples = nil
	if got := r.report(); got.CpuBusyRatio != nil || got.MemoryStallRatio != nil {
		t.Errorf("without samples: %v", got)
	}
}

func TestGPUs(t *testing.T) {
	one := func(name string, value float64) metric.Sample {
		return gpu(name, []string{"gpu"}, []string{"1"}, value)
	}
	two := func(name, label, of string, value float64) metric.Sample {
		return gpu(name, []string{"gpu", label}, []string{"1", of}, value)
	}
	n := &node{samples: []metric.Sample{
		gpu("vigil_gpu_info", []string{"gpu", "uuid", "model"}, []string{"1", "GPU-1", "H100"}, 1),
		one("vigil_gpu_utilization_ratio", 0.5), one("vigil_gpu_memory_total_bytes", 80<<30), one("vigil_gpu_memory_used_bytes", 0),
		one("vigil_gpu_power_watts", 700), one("vigil_gpu_temperature_celsius", 64), one("vigil_gpu_sm_clock_hertz", 1e9), one("vigil_gpu_sm_clock_max_hertz", 2e9),
		two("vigil_gpu_throttled", "reason", "power_cap", 1), two("vigil_gpu_throttled", "reason", "hardware_thermal", 1),
		two("vigil_gpu_throttled", "reason", "sync_boost", 0), two("vigil_gpu_throttled", "reason", "new_reason", 1),
		one("vigil_gpu_ecc_corrected_errors_total", 3), one("vigil_gpu_ecc_uncorrected_errors_total", 1),
		two("vigil_gpu_remapped_rows_total", "cause", "correctable", 2), two("vigil_gpu_remapped_rows_total", "cause", "uncorrectable", 5),
		one("vigil_gpu_row_remap_pending", 1), one("vigil_gpu_row_remap_failed", 0),
		two("vigil_gpu_nvlink_errors_total", "error", "replay", 4), two("vigil_gpu_nvlink_errors_total", "error", "crc_flit", 6),
		one("vigil_gpu_nvlinks_down", 0), one("vigil_gpu_pcie_replays_total", 9),
		two("vigil_gpu_process_memory_bytes", "pid", "77", 1), two("vigil_gpu_process_memory_bytes", "pid", "12", 1), two("vigil_gpu_process_memory_bytes", "pid", "77", 1),
		gpu("vigil_gpu_power_watts", []string{"gpu"}, []string{"0"}, 60), gpu("vigil_gpu_power_watts", []string{"gpu"}, []string{"none"}, 60),
		gpu("vigil_gpu_power_watts", []string{"gpu"}, nil, 60),
	}}
	want := []*commonv1.GpuReport{{PowerWatts: proto.Float64(60)}, {
		Index: 1, Uuid: "GPU-1", UtilizationRatio: proto.Float64(0.5), MemoryTotalBytes: proto.Int64(80 << 30), MemoryUsedBytes: proto.Int64(0),
		PowerWatts: proto.Float64(700), TemperatureCelsius: proto.Float64(64), SmClockHertz: proto.Float64(1e9), SmClockMaxHertz: proto.Float64(2e9),
		Throttle: []commonv1.ThrottleReason{
			commonv1.ThrottleReason_THROTTLE_REASON_HARDWARE_THERMAL, commonv1.ThrottleReason_THROTTLE_REASON_POWER_CAP,
		},
		EccCorrected: proto.Int64(3), EccUncorrected: proto.Int64(1), RemappedRows: proto.Int64(7),
		RemapPending: proto.Bool(true), RemapFailed: proto.Bool(false), NvlinkErrors: proto.Int64(10), NvlinksDown: proto.Int64(0),
		PcieReplays: proto.Int64(9), Pids: []int64{12, 77},
	}}
	if diff := cmp.Diff(want, n.reporter().report().Gpus, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestPorts(t *testing.T) {
	n := &node{samples: []metric.Sample{
		at(1, metric.FabricState, 4, "mlx5_1", "1"), at(1, metric.FabricState, 1, "mlx5_0", "1"), at(1, metric.FabricRate, 400e9, "mlx5_0", "1"),
		at(1, metric.FabricDowned, 3, "mlx5_0", "1"), at(1, metric.FabricErrors, 5, "mlx5_0", "1", "symbol_error"),
		at(1, metric.FabricErrors, 6, "mlx5_0", "1", "link_error_recovery"), at(1, metric.FabricErrors, 7, "mlx5_0", "1", "port_rcv_errors"),
		at(1, metric.FabricState, 4, "mlx5_0", "none"),
	}}
	want := []*commonv1.PortReport{
		{Device: "mlx5_0", Port: 1, State: "DOWN", RateBitsPerSecond: proto.Float64(400e9), LinkDowned: proto.Int64(3), LinkErrors: proto.Int64(11), PacketErrors: proto.Int64(7)},
		{Device: "mlx5_1", Port: 1, State: "ACTIVE"},
	}
	if diff := cmp.Diff(want, n.reporter().report().Ports, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestProcesses(t *testing.T) {
	n := &node{
		trainers: []collect.Trainer{
			{RunID: "a", Rank: 5, PID: 15}, {RunID: "a", Rank: 4, PID: 14}, {RunID: "b", Attempt: 1, PID: 21}, {RunID: "b", Attempt: 2, PID: 22},
		},
		samples: []metric.Sample{
			at(100, metric.ProcessResident, 1000, "a", "4"), at(100, metric.ProcessCPU, 10, "a", "4"), at(100, metric.ProcessResident, 9, "gone", "0"),
			at(100, metric.CgroupMemory, 5000, "a", "4"), at(100, metric.CgroupMemoryLimit, 8000, "a", "4"),
		},
	}
	r := n.reporter()
	r.report()
	n.samples[1] = at(104, metric.ProcessCPU, 22, "a", "4")
	group := func(p *commonv1.ProcessReport) *commonv1.ProcessReport {
		p.CgroupMemoryBytes, p.MemoryLimitBytes = proto.Int64(5000), proto.Int64(8000)
		return p
	}
	want := []*commonv1.ProcessReport{
		group(&commonv1.ProcessReport{RunId: "a", Rank: 4, Pid: 14, ResidentBytes: proto.Int64(1000), CpuRatio: proto.Float64(3)}),
		group(&commonv1.ProcessReport{RunId: "a", Rank: 5, Pid: 15}), // shares the group of rank 4
		{RunId: "b", Attempt: 2, Pid: 22},
	}
	if diff := cmp.Diff(want, r.report().Processes, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestShares(t *testing.T) {
	s := shares{}
	for i, step := range []struct {
		part, whole, want float64
		known             bool
	}{
		{5, 100, 0, false}, {6, 102, 0.5, true}, {6, 102, 0.5, true}, {6, 104, 0, true},
		{1, 106, 0, false}, // the counter began anew
		{1, 106, 0, false}, {3, 108, 1, true},
		{4, 50, 0, false}, // the clock went back
	} {
		if got, known := s.of("x", step.part, step.whole); known != step.known || (known && got != step.want) {
			t.Errorf("step %d: %v, %v", i, got, known)
		}
	}
	s.forget()
	if s.forget(); len(s) != 0 {
		t.Error("what nobody asks for is kept")
	}
}

func TestRunReportsAtItsIntervalAndGoesOnAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- n.reporter().Run(ctx) }()
		time.Sleep(25 * time.Second)
		synctest.Wait()
		n.mu.Lock()
		if len(n.events) != 2 || n.events[1].Time.AsTime().Sub(n.events[0].Time.AsTime()) != 10*time.Second || n.events[0].RunId != "" {
			t.Errorf("events %v", n.events)
		}
		n.fail = errors.New("disk is full")
		n.mu.Unlock()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		n.mu.Lock()
		n.fail = nil
		n.mu.Unlock()
		time.Sleep(10 * time.Second)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if len(n.events) != 3 || strings.Count(n.said.String(), "disk is full") != 1 {
			t.Errorf("%d events; log:\n%s", len(n.events), n.said.String())
		}
	})
}

func TestEveryNameIsInTheDictionary(t *testing.T) {
	gpus := 0
	for name := range rules() {
		_, ok := metric.Lookup(name)
		if !ok && !strings.HasPrefix(name, "vigil_gpu_") {
			t.Errorf("%s is no metric", name)
		}
		if strings.HasPrefix(name, "vigil_gpu_") {
			gpus++
		}
	}
	if gpus < 15 {
		t.Errorf("only %d metrics of GPUs", gpus)
	}
}

func TestThisMachine(t *testing.T) {
	trainers := func() []collect.Trainer { return []collect.Trainer{{RunID: "r", PID: int64(os.Getpid())}} }
	deps := collect.Deps{Log: testkit.Logger(t), Trainers: trainers}
	measured, err := host.Kind.Build(host.Kind.Defaults(), deps)
	if err != nil {
		t.Fatal(err)
	}
	processes, err := process.Kind.Build(process.Kind.Defaults(), deps)
	if err != nil {
		t.Fatal(err)
	}
	runner, err := collect.NewRunner([]collect.Source{
		{Name: "host", Collector: measured, Interval: 20 * time.Millisecond, Timeout: time.Second},
		{Name: "process", Collector: processes, Interval: 20 * time.Millisecond, Timeout: time.Second},
	}, collect.RunnerDeps{
		Record: func(context.Context, []metric.Sample) error { return nil },
		Log:    testkit.Logger(t), Metrics: prometheus.NewRegistry(), Clock: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- runner.Run(ctx) }()
	r := New(Defaults(), Deps{Latest: runner.Latest, Statuses: runner.Statuses, Trainers: trainers, Clock: time.Now})
	testkit.Eventually(t, "a whole report", func() bool {
		got := r.report()
		return got.CpuBusyRatio != nil && got.GetMemoryTotalBytes() > 0 && len(got.FileSystems) > 0 &&
			len(got.Processes) == 1 && got.Processes[0].GetResidentBytes() > 0 && len(got.Collectors) == 0
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestInterval(t *testing.T) {
	for interval, wrong := range map[time.Duration]int{0: 1, time.Millisecond: 1, time.Second: 0, time.Hour: 1} {
		problems := 0
		Config{Interval: interval}.Check(func(string, string, ...any) { problems++ })
		if problems != wrong {
			t.Errorf("%v: %d problems", interval, problems)
		}
	}
}
