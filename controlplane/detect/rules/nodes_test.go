package rules_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// machine writes the events of one node and has them observed: a report every
// ten seconds, which the test bends.
type machine struct {
	bank *detect.Bank
	now  time.Time
	n    int
	log  []string // what was found and ended, "kind severity" and "kind over"
	last *controlv1.Finding
	all  []*controlv1.Finding
}

func newMachine() *machine {
	set := rules.Defaults()
	m := &machine{bank: detect.NewBank(rules.All(set)).WatchNodes(rules.Nodes(set.Nodes)), now: time.Unix(1_700_000_000, 0)}
	m.run("r", 0, &commonv1.Event_TrainerRegistered{TrainerRegistered: &commonv1.TrainerRegistered{WorldSize: 2}})
	return m
}

func (m *machine) observe(e *commonv1.Event) {
	m.n++
	e.EventId, e.Node, e.Time = fmt.Sprint("e", m.n), "n1", timestamppb.New(m.now)
	for _, f := range m.bank.Observe(e) {
		m.last = f
		m.all = append(m.all, f)
		m.log = append(m.log, f.GetKind()+" "+f.GetSeverity().String()[len("SEVERITY_"):])
	}
	for _, f := range m.bank.Ended() {
		m.log = append(m.log, f.GetKind()+" over")
	}
}

func (m *machine) run(run string, rank uint32, body any) {
	e := &commonv1.Event{RunId: run, Rank: rank}
	switch b := body.(type) {
	case *commonv1.Event_TrainerRegistered:
		e.Body = b
	case *commonv1.Event_AttemptEnded:
		e.Body = b
	case *commonv1.Event_Step:
		e.Body = b
	}
	m.observe(e)
}

// healthy is a node under load on which all is well: noise included.
func (m *machine) healthy() *commonv1.NodeReport {
	wave := float64(m.n%7) / 100
	r := &commonv1.NodeReport{
		IntervalSeconds: 10, CpuBusyRatio: proto.Float64(0.6 + wave), ClockOffsetSeconds: proto.Float64(0.001 + wave/100),
		MemoryTotalBytes: proto.Int64(1000e9), MemoryAvailableBytes: proto.Int64(int64(400e9 - wave*300e9)),
		FileSystems: []*commonv1.FileSystemReport{{Mount: "/data", SizeBytes: 10e12, AvailableBytes: int64(5e12 - wave*1e12), Inodes: 1e6, InodesFree: 9e5}},
		Ports: []*commonv1.PortReport{
			{Device: "mlx5_0", Port: 1, State: "ACTIVE", LinkDowned: proto.Int64(4), LinkErrors: proto.Int64(int64(m.n / 40)), PacketErrors: proto.Int64(2)},
			{Device: "mlx5_1", Port: 1, State: "DOWN", LinkDowned: proto.Int64(0)}, // not in use
		},
		Processes: []*commonv1.ProcessReport{{RunId: "r", Rank: 3, Pid: 4003, MemoryLimitBytes: proto.Int64(200e9), CgroupMemoryBytes: proto.Int64(int64(90e9 + wave*50e9))}},
	}
	for i := range uint32(8) {
		r.Gpus = append(r.Gpus, &commonv1.GpuReport{
			Index: i, Uuid: fmt.Sprint("GPU-", i), UtilizationRatio: proto.Float64(0.9 + wave), MemoryTotalBytes: proto.Int64(80e9),
			MemoryUsedBytes: proto.Int64(70e9), PowerWatts: proto.Float64(690), TemperatureCelsius: proto.Float64(68),
			SmClockHertz: proto.Float64(1.75e9 - wave*1e9), SmClockMaxHertz: proto.Float64(1.98e9),
			Throttle:     []commonv1.ThrottleReason{commonv1.ThrottleReason_THROTTLE_REASON_POWER_CAP},
			EccCorrected: proto.Int64(int64(m.n / 50)), EccUncorrected: proto.Int64(1), RemapPending: proto.Bool(false), RemapFailed: proto.Bool(false),
			NvlinkErrors: proto.Int64(int64(m.n / 30)), NvlinksDown: proto.Int64(0), PcieReplays: proto.Int64(3),
		})
	}
	r.Gpus[3].Pids = []int64{4003}
	return r
}

// reports lets time pass with reports that bend has changed; i counts from 0.
func (m *machine) reports(d time.Duration, bend func(r *commonv1.NodeReport, i int)) {
	for i := range int(d / (10 * time.Second)) {
		m.now = m.now.Add(10 * time.Second)
		r := m.healthy()
		if bend != nil {
			bend(r, i)
		}
		m.observe(&commonv1.Event{Body: &commonv1.Event_NodeReport{NodeReport: r}})
	}
}

func (m *machine) fault(f *commonv1.NodeFault) {
	m.now = m.now.Add(time.Second)
	m.observe(&commonv1.Event{Body: &commonv1.Event_NodeFault{NodeFault: f}})
}

func (m *machine) link(state commonv1.LinkState, ahead float64) {
	m.observe(&commonv1.Event{Body: &commonv1.Event_NodeLink{NodeLink: &commonv1.NodeLink{State: state, LastHeard: timestamppb.New(m.now.Add(-time.Minute)), ClockAheadSeconds: &ahead}}})
}

// onGPU bends the report of GPU 3.
func onGPU(bend func(g *commonv1.GpuReport)) func(*commonv1.NodeReport, int) {
	return func(r *commonv1.NodeReport, _ int) { bend(r.Gpus[3]) }
}

func xidFault(code int32, gpu uint32) *commonv1.NodeFault {
	return &commonv1.NodeFault{Kind: commonv1.FaultKind_FAULT_KIND_XID, Code: code, Gpu: &gpu, Title: "as NVIDIA says", Severity: commonv1.FaultSeverity_FAULT_SEVERITY_WARNING}
}

const (
	short = 5 * time.Minute
	long  = 45 * time.Minute
)

// TestNodeRules tells of each problem: healthy before, the problem, which is
// found once however long it lasts, and its end.
func TestNodeRules(t *testing.T) {
	thermal := []commonv1.ThrottleReason{commonv1.ThrottleReason_THROTTLE_REASON_HARDWARE_THERMAL}
	for name, tc := range map[string]struct {
		tell func(m *machine)
		want []string
	}{
		"all is well for a day": {func(m *machine) { m.reports(24*time.Hour, nil) }, nil},
		"xid 79": {func(m *machine) {
			m.fault(xidFault(79, 3))
			m.reports(short, nil)
			m.fault(xidFault(79, 3)) // the same problem
			m.reports(long, nil)
		}, []string{"xid CRITICAL", "xid over"}},
		"xids of the program, and of two GPUs": {func(m *machine) {
			m.fault(xidFault(31, 3))
			m.fault(xidFault(43, 3))
			m.fault(xidFault(31, 4))
			m.fault(xidFault(999, 4)) // as the agent has it
		}, []string{"xid WARNING", "xid INFO", "xid WARNING", "xid WARNING"}},
		"ecc uncorrected": {func(m *machine) {
			m.reports(short, onGPU(func(g *commonv1.GpuReport) { g.EccUncorrected = proto.Int64(2) }))
			m.reports(long, onGPU(func(g *commonv1.GpuReport) { g.EccUncorrected = proto.Int64(2) }))
		}, []string{"ecc CRITICAL", "ecc over"}},
		"ecc counters begin anew": {func(m *machine) {
			m.reports(long, onGPU(func(g *commonv1.GpuReport) { g.EccUncorrected, g.EccCorrected = proto.Int64(0), proto.Int64(0) }))
		}, nil},
		"ecc corrected": {func(m *machine) {
			m.reports(long, func(r *commonv1.NodeReport, i int) { r.Gpus[3].EccCorrected = proto.Int64(int64(100 + 2*i)) })
			m.reports(long, onGPU(func(g *commonv1.GpuReport) { g.EccCorrected = proto.Int64(700) }))
		}, []string{"ecc WARNING", "ecc over"}},
		"remap": {func(m *machine) {
			m.reports(short, onGPU(func(g *commonv1.GpuReport) { g.RemapPending = proto.Bool(true) }))
			m.reports(short, onGPU(func(g *commonv1.GpuReport) { g.RemapPending, g.RemapFailed = proto.Bool(true), proto.Bool(true) }))
			m.reports(short, nil)
		}, []string{"remap WARNING", "remap CRITICAL", "remap over"}},
		"nvlink down": {func(m *machine) {
			m.reports(20*time.Second, onGPU(func(g *commonv1.GpuReport) { g.NvlinksDown = proto.Int64(1) })) // too short
			m.reports(short, nil)
			m.reports(short, onGPU(func(g *commonv1.GpuReport) { g.NvlinksDown = proto.Int64(2) }))
			m.reports(short, nil)
		}, []string{"nvlink CRITICAL", "nvlink over"}},
		"nvlink errors": {func(m *machine) {
			m.reports(long, func(r *commonv1.NodeReport, i int) { r.Gpus[3].NvlinkErrors = proto.Int64(int64(100 + 10*i)) })
			m.reports(long, onGPU(func(g *commonv1.GpuReport) { g.NvlinkErrors = proto.Int64(9999) }))
		}, []string{"nvlink WARNING", "nvlink over"}},
		"port down": {func(m *machine) {
			m.reports(short, func(r *commonv1.NodeReport, _ int) { r.Ports[0].State = "DOWN" })
			m.reports(short, nil)
		}, []string{"infiniband CRITICAL", "infiniband over"}},
		"one flap": {func(m *machine) {
			m.reports(long, func(r *commonv1.NodeReport, _ int) { r.Ports[0].LinkDowned = proto.Int64(5) })
		}, []string{"infiniband WARNING", "infiniband over"}},
		"flaps": {func(m *machine) {
			m.reports(2*time.Minute, func(r *commonv1.NodeReport, i int) { r.Ports[0].LinkDowned = proto.Int64(int64(5 + i)) })
			m.reports(long, func(r *commonv1.NodeReport, _ int) { r.Ports[0].LinkDowned = proto.Int64(20) })
		}, []string{"infiniband WARNING", "infiniband CRITICAL", "infiniband over"}},
		"throttled by heat": {func(m *machine) {
			m.reports(30*time.Second, onGPU(func(g *commonv1.GpuReport) { g.Throttle, g.SmClockHertz = thermal, proto.Float64(1e9) })) // too short
			m.reports(short, nil)
			m.reports(long, onGPU(func(g *commonv1.GpuReport) { g.Throttle, g.SmClockHertz = thermal, proto.Float64(1e9) }))
			m.reports(short, nil)
		}, []string{"throttling WARNING", "throttling over"}},
		"cool but idle": {func(m *machine) {
			m.reports(short, func(r *commonv1.NodeReport, _ int) {
				r.Gpus[5].Throttle, r.Gpus[5].SmClockHertz, r.Gpus[5].UtilizationRatio = thermal, proto.Float64(2e8), proto.Float64(0)
			})
		}, nil},
		"gpu idle under a run": {func(m *machine) {
			m.reports(long, onGPU(func(g *commonv1.GpuReport) { g.UtilizationRatio = proto.Float64(0) }))
			m.reports(short, nil)
		}, []string{"gpu-idle WARNING", "gpu-idle over"}},
		"device stuck": {func(m *machine) {
			m.fault(&commonv1.NodeFault{Kind: commonv1.FaultKind_FAULT_KIND_DEVICE_STUCK, Gpu: proto.Uint32(3)})
			m.reports(long, nil)
		}, []string{"device-stuck CRITICAL", "device-stuck over"}},
		"collector stuck": {func(m *machine) {
			m.reports(short, func(r *commonv1.NodeReport, _ int) {
				r.Collectors = map[string]string{"nvml": "stuck", "ib": "unsupported"}
			})
			m.reports(short, nil)
		}, []string{"device-stuck WARNING", "device-stuck over"}},
		"oom kills": {func(m *machine) {
			m.fault(&commonv1.NodeFault{Kind: commonv1.FaultKind_FAULT_KIND_OOM_KILL, Pid: 4003, Process: "python"})
			m.fault(&commonv1.NodeFault{Kind: commonv1.FaultKind_FAULT_KIND_OOM_KILL, Pid: 77, Process: "rsync"})
		}, []string{"oom-kill CRITICAL", "oom-kill WARNING"}},
		"memory high, hysteresis": {func(m *machine) {
			for range 10 { // about the limit: one problem
				m.reports(short, func(r *commonv1.NodeReport, _ int) { r.MemoryAvailableBytes = proto.Int64(80e9) })
				m.reports(short, func(r *commonv1.NodeReport, _ int) { r.MemoryAvailableBytes = proto.Int64(110e9) })
			}
			m.reports(short, nil)
		}, []string{"memory-high WARNING", "memory-high over"}},
		"cpu high": {func(m *machine) {
			m.reports(short, func(r *commonv1.NodeReport, _ int) { r.CpuBusyRatio = proto.Float64(1) }) // not for long
			m.reports(short, nil)
			m.reports(long, func(r *commonv1.NodeReport, _ int) { r.CpuBusyRatio = proto.Float64(1) })
			m.reports(short, nil)
		}, []string{"cpu-high WARNING", "cpu-high over"}},
		"gpu memory preallocated": {func(m *machine) {
			m.reports(long, onGPU(func(g *commonv1.GpuReport) { g.MemoryUsedBytes = proto.Int64(79e9) }))
			m.reports(short, nil)
		}, []string{"gpu-memory-high INFO", "gpu-memory-high over"}},
		"disk full": {func(m *machine) {
			m.reports(short, func(r *commonv1.NodeReport, _ int) { r.FileSystems[0].AvailableBytes = 0 })
			m.reports(short, nil)
		}, []string{"disk-full CRITICAL", "disk-high WARNING", "disk-full over", "disk-high over"}},
		"inodes": {func(m *machine) {
			m.reports(short, func(r *commonv1.NodeReport, _ int) { r.FileSystems[0].InodesFree = 3e4 })
		}, []string{"disk-high WARNING"}},
		"disk filling": {func(m *machine) {
			m.reports(long, func(r *commonv1.NodeReport, i int) { r.FileSystems[0].AvailableBytes = int64(4e12 - float64(i)*2.5e9) })
			m.reports(long, nil)
		}, []string{"disk-filling WARNING", "disk-filling over"}},
		"one large file": {func(m *machine) {
			m.reports(20*time.Minute, func(r *commonv1.NodeReport, _ int) { r.FileSystems[0].AvailableBytes = 3e12 })
			m.reports(20*time.Minute, func(r *commonv1.NodeReport, _ int) { r.FileSystems[0].AvailableBytes = 2e12 })
			m.reports(20*time.Minute, func(r *commonv1.NodeReport, _ int) { r.FileSystems[0].AvailableBytes = 3e12 })
		}, nil},
		"memory of a job runs out": {func(m *machine) {
			m.reports(long, func(r *commonv1.NodeReport, i int) {
				r.Processes[0].CgroupMemoryBytes = proto.Int64(int64(100e9 + float64(i)*0.2e9))
			})
			m.reports(short, func(r *commonv1.NodeReport, _ int) { r.Processes = nil }) // the process ends
		}, []string{"memory-filling WARNING", "memory-filling over"}},
		"memory of the host runs out": {func(m *machine) {
			m.reports(40*time.Minute, func(r *commonv1.NodeReport, i int) {
				r.MemoryAvailableBytes = proto.Int64(int64(400e9 - float64(i)*1.2e9))
			})
		}, []string{"memory-filling WARNING"}},
		"hardware": {func(m *machine) {
			for _, kind := range []commonv1.FaultKind{4, 5, 6, 7, 8, 10} {
				m.fault(&commonv1.NodeFault{Kind: kind, Device: "nvme0n1", Severity: commonv1.FaultSeverity_FAULT_SEVERITY_CRITICAL})
			}
		}, slices.Repeat([]string{"hardware CRITICAL"}, 6)},
		"clock": {func(m *machine) {
			m.link(commonv1.LinkState_LINK_STATE_CONNECTED, 3)
			m.reports(short, nil)
			m.link(commonv1.LinkState_LINK_STATE_CONNECTED, 0.1)
			m.reports(short, nil)
			m.reports(short, func(r *commonv1.NodeReport, _ int) { r.ClockOffsetSeconds = proto.Float64(-40) })
		}, []string{"clock-skew WARNING", "clock-skew over", "clock-skew CRITICAL"}},
		"lost": {func(m *machine) {
			m.link(commonv1.LinkState_LINK_STATE_DISCONNECTED, 0)
			m.link(commonv1.LinkState_LINK_STATE_LOST, 0)
			m.link(commonv1.LinkState_LINK_STATE_CONNECTED, 0)
		}, []string{"node-lost CRITICAL", "node-lost over"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine()
			m.reports(40*time.Minute, nil)
			tc.tell(m)
			if diff := cmp.Diff(tc.want, m.log); diff != "" {
				t.Errorf("found (-want +got):\n%s", diff)
			}
			for _, f := range m.all {
				if f.GetNode() != "n1" || f.GetSummary() == "" || f.GetProblem() == "" || f.GetFindingId() == "" || f.GetEventTime() == nil {
					t.Errorf("a finding is not complete: %v", f)
				}
			}
		})
	}
}

// TestNodeFindingsName holds what findings say of whom it hits.
func TestNodeFindingsName(t *testing.T) {
	m := newMachine()
	m.reports(time.Minute, nil)
	f := xidFault(31, 3)
	f.Pid, f.Process = 4003, "python"
	m.fault(f)
	want := &controlv1.Finding{
		Kind: "xid", Severity: commonv1.Severity_SEVERITY_WARNING, Node: "n1", Gpu: proto.Uint32(3), Device: "GPU-3", Rank: 3, Pid: 4003,
		Problem: "xid/XID-31/gpu3", AffectedRuns: []string{"r"}, Evidence: map[string]float64{"code": 31},
		Summary: "XID 31 (as NVIDIA says) on GPU 3 of n1, in process 4003 (python), of run r rank 3.",
	}
	if diff := cmp.Diff(want, m.last, protocmp.Transform(), protocmp.IgnoreFields(&controlv1.Finding{}, "finding_id", "event_time")); diff != "" {
		t.Errorf("finding (-want +got):\n%s", diff)
	}
}

// TestGapCountsAnew: what was seen before a long silence does not say how long
// a state has lasted.
func TestGapCountsAnew(t *testing.T) {
	m := newMachine()
	high := func(r *commonv1.NodeReport, _ int) { r.MemoryAvailableBytes = proto.Int64(1e9) }
	m.reports(20*time.Second, high)
	m.now = m.now.Add(time.Hour)
	m.reports(100*time.Second, high)
	if len(m.log) > 0 {
		t.Errorf("found %v after a gap", m.log)
	}
}

func TestEveryNodeKindHasAPage(t *testing.T) {
	seen := map[string]bool{}
	for _, rule := range rules.Nodes(rules.Defaults().Nodes) {
		if _, err := os.Stat("../../../docs/runbook/" + rule.Code + ".md"); err != nil || seen[rule.Code] {
			t.Errorf("rule %s: %v, or it is listed twice", rule.Code, err)
		}
		seen[rule.Code] = true
		known := map[string]bool{}
		for _, r := range all() {
			known[r.Code] = true
		}
		for _, kind := range rule.Explains {
			if !known[kind] {
				t.Errorf("rule %s explains %s, which is no kind of a run", rule.Code, kind)
			}
		}
	}
}

// TestNodeMemoryIsBounded: months change nothing but the counters.
func TestNodeMemoryIsBounded(t *testing.T) {
	m := newMachine()
	report := func(i int) *commonv1.Event {
		m.now = m.now.Add(10 * time.Second)
		return &commonv1.Event{Node: "n1", Time: timestamppb.New(m.now), Body: &commonv1.Event_NodeReport{NodeReport: m.healthy()}}
	}
	for i := range 1000 {
		m.bank.Observe(report(i))
	}
	event := report(0)
	allocs := testing.AllocsPerRun(1000, func() {
		event.Time.Seconds += 10
		m.bank.Observe(event)
	})
	if allocs > 2 {
		t.Errorf("a healthy report allocates %.1f times", allocs)
	}
}

func BenchmarkNodeReport(b *testing.B) {
	m := newMachine()
	event := &commonv1.Event{Node: "n1", Time: timestamppb.New(m.now), Body: &commonv1.Event_NodeReport{NodeReport: m.healthy()}}
	b.ReportAllocs()
	for b.Loop() {
		event.Time.Seconds += 10
		m.bank.Observe(event)
	}
}
