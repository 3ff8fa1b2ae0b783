package uplink

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/faultfs"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// outage is an hour of a node at one-second sampling, by the time in the data.
const (
	outageRounds = 3600
	outageSeries = 100
	heapBound    = 16 << 20 // bytes by which the heap may grow
)

// second is one second of a node: a round of samples, and an event each ten
// seconds. Their values and ids are numbers that are given once.
func second(n int) (samples []metric.Sample, event *commonv1.Event) {
	at := time.UnixMilli(1_800_000_000_000).Add(time.Duration(n) * time.Second)
	for i := range outageSeries {
		samples = append(samples, metric.Sample{
			Def: metric.GPUPower, Labels: []string{strconv.Itoa(i)}, Value: float64(n*outageSeries + i), Time: at,
		})
	}
	if n%10 == 0 {
		event = &commonv1.Event{EventId: fmt.Sprintf("event-%06d", n)}
	}
	return samples, event
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// hour is what a node recorded while the control plane was away.
type hour struct {
	disk    *faultfs.FS
	events  []string          // their ids
	owed    []*commonv1.Event // that a trainer says again until they are taken
	values  []float64         // of the samples that were taken
	refused int               // samples
	dropped int               // rounds of samples, the oldest, that gave way to events
	heap    uint64            // the most, in bytes
}

// An hour without the control plane, with a disk that is full for a minute of
// it and a last record that is torn: every event is delivered once, and every
// sample that was taken and did not give way to an event.
func TestAnHourWithoutTheControlPlane(t *testing.T) {
	dir := t.TempDir()
	before := heap()
	h := &hour{disk: faultfs.New()}
	h.record(t, dir, 0, 3000)
	tear(t, filepath.Join(dir, "events"))
	tear(t, filepath.Join(dir, "samples"))
	h.record(t, dir, 3000, outageRounds)
	t.Logf("%d events; %d samples taken, %d refused by the full disk, %d gave way to events; heap at most %d KiB above %d KiB",
		len(h.events), len(h.values), h.refused, h.dropped*outageSeries, (int64(h.heap)-int64(before))>>10, before>>10)
	if h.heap > before+heapBound {
		t.Errorf("the heap grew from %d to %d bytes", before, h.heap)
	}
	if h.refused == 0 || h.dropped == 0 || h.dropped > outageRounds/2 {
		t.Error("the full disk did not show")
	}
	c := newControl()
	address, _ := c.serve(t, "")
	b := startAgent(t, dir, address, nil, nil)
	allAcknowledged(t, b)
	wantStored(t, c, h.events)
	wantSamples(t, c, h.values[h.dropped*outageSeries:])
	if c.again != 0 {
		t.Errorf("%d samples came twice", c.again)
	}
}

// record lets an agent without a control plane record some seconds.
func (h *hour) record(t *testing.T, dir string, from, to int) {
	t.Helper()
	a, err := build(dir, "127.0.0.1:1", h.disk, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	for n := from; n < to; n++ {
		switch n {
		case outageRounds / 2:
			h.disk.FailWith(func(op faultfs.Op, _ string) error {
				if op == faultfs.Write {
					return syscall.ENOSPC
				}
				return nil
			})
		case outageRounds/2 + 60:
			h.disk.FailWith(nil)
		}
		samples, event := second(n)
		if event != nil {
			h.owed, h.events = append(h.owed, event), append(h.events, event.EventId)
		}
		if len(h.owed) > 0 && a.journal.Events(t.Context(), "run", h.owed...) == nil {
			h.owed = nil
		}
		if a.journal.Samples(t.Context(), samples) != nil {
			h.refused += len(samples)
			continue
		}
		for _, s := range samples {
			h.values = append(h.values, s.Value)
		}
		if n%600 == 599 {
			h.heap = max(h.heap, heap())
		}
	}
	h.dropped += int(a.samples.Stats().Dropped)
}

// tear leaves half a record behind the last, as a crash in a write does.
func tear(t *testing.T, dir string) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("no segments in %s: %v", dir, err)
	}
	f, err := os.OpenFile(slices.Max(segments), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("VGR1\xff\x00\x00\x00torn"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// The child process of the kill test: an agent that records seconds from a
// number on, and says each one when it is recorded.
const (
	childDir     = "VIGIL_UPLINK_CHILD"
	childAddress = "VIGIL_UPLINK_ADDRESS"
	childFrom    = "VIGIL_UPLINK_FROM"
)

func childAgent(dir, address, from string) {
	n, err := strconv.Atoi(from)
	var a *agent
	if err == nil {
		a, err = build(dir, address, durable.OS{}, nil, nil)
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	life.NewGroup(context.Background()).Go("uplink", a.Run)
	for ; ; n++ {
		samples, event := second(n)
		if event != nil {
			err = a.journal.Events(context.Background(), "run", event)
		}
		if err := cmp.Or(err, a.journal.Samples(context.Background(), samples)); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(n)
	}
}

// Agents are killed at random moments, with the control plane there and away.
func TestKilledAgentsLoseAndDoubleNothing(t *testing.T) {
	const kills = 8
	c := newControl()
	address, stop := c.serve(t, "")
	dir, next := t.TempDir(), 0
	for kill := range kills {
		if kill%2 == 1 {
			stop()
		}
		next = 1 + runChild(t, dir, address, next, 20+rand.IntN(60))
		if kill%2 == 1 {
			_, stop = c.serve(t, address)
		}
	}
	a := startAgent(t, dir, address, nil, nil)
	allAcknowledged(t, a)
	var events []string
	var values []float64
	for n := range next {
		samples, event := second(n)
		if event != nil {
			events = append(events, event.EventId)
		}
		for _, s := range samples {
			values = append(values, s.Value)
		}
	}
	if next < 20*kills {
		t.Errorf("%d seconds were recorded", next)
	}
	t.Logf("%d kills, %d seconds recorded; %d samples came again and were known", kills, next, c.again)
	stored := see(c, func() []string { return c.stored })
	if extra := len(stored) - len(events); extra > 0 { // recorded, and killed before it said so
		events = append(events, stored[len(events):]...)
	}
	wantStored(t, c, slices.Compact(events))
	got := see(c, func() []float64 { return slices.Sorted(slices.Values(c.samples)) })
	for i, v := range values {
		if i >= len(got) || got[i] != v {
			t.Fatalf("sample %v is missing or doubled", v)
		}
	}
	if n := see(c, func() int { return c.unnamed }); n != 0 {
		t.Errorf("%d samples came before their series was named", n)
	}
}

// runChild runs an agent until it has recorded so many seconds, kills it, and
// gives the last second that it said.
func runChild(t *testing.T, dir, address string, from, seconds int) (last int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childAddress+"="+address, childFrom+"="+strconv.Itoa(from))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last = from - 1
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, err := fmt.Sscan(lines.Text(), &last); err != nil {
			t.Fatalf("the child says %q", strings.TrimSpace(lines.Text()))
		}
		if last == from+seconds {
			_ = cmd.Process.Signal(syscall.SIGKILL)
		}
	}
	_ = cmd.Wait()
	testkit.Eventually(t, "the child's lock to go", func() bool { return cmd.ProcessState != nil })
	return last
}
