package bus

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/testing/protocmp"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/natscluster"
)

func TestMain(m *testing.M) {
	if natscluster.Child() {
		return
	}
	if dir := os.Getenv(childEnv); dir != "" {
		publishUntilKilled(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func testConfig(dir string) Config {
	c := Defaults(dir)
	c.MaxBytes = 128 << 20
	return c
}

func openBus(t testing.TB, config Config) *Bus {
	t.Helper()
	b, err := Open(t.Context(), config, Deps{Log: testkit.Logger(t), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// frame makes a frame with one step report.
func frame(node, run string, epoch, sequence uint64) Message {
	return Message{
		Node:     node,
		Position: &agentv1.Position{Epoch: epoch, Sequence: sequence},
		Received: time.Unix(1_700_000_000, int64(sequence)).UTC(),
		Batch: &agentv1.EventBatch{RunId: run, Events: []*commonv1.Event{{
			EventId: positionText(&agentv1.Position{Epoch: epoch, Sequence: sequence}),
			RunId:   run, Node: node,
			Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: int64(sequence)}},
		}}},
	}
}

func publish(t testing.TB, b *Bus, m Message) uint64 {
	t.Helper()
	sequence, err := b.Publish(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return sequence
}

var errEnough = errors.New("enough")

// take consumes until it has n deliveries.
func take(t testing.TB, b *Bus, from uint64, n int) []Delivery {
	t.Helper()
	var got []Delivery
	err := b.Consume(t.Context(), from, func(_ context.Context, batch []Delivery) error {
		if len(batch) == 0 || len(batch) > MaxDeliveries {
			t.Errorf("a batch has %d deliveries", len(batch))
		}
		if got = append(got, batch...); len(got) >= n {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("Consume: %v", err)
	}
	return got
}

func TestFramesComeBackInOrderAndWhole(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	var want []Delivery
	for i := range uint64(600) {
		m := frame("node."+string('a'+rune(i%3)), "run 1", 1, i+1)
		want = append(want, Delivery{Sequence: publish(t, b, m), Message: m})
	}
	got := take(t, b, 0, len(want))
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	got = take(t, b, 400, 201)
	if diff := cmp.Diff(want[399:], got, protocmp.Transform()); diff != "" {
		t.Error("from 400:", diff)
	}
}

func TestRepeatsAreStoredOnceAlsoAfterARestart(t *testing.T) {
	dir := t.TempDir()
	b := openBus(t, testConfig(dir))
	for i := range uint64(10) {
		publish(t, b, frame("a", "r", 1, i+1))
	}
	if got := publish(t, b, frame("a", "r", 1, 3)); got != 10 {
		t.Errorf("a repeat gave sequence %d, want that of the last frame, 10", got)
	}
	b.Close()
	b = openBus(t, testConfig(dir))
	last, err := b.Last(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&agentv1.Position{Epoch: 1, Sequence: 10}, last, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	for i := range uint64(12) {
		publish(t, b, frame("a", "r", 1, i+1))
	}
	publish(t, b, frame("a", "r", 2, 1)) // a new epoch begins anew
	if got := publish(t, b, frame("b", "r", 1, 1)); got != 14 {
		t.Errorf("another node's frame has sequence %d, want 14", got)
	}
	got := take(t, b, 1, 14)
	var positions []string
	for _, d := range got {
		positions = append(positions, d.Node+positionText(d.Position))
	}
	want := []string{"a1/1", "a1/2", "a1/3", "a1/4", "a1/5", "a1/6", "a1/7", "a1/8", "a1/9", "a1/10", "a1/11", "a1/12", "a2/1", "b1/1"}
	if diff := cmp.Diff(want, positions); diff != "" {
		t.Error(diff)
	}
}

func TestLastOfAnUnknownNodeIsZero(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	publish(t, b, frame("node-1", "r", 4, 7))
	last, err := b.Last(t.Context(), "node-10")
	if err != nil || last.Epoch != 0 || last.Sequence != 0 {
		t.Errorf("Last = %v, %v; want a zero position", last, err)
	}
}

func TestPublishRefuses(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	big := func(size int) Message {
		m := frame("a", "r", 1, 1)
		m.Batch.Events[0].EventId = strings.Repeat("x", size)
		return m
	}
	tests := map[string]struct {
		message Message
		text    string
	}{
		"no node":     {frame("", "r", 1, 1), "name of the node"},
		"long node":   {frame(strings.Repeat("n", 600), "r", 1, 1), "name of the node"},
		"long run":    {frame("a", strings.Repeat("r", 600), 1, 1), "id of the run"},
		"no position": {frame("a", "r", 1, 0), "position 1/0"},
		"no epoch":    {frame("a", "r", 0, 1), "position 0/1"},
		"no batch":    {Message{Node: "a", Position: &agentv1.Position{Epoch: 1, Sequence: 1}}, "no batch"},
		"too big":     {big(MaxBatchBytes), "at most 8372224"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := b.Publish(t.Context(), test.message)
			if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %v, want an invalid one with %q", err, test.text)
			}
		})
	}
	// Nothing of this was stored, and the largest frame that fits comes through.
	want := big(MaxBatchBytes - 200)
	for i := range uint64(5) {
		want.Position.Sequence = i + 1
		if got := publish(t, b, want); got != i+1 {
			t.Fatalf("sequence %d, want %d", got, i+1)
		}
	}
	got := take(t, b, 1, 5)
	if diff := cmp.Diff(want, got[4].Message, protocmp.Transform()); diff != "" {
		t.Error("the big frame is not the same again")
	}
}

func TestTheLongestNamesFitIntoASubject(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	want := frame(strings.Repeat(".", maxNameBytes), strings.Repeat("*", maxNameBytes), 1, 1)
	publish(t, b, want)
	if got := take(t, b, 1, 1); got[0].Node != want.Node || got[0].Batch.RunId != want.Batch.RunId {
		t.Errorf("got node %q, run %q", got[0].Node, got[0].Batch.RunId)
	}
}

func TestASecondOpenIsRefused(t *testing.T) {
	config := testConfig(t.TempDir())
	openBus(t, config)
	_, err := Open(t.Context(), config, Deps{Log: testkit.Logger(t), Metrics: prometheus.NewRegistry()})
	if !fault.Is(err, fault.Precondition) || fault.HintOf(err) == "" {
		t.Errorf("error %v, hint %q", err, fault.HintOf(err))
	}
}

func TestConcurrentNodesKeepTheirOwnOrder(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	const nodes, frames = 4, 50
	done := make(chan error, nodes)
	for n := range nodes {
		go func() {
			var err error
			for i := range uint64(frames) {
				_, e := b.Publish(t.Context(), frame(string('a'+rune(n)), "r", 1, i+1))
				err = errors.Join(err, e)
			}
			done <- err
		}()
	}
	for range nodes {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	next := map[string]uint64{}
	for _, d := range take(t, b, 1, nodes*frames) {
		if next[d.Node]++; d.Position.Sequence != next[d.Node] {
			t.Fatalf("node %s: frame %d where %d is due", d.Node, d.Position.Sequence, next[d.Node])
		}
	}
}

func TestOldFramesAreDiscardedAndCounted(t *testing.T) {
	config := testConfig(t.TempDir())
	config.MaxBytes = 64 << 20
	b := openBus(t, config)
	const frames = 100
	for i := range uint64(frames) {
		m := frame("a", "r", 1, i+1)
		m.Batch.Events[0].EventId = strings.Repeat("x", 1<<20)
		publish(t, b, m)
	}
	got := take(t, b, 10, 1)
	first := got[0].Sequence
	if first <= 10 || first >= frames {
		t.Fatalf("the first frame that is left is %d", first)
	}
	if counted := testutil.ToFloat64(b.skipped.WithLabelValues("discarded")); counted != float64(first-10) {
		t.Errorf("counted %v discarded frames, want %d", counted, first-10)
	}
	var history []uint64
	if err := b.History(t.Context(), "r", false, func(d Delivery) error {
		history = append(history, d.Sequence)
		return nil
	}); err != nil || !slices.IsSorted(history) || history[0] != first || history[len(history)-1] != frames {
		t.Errorf("History: %v, sequences %v", err, history)
	}
}

func TestConfigCheck(t *testing.T) {
	check := func(c Config) (keys []string) {
		c.Check(func(key, _ string, _ ...any) { keys = append(keys, key) })
		return keys
	}
	if keys := check(Defaults("x")); keys != nil {
		t.Errorf("the defaults are refused: %v", keys)
	}
	got := check(Config{Sync: SyncInterval})
	if diff := cmp.Diff([]string{"dir", "sync_interval", "max_bytes", "max_age"}, got); diff != "" {
		t.Error(diff)
	}
	if got := check(Config{Dir: "x", Sync: "never", MaxBytes: 1 << 30, MaxAge: time.Hour}); !slices.Equal(got, []string{"sync"}) {
		t.Errorf("keys %v, want sync", got)
	}
}
