package uplink

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// rounds records so many rounds of so many series; each value is given once.
func (a *agent) rounds(t *testing.T, rounds, series int) (values []float64) {
	t.Helper()
	began := time.Now()
	for round := range rounds {
		var samples []metric.Sample
		for i := range series {
			v := float64(round*series + i)
			values = append(values, v)
			samples = append(samples, metric.Sample{
				Def: metric.GPUPower, Labels: []string{fmt.Sprint(i)}, Value: v, Time: began.Add(time.Duration(round) * time.Second),
			})
		}
		if err := a.journal.Samples(t.Context(), samples); err != nil {
			t.Fatal(err)
		}
	}
	return values
}

func wantSamples(t *testing.T, c *control, want []float64) {
	t.Helper()
	got := see(c, func() []float64 { return slices.Sorted(slices.Values(c.samples)) })
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("%d samples came, want %d, each once", len(got), len(want))
	}
	if n := see(c, func() int { return c.unnamed }); n != 0 {
		t.Errorf("%d samples came before their series was named", n)
	}
}

func TestSamplesThatWaitAreJoined(t *testing.T) {
	c := newControl()
	address, _ := c.serve(t, "")
	dir := t.TempDir()
	offline := newAgent(t, dir, "127.0.0.1:1", nil, nil)
	want := offline.rounds(t, 400, 100)
	offline.close()
	a := startAgent(t, dir, address, nil, nil)
	allAcknowledged(t, a)
	wantSamples(t, c, want)
	if n := see(c, func() int { return c.blocks }); n > 1+len(want)/maxBatchPoints {
		t.Errorf("%d frames for %d samples that waited", n, len(want))
	}
}

func TestSamplesAreSentAtOnceAndThenTogether(t *testing.T) {
	c := newControl()
	address, _ := c.serve(t, "")
	a := startAgent(t, t.TempDir(), address, nil, func(config *Config) {
		config.AckTimeout, config.BatchInterval = time.Hour, time.Hour
	})
	first := a.rounds(t, 1, 10)
	testkit.Eventually(t, "the first round", func() bool { return see(c, func() bool { return len(c.samples) == 10 }) })
	wantSamples(t, c, first)
	a.rounds(t, 20, 10)
	beats := see(c, func() int { return c.beats })
	testkit.Eventually(t, "heartbeats", func() bool { return see(c, func() bool { return c.beats > beats+2 }) })
	if n := see(c, func() int { return c.blocks }); n != 1 {
		t.Errorf("%d frames; the second is due in an hour", n)
	}
	if got := a.samples.Stats().Frames; got != 20 {
		t.Errorf("%d frames wait in the spool, want 20: what is not sent is on disk", got)
	}
}

// What an agent without columns left in the spool is sent as it is.
func TestOlderFramesAreSentAsTheyAre(t *testing.T) {
	c := newControl()
	address, _ := c.serve(t, "")
	dir := t.TempDir()
	offline := newAgent(t, dir, "127.0.0.1:1", nil, nil)
	want := offline.rounds(t, 2, 3)
	old, err := proto.Marshal(&agentv1.Frame{Class: agentv1.FrameClass_FRAME_CLASS_SAMPLES, Payload: &agentv1.Frame_Samples{
		Samples: &agentv1.SampleBatch{BaseTimeMs: 1, Refs: []uint32{2, 3}, TimeDeltasMs: []int64{0, 0}, Values: []float64{98, 99}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	damaged, err := proto.Marshal(&agentv1.Frame{Class: agentv1.FrameClass_FRAME_CLASS_SAMPLES, Payload: &agentv1.Frame_Columns{
		Columns: &agentv1.SampleColumns{Block: []byte("no block")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, payload := range [][]byte{old, damaged} {
		if _, err := offline.samples.Append(payload); err != nil {
			t.Fatal(err)
		}
	}
	offline.close()
	a := startAgent(t, dir, address, nil, nil)
	want = append(append(want, 98, 99), a.rounds(t, 1, 2)...)
	allAcknowledged(t, a)
	wantSamples(t, c, want)
}
