//go:build cgo && linux && !nonvml

package tape

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/agent/collect/nvml/measure"
	"github.com/vigil-ml/vigil/agent/collect/nvml/scenario"
	"github.com/vigil-ml/vigil/agent/collect/nvml/simulate"
	"github.com/vigil-ml/vigil/agent/collect/nvml/wire"
	"github.com/vigil-ml/vigil/internal/metric"
)

var (
	recordTo = flag.String("record", "", "record the answers of this machine's NVML in this `file`")
	rounds   = flag.Int("rounds", 12, "how many rounds to record, a second apart")
	gpus     = flag.String("gpu", "driver", "whose answers to record: driver, or for instance simulated=1xH100")
	update   = flag.Bool("update", false, "write what is wanted of each tape anew; then read it with care")
)

// rig is a meter and what it said of each series.
type rig struct {
	meter *measure.Meter
	now   time.Time
	defs  []metric.Def
	names map[uint32]string
	said  map[string]float64
	seq   uint64
}

func newRig(lib nvml.Interface) *rig {
	r := &rig{now: time.Unix(1_800_000_000, 0), defs: metric.GPUs(), names: map[uint32]string{}, said: map[string]float64{}}
	r.meter = measure.New(measure.Deps{Library: lib, Clock: func() time.Time { return r.now }, Send: r.take})
	return r
}

func (r *rig) take(m wire.Message) {
	switch m := m.(type) {
	case *wire.Series:
		r.names[m.Ref] = fmt.Sprintf("%s%v", r.defs[m.Def].Name, m.Labels)
	case *wire.Values:
		for i, ref := range m.Refs {
			r.said[r.names[ref]] = m.Values[i]
		}
		for _, ref := range m.Gone {
			delete(r.said, r.names[ref])
		}
	}
}

// collect makes a collection; the time goes on by a second.
func (r *rig) collect() *wire.Done {
	r.seq++
	done := r.meter.Collect(&wire.Request{Seq: r.seq})
	r.now = r.now.Add(time.Second)
	return done
}

// list gives the series with their values, in order.
func (r *rig) list() string {
	var lines []string
	for name, value := range r.said {
		lines = append(lines, fmt.Sprintf("%s %.10g\n", name, value))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// TestRecord records this machine's GPUs; it is not for machines without.
func TestRecord(t *testing.T) {
	if *recordTo == "" {
		t.Skip("no -record")
	}
	file, err := os.Create(*recordTo)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	spec, err := scenario.Parse(*gpus)
	if err != nil {
		t.Fatal(err)
	}
	var real nvml.Interface = nvml.New()
	if spec.Simulated() {
		if real, err = simulate.New(spec, time.Now(), time.Now); err != nil {
			t.Fatal(err)
		}
	}
	recorder, lib := Record(real, file)
	r := newRig(lib)
	for range *rounds {
		if done := r.collect(); done.Outcome != wire.OK {
			t.Errorf("the collection says %d, %s", done.Outcome, done.Err)
		}
		time.Sleep(time.Second)
		recorder.Next()
	}
	t.Logf("series:\n%s", r.list())
	count, _ := lib.DeviceGetCount()
	for i := range count {
		if spec.Simulated() {
			break // simulated ones have only what is read
		}
		if device, ret := lib.DeviceGetHandleByIndex(i); ret == nvml.SUCCESS {
			sweep(t, lib, device)
		}
	}
	if err := recorder.Err(); err != nil {
		t.Error(err)
	}
}

// private is parts of the names of calls that tell one device from another or
// that concern neither health nor use.
var private = []string{"Serial", "UUID", "Uuid", "Pdi", "BoardId", "PlatformInfo", "Vgpu", "ConfCompute", "Accounting", "Attestation", "Certificate", "Handle", "GpuInstance", "Profile"}

// sweep asks everything that can be asked without an argument, and every field
// value, for readings that do not exist yet.
func sweep(t *testing.T, lib nvml.Interface, device nvml.Device) {
	v := reflect.ValueOf(device)
	asked := 0
	for method, field := range functions(v) {
		out := field.Type()
		last := out.NumOut() > 0 && out.Out(out.NumOut()-1) == reflect.TypeFor[nvml.Return]()
		hidden := slices.ContainsFunc(private, func(part string) bool { return strings.Contains(method, part) })
		if !strings.HasPrefix(method, "Get") || out.NumIn() > 0 || !last || hidden {
			continue
		}
		if lib.Extensions().LookupSymbol("nvmlDevice"+method) != nil {
			continue
		}
		v.MethodByName(method).Call(nil)
		asked++
	}
	for id := 1; id < nvml.FI_MAX; id++ {
		device.GetFieldValues([]nvml.FieldValue{{FieldId: uint32(id)}})
	}
	t.Logf("asked %d further calls", asked)
}

// TestTapes plays the tapes of testdata: after the last round the series are
// those of the file beside it, which was compared with nvidia-smi where the tape
// is of a real device. Today there is one, of a simulated H100.
func TestTapes(t *testing.T) {
	tapes, err := filepath.Glob("testdata/*.jsonl")
	if err != nil || len(tapes) == 0 {
		t.Fatalf("no tapes: %v", err)
	}
	for _, path := range tapes {
		t.Run(filepath.Base(path), func(t *testing.T) {
			file, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = file.Close() }()
			player, lib, err := Play(file)
			if err != nil {
				t.Fatal(err)
			}
			r := newRig(lib)
			for range player.Rounds() {
				if done := r.collect(); done.Outcome != wire.OK {
					t.Errorf("the collection says %d, %s", done.Outcome, done.Err)
				}
				player.Next()
			}
			wanted := strings.TrimSuffix(path, ".jsonl") + ".want"
			if *update {
				if err := os.WriteFile(wanted, []byte(r.list()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wanted)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), r.list()); diff != "" {
				t.Errorf("(- want, + got):\n%s", diff)
			}
		})
	}
}

func TestPlayedBackAsRecorded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	simulated, err := simulate.New(scenario.Spec{Count: 2, Model: "H100"}, now, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	var tape bytes.Buffer
	recorder, lib := Record(simulated, &tape)
	live := newRig(lib)
	var want []string
	for range 12 {
		live.now = now
		if done := live.collect(); done.Outcome != wire.OK {
			t.Fatal(done.Err)
		}
		want = append(want, live.list())
		now = now.Add(time.Second)
		recorder.Next()
	}
	if recorder.Err() != nil {
		t.Fatal(recorder.Err())
	}
	player, played, err := Play(&tape)
	if err != nil {
		t.Fatal(err)
	}
	again := newRig(played)
	for i := range want {
		if done := again.collect(); done.Outcome != wire.OK {
			t.Fatal(done.Err)
		}
		if diff := cmp.Diff(want[i], again.list()); diff != "" {
			t.Fatalf("round %d (- live, + played back):\n%s", i, diff)
		}
		player.Next()
	}
	if len(player.Unknown()) > 0 || len(live.said) < 100 {
		t.Errorf("%d series; not on the tape: %v", len(live.said), player.Unknown())
	}
	if strings.Contains(want[0], "GPU-00000000") {
		t.Errorf("two GPUs have one name:\n%s", want[0])
	}
}
