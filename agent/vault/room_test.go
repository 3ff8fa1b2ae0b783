package vault_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
)

// there tells whether a staging directory is.
func there(dir string) bool {
	_, err := os.Stat(dir)
	return err == nil
}

// A trainer writes one checkpoint of its own at a time: beginning the next, it
// has given the last up. What it was ordered to make is not touched.
func TestBeginDiscardsTheRanksOwnOpenCheckpoint(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{})
	begin := func(req vault.BeginRequest) string {
		t.Helper()
		_, dir, err := b.Begin(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	first := begin(vault.BeginRequest{RunID: "run"})
	ordered := begin(vault.BeginRequest{RunID: "run", CheckpointID: "ordered", Ordered: true})
	if !there(first) {
		t.Error("an order removed what the trainer was writing")
	}
	rank, run := begin(vault.BeginRequest{RunID: "run", Rank: 1}), begin(vault.BeginRequest{RunID: "other"})
	b.mustSave(healthy("committed", 1))
	second := begin(vault.BeginRequest{RunID: "run"})
	if there(first) || !there(second) {
		t.Errorf("the first is there: %v; the second: %v", there(first), there(second))
	}
	committed := filepath.Join(b.dir, "staging/run/committed/rank-00000")
	for _, dir := range []string{ordered, rank, run, committed} {
		if !there(dir) {
			t.Errorf("%s is gone", dir)
		}
	}
	for range 300 { // no trainer, however often it begins, takes the others' room
		begin(vault.BeginRequest{RunID: "run"})
	}
}

func TestNoRankAndNoRunTakesAllTheRoom(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{}, func(c *vault.Config) { c.MaxStaged = 40 })
	begin := func(run string, rank uint32, n int) error {
		_, _, err := b.Begin(t.Context(), vault.BeginRequest{RunID: run, Rank: rank, CheckpointID: fmt.Sprint("ck-", n), Ordered: true})
		return err
	}
	for n := range 9 {
		if err := begin("run", 0, n); fault.Is(err, fault.Exhausted) != (n == 8) {
			t.Errorf("checkpoint %d of one rank: %v", n, err)
		}
	}
	for n := range 13 {
		if err := begin("run", uint32(n+1), 0); fault.Is(err, fault.Exhausted) != (n == 12) {
			t.Errorf("checkpoint %d of one run: %v", 8+n, err)
		}
	}
	if err := begin("other", 0, 0); err != nil {
		t.Errorf("another run: %v", err)
	}
}

func TestAbandonGivesTheRoomBack(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{})
	_, dir, err := b.Begin(t.Context(), vault.BeginRequest{RunID: "run", CheckpointID: "ck", Ordered: true})
	if err != nil {
		t.Fatal(err)
	}
	b.Abandon("other", "ck", 0)
	b.Abandon("run", "ck", 1)
	if !there(dir) {
		t.Fatal("another's word removed it")
	}
	b.Abandon("run", "ck", 0)
	if there(dir) {
		t.Error("it is still there")
	}
	b.mustSave(healthy("saved", 1))
	b.Abandon("run", "saved", 0)
	b.run()
	b.wait("saved", "VERIFIED") // what is committed is not given up
}

func TestStandingOfACheckpoint(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{})
	if _, _, err := b.Begin(t.Context(), vault.BeginRequest{RunID: "run", CheckpointID: "begun", Ordered: true}); err != nil {
		t.Fatal(err)
	}
	b.mustSave(healthy("committed", 1))
	const none, foreign, committed = "false false", "true false", "false true"
	look := func(when string) {
		t.Helper()
		for _, tc := range []struct {
			run, id string
			rank    uint32
			want    string
		}{
			{"run", "unknown", 0, none}, {"run", "begun", 0, none}, {"run", "begun", 1, none}, {"other", "begun", 0, foreign},
			{"run", "committed", 0, committed}, {"run", "committed", 1, none}, {"other", "committed", 0, foreign},
		} {
			f, c := b.Standing(tc.run, tc.id, tc.rank)
			if got := fmt.Sprint(f, " ", c); got != tc.want {
				t.Errorf("%s: %s of %s, rank %d: %s; want %s", when, tc.id, tc.run, tc.rank, got, tc.want)
			}
		}
	}
	look("staged")
	b.run()
	b.wait("committed", "VERIFIED")
	look("sealed")
}
