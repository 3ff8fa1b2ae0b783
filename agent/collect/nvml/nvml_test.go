//go:build cgo && linux && !nonvml

package nvml

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/nvml/probe"
	"github.com/vigil-ml/vigil/agent/collect/nvml/scenario"
	"github.com/vigil-ml/vigil/agent/collect/nvml/wire"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// TestMain lets the test's own program be the helper.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == probe.Command {
		os.Exit(probe.Main(os.Args[1:][1:], os.Stdin, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// bench is a collector with what a test looks at.
type bench struct {
	*collector
	t      *testing.T
	mu     sync.Mutex
	faults []*commonv1.NodeFault
	refuse error
}

// simulated makes a collector of two GPUs that follow a script.
func simulated(t *testing.T, script string) *bench {
	t.Helper()
	spec := scenario.Spec{Count: 2, Model: "H100"}
	if script != "" {
		spec.Script = filepath.Join(t.TempDir(), "script.yaml")
		if err := os.WriteFile(spec.Script, []byte("version: 1\n"+script), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := spec.Load(); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return newBench(t, program, spec)
}

func newBench(t *testing.T, program string, spec scenario.Spec) *bench {
	t.Helper()
	b := &bench{t: t}
	b.collector = newCollector(program, spec, time.Minute, collect.Deps{
		Log: testkit.Logger(t),
		Faults: func(_ context.Context, f *commonv1.NodeFault) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.refuse != nil {
				return b.refuse
			}
			b.faults = append(b.faults, f)
			return nil
		},
		Trainers: func() []collect.Trainer { return nil },
	}, time.Now)
	b.firstPause = 300 * time.Millisecond
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// said gives the faults so far.
func (b *bench) said() []*commonv1.NodeFault {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.faults)
}

// soon is when a call counts as hanging in tests in which one does. In others a
// helper that a busy machine starts slowly must not.
const soon = 400 * time.Millisecond

// once makes one collection of at most a quarter of a second.
func (b *bench) once() (collect.Status, map[string][]float64, error) {
	ctx, cancel := context.WithTimeout(b.t.Context(), 250*time.Millisecond)
	defer cancel()
	seen := map[string][]float64{}
	status, err := b.Collect(ctx, func(s metric.Sample) {
		if len(s.Labels) != len(s.Def.Labels) {
			b.t.Errorf("%s has the labels %v", s.Def.Name, s.Labels)
		}
		key := s.Def.Name + "/" + strings.Join(s.Labels[:min(1, len(s.Labels))], "")
		seen[key] = append(seen[key], s.Value)
	})
	return status, seen, err
}

// until collects until a status comes.
func (b *bench) until(want collect.Status) (map[string][]float64, error) {
	b.t.Helper()
	var seen map[string][]float64
	var failed error
	testkit.Eventually(b.t, "status "+string(want), func() bool {
		var status collect.Status
		status, seen, failed = b.once()
		return status == want
	})
	return seen, failed
}

func TestSimulatedGPUsAreMeasured(t *testing.T) {
	b := simulated(t, "")
	seen, err := b.until(collect.Ok)
	if err != nil {
		t.Fatal(err)
	}
	for _, gpu := range []string{"0", "1"} {
		for name, bounds := range map[string][2]float64{
			metric.GPUUtilization.Name: {0, 1}, metric.GPUMemoryTotal.Name: {79e9, 90e9}, metric.GPUPower.Name: {50, 710},
			metric.GPUTemperature.Name: {15, 95}, metric.GPUClockSM.Name: {1e8, 2e9}, metric.GPUInfo.Name: {1, 1},
		} {
			got := seen[name+"/"+gpu]
			if len(got) != 1 || got[0] < bounds[0] || got[0] > bounds[1] {
				t.Errorf("%s of GPU %s is %v, want one value within %v", name, gpu, got, bounds)
			}
		}
	}
	_, again, err := b.once()
	if err != nil || len(again) < len(seen) {
		t.Errorf("the second collection has %d series, the first %d, %v", len(again), len(seen), err)
	}
}

func TestXIDIsToldAtOnce(t *testing.T) {
	b := simulated(t, "events:\n- {at: 3s, gpus: [1], xid: 79}\n")
	if _, err := b.until(collect.Ok); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the XID", func() bool { _, _, _ = b.once(); return len(b.said()) > 0 })
	f := b.said()[0]
	if f.GetKind() != commonv1.FaultKind_FAULT_KIND_XID || f.GetCode() != 79 || f.GetGpu() != 1 || f.Gpu == nil ||
		f.GetSource() != "nvml" || f.GetAdvice() == "" || f.GetSeverity() != commonv1.FaultSeverity_FAULT_SEVERITY_CRITICAL {
		t.Errorf("the fault is %v", f)
	}
	_, seen, _ := b.once()
	if n, at := seen[metric.GPUXIDs.Name+"/1"], seen[metric.GPUXIDTime.Name+"/1"]; !slices.Equal(n, []float64{1}) || len(at) != 1 {
		t.Errorf("counted %v, last at %v", n, at)
	}
}

// TestHungCall has a call to one GPU not return: that GPU is stuck and told of
// once, the other is measured all the while, and when the call returns again so
// is this one.
func TestHungCall(t *testing.T) {
	b := simulated(t, "events:\n- {at: 700ms, for: 2500ms, gpus: [1], hang: true}\n")
	b.hangAfter = soon
	if seen, err := b.until(collect.Ok); err != nil || seen[metric.GPUPower.Name+"/1"] == nil {
		t.Fatalf("at first: %v, %v", seen, err)
	}
	_, err := b.until(collect.Stuck)
	if err == nil || !strings.Contains(err.Error(), "GPU 1 does not answer") || !strings.Contains(err.Error(), "nvml") {
		t.Errorf("it says %v, want the GPU and the call", err)
	}
	alone := 0
	testkit.Eventually(t, "an end of the hang", func() bool {
		status, seen, _ := b.once()
		if status == collect.Stuck && seen[metric.GPUPower.Name+"/0"] != nil {
			alone++
			if seen[metric.GPUPower.Name+"/1"] != nil {
				t.Error("a GPU that does not answer has values")
			}
			if one, two := seen[metric.GPUStuck.Name+"/0"], seen[metric.GPUStuck.Name+"/1"]; !slices.Equal(one, []float64{0}) || !slices.Equal(two, []float64{1}) {
				t.Errorf("stuck: %v and %v, want 0 and 1", one, two)
			}
		}
		return status == collect.Ok && seen[metric.GPUPower.Name+"/1"] != nil
	})
	if alone < 3 {
		t.Errorf("the other GPU was measured %d times in the meantime", alone)
	}
	var told []string
	for _, f := range b.said() {
		told = append(told, f.GetTitle())
		if f.GetKind() != commonv1.FaultKind_FAULT_KIND_DEVICE_STUCK || f.Gpu == nil || f.GetGpu() != 1 {
			t.Errorf("the fault is %v", f)
		}
	}
	if diff := cmp.Diff([]string{"GPU 1 does not answer"}, told); diff != "" {
		t.Error(diff)
	}
}

// TestHungLibrary has the library itself not return.
func TestHungLibrary(t *testing.T) {
	b := simulated(t, "events:\n- {at: 0s, for: 1500ms, hang: true}\n")
	b.hangAfter = soon
	if _, err := b.until(collect.Stuck); err == nil {
		t.Error("it says nothing")
	}
	if _, err := b.until(collect.Ok); err != nil {
		t.Error(err)
	}
	if said := b.said(); len(said) == 0 {
		t.Error("nobody was told")
	}
}

// TestFaultThatCannotBeRecordedIsToldAgain.
func TestFaultThatCannotBeRecordedIsToldAgain(t *testing.T) {
	b := simulated(t, "events:\n- {at: 0s, gpus: [0], hang: true}\n")
	b.hangAfter = soon
	b.refuse = errors.New("the disk is full")
	testkit.Eventually(t, "the refusal", func() bool {
		_, _, err := b.once()
		return err != nil && strings.Contains(err.Error(), "the disk is full")
	})
	b.mu.Lock()
	b.refuse = nil
	b.mu.Unlock()
	testkit.Eventually(t, "the fault", func() bool { _, _, _ = b.once(); return len(b.said()) == 1 })
}

// TestMemoryHasItsRun: a trainer's memory, and that of its children, bears its run
// and rank; that of others has neither.
func TestMemoryHasItsRun(t *testing.T) {
	b := simulated(t, "")
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	r := newReadings(b.owners.of)
	for i, pid := range []int{child.Process.Pid, 1} {
		r.name(&wire.Series{Ref: uint32(i + 1), Def: slices.IndexFunc(r.defs, func(d metric.Def) bool { return d.Name == metric.GPUProcessMemory.Name }),
			Labels: []string{"0", strconv.Itoa(pid)}})
	}
	r.take(&wire.Values{Refs: []uint32{1, 2}, Values: []float64{5, 6}})
	whose := func() (all [][]string) {
		r.emit(func(s metric.Sample) { all = append(all, s.Labels[2:]) })
		return all
	}
	if diff := cmp.Diff([][]string{{"", ""}, {"", ""}}, whose()); diff != "" {
		t.Errorf("before anybody registered: %s", diff)
	}
	b.owners.trainers = []collect.Trainer{{RunID: "r1", Rank: 3, PID: int64(os.Getpid())}}
	if diff := cmp.Diff([][]string{{"r1", "3"}, {"", ""}}, whose()); diff != "" {
		t.Error(diff)
	}
	b.owners.trainers = nil // a trainer that is gone: the series stays the same until its process is gone
	if diff := cmp.Diff([][]string{{"r1", "3"}, {"", ""}}, whose()); diff != "" {
		t.Error(diff)
	}
}

func TestKilledHelperIsStartedAgain(t *testing.T) {
	b := simulated(t, "")
	if _, err := b.until(collect.Ok); err != nil {
		t.Fatal(err)
	}
	first := b.process.cmd.Process.Pid
	if err := b.process.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.until(collect.Unknown); err == nil || !strings.Contains(err.Error(), "the NVML helper died: signal: killed") {
		t.Errorf("it says %v", err)
	}
	if _, err := b.until(collect.Ok); err != nil {
		t.Error(err)
	}
	if b.process.cmd.Process.Pid == first {
		t.Error("the helper is the same")
	}
	if len(b.said()) != 0 {
		t.Errorf("a death of the helper is no fault of a GPU: %v", b.said())
	}
}

func TestBrokenHelpers(t *testing.T) {
	for program, want := range map[string]string{"/bin/echo": "frame", "/bin/false": "exit status 1", "/no/such/program": "no such file"} {
		b := newBench(t, program, scenario.Spec{})
		status, _, err := b.once()
		if status != collect.Unknown || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s, %v, want unknown because of %q", program, status, err, want)
		}
		if status, _, err := b.once(); status != collect.Unknown || !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s, the next time: %s, %v", program, status, err)
		}
	}
}

// TestThisMachine runs against what the machine has: a driver with GPUs, or
// nothing, and then nothing is what the collector says.
func TestThisMachine(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, program, scenario.Spec{})
	if _, missing := os.Stat("/dev/nvidiactl"); missing != nil {
		if seen, err := b.until(collect.Unsupported); err != nil || len(seen) != 0 {
			t.Errorf("without a driver: %v, %v", seen, err)
		}
		return
	}
	b.hangAfter = time.Minute
	if seen, err := b.until(collect.Ok); err != nil || seen[metric.GPUMemoryTotal.Name+"/0"] == nil {
		t.Errorf("%v, %v", seen, err)
	}
}
