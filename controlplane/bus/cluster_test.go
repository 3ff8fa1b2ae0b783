package bus

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/natscluster"
)

func sharedConfig(url string) Config {
	c := testConfig("")
	c.URL, c.Partitions = url, 4
	return c
}

// TestCluster shares one stream of three servers among three control planes.
func TestCluster(t *testing.T) {
	cluster := natscluster.Start(t, 3)
	config := sharedConfig(cluster.URL())
	a, b := openBus(t, config), openBus(t, config)
	t.Run("partitions are fixed", func(t *testing.T) {
		other := config
		other.Partitions = 2
		_, err := Open(t.Context(), other, Deps{Log: testkit.Logger(t), Metrics: prometheus.NewRegistry()})
		if !fault.Is(err, fault.Precondition) || !strings.Contains(fault.HintOf(err), "4") {
			t.Errorf("got %v (%s), want that the stream has four partitions", err, fault.HintOf(err))
		}
	})
	t.Run("an agent moves", func(t *testing.T) { testMoves(t, a, b) })
	t.Run("two sessions of one agent", func(t *testing.T) { testRace(t, a, b) })
	t.Run("partitions", func(t *testing.T) { testPartitions(t, a, b) })
	t.Run("hints", func(t *testing.T) { testHints(t, a, b) })
	t.Run("a server is killed", func(t *testing.T) { testServerKilled(t, cluster, a) })
}

// testMoves: what one control plane has of a node the other knows, each time
// that the agent comes.
func testMoves(t *testing.T, a, b *Bus) {
	for i := uint64(1); i <= 12; i++ {
		at := []*Bus{a, b}[i/3%2]
		last, err := at.Last(t.Context(), "moves")
		if err != nil || last.Sequence != i-1 {
			t.Fatalf("frame %d: the last one is %v (%v)", i, last, err)
		}
		publish(t, at, frame("moves", "r", 1, i))
	}
}

// testRace has two control planes publish the same frames of one agent at once,
// as when its connection moved and the old one still delivers. Each is stored once, in order.
func testRace(t *testing.T, a, b *Bus) {
	const frames = 60
	var wg sync.WaitGroup
	for _, at := range []*Bus{a, b} {
		wg.Go(func() {
			for i := uint64(1); i <= frames; i++ {
				for try := 0; ; try++ {
					_, err := at.Publish(t.Context(), frame("race", fmt.Sprint("run-", i%3), 1, i))
					if err == nil {
						break
					}
					if try == 100 {
						t.Errorf("frame %d: %v", i, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	var got []uint64
	for _, d := range everything(t, a, "race", frames) {
		got = append(got, d.Position.Sequence)
	}
	if len(got) != frames || !slices.IsSorted(got) || len(slices.Compact(got)) != frames {
		t.Errorf("stored %v", got)
	}
}

// everything consumes all that is there of a node.
func everything(t *testing.T, b *Bus, node string, n int) []Delivery {
	t.Helper()
	var got []Delivery
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // a guard against hanging
	defer cancel()
	info, err := b.stream.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = b.Consume(ctx, 1, func(_ context.Context, batch []Delivery) error {
		for _, d := range batch {
			if d.Node == node {
				got = append(got, d)
			}
			if d.Sequence == info.State.LastSeq {
				return errEnough
			}
		}
		return nil
	})
	if err != errEnough {
		t.Fatalf("got %d of %d: %v", len(got), n, err)
	}
	return got
}

// testPartitions: each frame of a run is in one partition, and each node's own
// events are in all, owned by one.
func testPartitions(t *testing.T, a, b *Bus) {
	const runs = 24
	for i := range uint64(runs) {
		publish(t, a, frame("parts", fmt.Sprint("part-", i), 1, 2*i+1))
		publish(t, b, frame("parts", "", 1, 2*i+2))
	}
	owned, seen := map[uint64]int{}, map[uint64]int{}
	used := 0
	for p := range a.Partitions() {
		reader, mine := b.Partition(p), 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		err := reader.Consume(ctx, 1, func(_ context.Context, batch []Delivery) error {
			for _, d := range batch {
				if d.Node != "parts" {
					continue
				}
				seen[d.Position.Sequence]++
				if reader.Owns(d) {
					owned[d.Position.Sequence]++
					mine++
				}
				if d.Position.Sequence == 2*runs {
					return errEnough
				}
			}
			return nil
		})
		cancel()
		if err != errEnough {
			t.Fatalf("partition %d: %v", p, err)
		}
		if mine > 0 {
			used++
		}
	}
	for s := uint64(1); s <= 2*runs; s++ {
		want := 1
		if s%2 == 0 {
			want = a.Partitions()
		}
		if owned[s] != 1 || seen[s] != want {
			t.Errorf("frame %d is owned by %d partitions and seen by %d, want 1 and %d", s, owned[s], seen[s], want)
		}
	}
	if used < 2 {
		t.Errorf("all runs fell to %d partition", used)
	}
}

func testHints(t *testing.T, a, b *Bus) {
	heard := make(chan string, 64)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.OnHint(ctx, "x", func(data []byte) { heard <- string(data) }) }()
	testkit.Eventually(t, "a hint to be heard", func() bool { // the subscription takes a moment to be known
		a.Hint("x", []byte("hello"))
		return len(heard) > 0
	})
	if got := <-heard; got != "hello" {
		t.Errorf("heard %q", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// testServerKilled: one of three servers goes; frames are published on, again
// where one failed, and all are there once.
func testServerKilled(t *testing.T, cluster *natscluster.Cluster, b *Bus) {
	const frames = 150
	deadline := time.Now().Add(2 * time.Minute)
	for i := uint64(1); i <= frames; i++ {
		if i%50 == 10 {
			cluster.Kill(int(i/50) % cluster.Size())
		}
		if i%50 == 40 {
			cluster.Run(t, int(i/50)%cluster.Size())
		}
		for {
			_, err := b.Publish(t.Context(), frame("killed", "r", 1, i))
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("frame %d: %v", i, err)
			}
		}
	}
	seen := map[string]int{}
	for _, d := range everything(t, b, "killed", frames) {
		seen[positionText(&agentv1.Position{Epoch: d.Position.Epoch, Sequence: d.Position.Sequence})]++
	}
	for position, n := range seen {
		if n != 1 {
			t.Errorf("%s is there %d times", position, n)
		}
	}
	if len(seen) != frames {
		t.Errorf("%d frames are there, want %d", len(seen), frames)
	}
}
