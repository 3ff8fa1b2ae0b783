package reflex_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/internal/metric"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func preemption(id, run string, in time.Duration) *commonv1.Event {
	notice := &commonv1.PreemptionNotice{Source: "slurm"}
	if in != 0 {
		notice.Deadline = timestamppb.New(time.Now().Add(in))
	}
	return &commonv1.Event{EventId: id, RunId: run, Time: timestamppb.Now(), Body: &commonv1.Event_Preemption{Preemption: notice}}
}

func gpuFault(code int32, run string, severity commonv1.FaultSeverity) *commonv1.Event {
	return &commonv1.Event{EventId: time.Now().String(), Time: timestamppb.Now(), Body: &commonv1.Event_NodeFault{NodeFault: &commonv1.NodeFault{
		Kind: commonv1.FaultKind_FAULT_KIND_XID, Code: code, Severity: severity, RunId: run, Device: "0000:0f:00.0",
	}}}
}

const critical = commonv1.FaultSeverity_FAULT_SEVERITY_CRITICAL

// ordered gives the runs that were ordered to be saved, sorted, and how.
func (p *post) ordered(t *testing.T, failure commonv1.FailureKind) []string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var runs []string
	for _, o := range p.orders {
		runs = append(runs, o.RunId)
		if o.Failure != failure || o.After != commonv1.AfterCheckpoint_AFTER_CHECKPOINT_CONTINUE ||
			o.Reason != commonv1.CheckpointReason_CHECKPOINT_REASON_REFLEX {
			t.Errorf("order %v; want one for %v after which training goes on", o, failure)
		}
	}
	slices.Sort(runs)
	return runs
}

func TestAPreemptionNoticeHasTheRunSaved(t *testing.T) {
	within(t, false, func(t *testing.T, p *post) {
		for _, rank := range []string{"0", "1", "2"} { // each rank tells of it
			p.Observe(preemption(rank, "run", 20*time.Second))
			time.Sleep(3 * time.Second)
		}
		if got := p.ordered(t, commonv1.FailureKind_FAILURE_KIND_PREEMPTED); !slices.Equal(got, []string{"run"}) {
			t.Errorf("orders for %q", got)
		}
		if d := p.deadlines[0]; d != 20*time.Second {
			t.Errorf("the order may take %v; the machine goes in 20 s", d)
		}
		time.Sleep(time.Hour)
		p.Observe(preemption("later", "run", -time.Second))
		time.Sleep(time.Second)
		if p.count() != 2 || p.deadlines[1] != time.Minute {
			t.Errorf("%d orders, the last may take %v; a notice an hour later is another", p.count(), p.deadlines)
		}
	})
}

func TestAFatalXIDHasRunsSaved(t *testing.T) {
	for name, tc := range map[string]struct {
		events []*commonv1.Event
		want   []string
	}{
		"of a run":      {[]*commonv1.Event{gpuFault(79, "b", critical), gpuFault(79, "b", critical)}, []string{"b"}},
		"nobody's":      {[]*commonv1.Event{gpuFault(79, "", critical)}, []string{"a", "b"}},
		"a warning":     {[]*commonv1.Event{gpuFault(63, "b", commonv1.FaultSeverity_FAULT_SEVERITY_WARNING)}, nil},
		"no GPU":        {[]*commonv1.Event{{Body: &commonv1.Event_NodeFault{NodeFault: &commonv1.NodeFault{Kind: commonv1.FaultKind_FAULT_KIND_DISK, Severity: critical}}}}, nil},
		"nothing in it": {[]*commonv1.Event{{Body: &commonv1.Event_NodeFault{}}, {Body: &commonv1.Event_Preemption{}}}, []string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, false, func(t *testing.T, p *post) {
				p.runs = []string{"a", "b"}
				for _, e := range tc.events {
					p.Observe(e)
				}
				time.Sleep(time.Minute)
				failure := commonv1.FailureKind_FAILURE_KIND_GPU_FAULT
				if name == "nothing in it" {
					failure = commonv1.FailureKind_FAILURE_KIND_PREEMPTED
				}
				if got := p.ordered(t, failure); !slices.Equal(got, tc.want) {
					t.Errorf("orders for %q, want %q", got, tc.want)
				}
			})
		})
	}
}

func TestTheControlPlanesAnswerIsEnough(t *testing.T) {
	within(t, true, func(t *testing.T, p *post) {
		p.Observe(gpuFault(79, "run", critical))
		time.Sleep(time.Second)
		p.answer("run")
		time.Sleep(time.Minute)
		if p.count() != 0 {
			t.Errorf("orders %v", p.orders)
		}
	})
}

const gib = 1 << 30

// hostMemory is the node's memory as the host collector gives it.
func hostMemory(available float64) []metric.Sample {
	return []metric.Sample{
		{Def: metric.HostMemoryTotal, Value: 100 * gib, Time: time.Now()},
		{Def: metric.HostMemoryAvailable, Value: available * gib, Time: time.Now()},
	}
}

// jobMemory is that of a run's control group.
func jobMemory(run string, anon float64) []metric.Sample {
	sample := func(name string, value float64) metric.Sample {
		return metric.Sample{Def: metric.Def{Name: name, Labels: []string{"run", "rank"}}, Labels: []string{run, "0"}, Value: value * gib, Time: time.Now()}
	}
	return []metric.Sample{
		sample("vigil_cgroup_memory_limit_bytes", 100), sample("vigil_cgroup_memory_anonymous_bytes", anon),
		sample("vigil_cgroup_memory_shared_bytes", 10), sample("vigil_cgroup_memory_bytes", 100),
	}
}

func TestMemoryThatRunsOutHasRunsSaved(t *testing.T) {
	for name, tc := range map[string]struct {
		figures []float64 // GiB available of 100, every ten seconds
		want    []string
	}{
		"falls to nothing within a minute": {[]float64{90, 60, 40, 24, 14, 6}, []string{"a", "b"}},
		"falls slowly":                     {[]float64{24, 23.9, 23.8, 23.7, 23.6, 23.5}, nil},
		"a program starts":                 {[]float64{95, 80, 60, 40, 30, 29}, nil},
		"stays low":                        {[]float64{10, 10, 10, 10}, nil},
		"rises":                            {[]float64{5, 10, 15}, nil},
		"hardly any left":                  {[]float64{1.5}, []string{"a", "b"}},
		"not known":                        {[]float64{0, 0, 0, 0}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, false, func(t *testing.T, p *post) {
				p.runs = []string{"b", "a"}
				for _, available := range tc.figures {
					p.Sampled(hostMemory(available))
					time.Sleep(10 * time.Second)
				}
				if got := p.ordered(t, commonv1.FailureKind_FAILURE_KIND_HOST_OOM); !slices.Equal(got, tc.want) {
					t.Errorf("orders for %q, want %q", got, tc.want)
				}
			})
		})
	}
}

func TestAJobNearItsLimitIsSavedAlone(t *testing.T) {
	within(t, false, func(t *testing.T, p *post) {
		p.runs = []string{"other", "run"}
		for _, anon := range []float64{10, 40, 60, 70, 78, 84, 87} {
			p.Sampled(jobMemory("run", anon))
			p.Sampled(jobMemory("other", 75))
			p.Sampled(hostMemory(50))
			time.Sleep(5 * time.Second)
		}
		if got := p.ordered(t, commonv1.FailureKind_FAILURE_KIND_HOST_OOM); !slices.Equal(got, []string{"run"}) {
			t.Errorf("orders for %q", got)
		}
		for range 100 { // it stays there: not again but after Quiet
			p.Sampled(jobMemory("run", 89))
			time.Sleep(5 * time.Second)
		}
		synctest.Wait()
		if n := p.count(); n != 1 {
			t.Errorf("%d orders within ten minutes", n)
		}
	})
}

func TestTheMemoryOfManyRunsIsBounded(t *testing.T) {
	within(t, false, func(_ *testing.T, p *post) {
		for i := range 2000 {
			p.Sampled(jobMemory(string(rune('a'+i%26))+time.Duration(i).String(), 10))
		}
	})
}
