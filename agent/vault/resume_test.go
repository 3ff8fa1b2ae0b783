package vault_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// ofRanks is a checkpoint of several ranks, each with files of its own.
func ofRanks(id string, step int64, world uint32) []part {
	parts := make([]part, world)
	for rank := range world {
		parts[rank] = healthy(id, step)
		parts[rank].rank, parts[rank].world = rank, world
		parts[rank].files = map[string]string{"weights.bin": fmt.Sprintf("%s of rank %d", id, rank)}
	}
	return parts
}

func TestRecoveryModes(t *testing.T) {
	measured := func(id string, step int64, metric float64, exact bool) part {
		p := healthy(id, step)
		p.metric, p.exact = proto.Float64(metric), exact
		return p
	}
	list := []part{measured("good", 1, 0.2, true), measured("best", 2, 0.1, false), measured("exact", 3, 0.3, true), healthy("last", 4)}
	for mode, want := range map[commonv1.RecoveryMode]string{
		commonv1.RecoveryMode_RECOVERY_MODE_UNSPECIFIED: "last",
		commonv1.RecoveryMode_RECOVERY_MODE_LATEST:      "last",
		commonv1.RecoveryMode_RECOVERY_MODE_EXACT:       "exact",
		commonv1.RecoveryMode_RECOVERY_MODE_BEST:        "best",
	} {
		b := saved(t, list...)
		ref, passed, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", WorldSize: 1, Mode: mode})
		if err != nil || ref.GetCheckpointId() != want {
			t.Errorf("%s: %v, %v; want %s", mode, ref, err, want)
		}
		if mode == commonv1.RecoveryMode_RECOVERY_MODE_EXACT && (len(passed) != 1 || !strings.Contains(passed[0].Reason, "exactly")) {
			t.Errorf("passed over %v", passed)
		}
	}
	b := saved(t, healthy("last", 4))
	_, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", WorldSize: 1, Mode: commonv1.RecoveryMode_RECOVERY_MODE_EXACT})
	if !fault.Is(err, fault.Precondition) || !strings.Contains(fault.HintOf(err), "last") {
		t.Errorf("only inexact ones: %v", err)
	}
	b = saved(t)
	ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", WorldSize: 1, Mode: commonv1.RecoveryMode_RECOVERY_MODE_EXACT})
	if err != nil || ref != nil {
		t.Errorf("a run without a checkpoint: %v, %v", ref, err)
	}
}

// What led nowhere is taken again only where there is nothing else.
func TestExceptedCheckpointsComeLast(t *testing.T) {
	b := saved(t, healthy("older", 1), healthy("last", 2))
	for want, except := range map[string][]string{"last": nil, "older": {"last"}} {
		ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", WorldSize: 1, Except: except})
		if err != nil || ref.GetCheckpointId() != want {
			t.Errorf("except %v: %v, %v; want %s", except, ref, err, want)
		}
	}
	b = saved(t, healthy("only", 1))
	ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", WorldSize: 1, Except: []string{"only"}})
	if err != nil || ref.GetCheckpointId() != "only" {
		t.Errorf("there is nothing else: %v, %v", ref, err)
	}
}

// A trainer that can reshard gets the files of all ranks; one that cannot is
// told why it may not go on.
func TestAnotherWorldSize(t *testing.T) {
	b := saved(t, append(ofRanks("old", 1, 1), ofRanks("ck", 2, 3)...)...)
	_, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", WorldSize: 1})
	if !fault.Is(err, fault.Precondition) || !strings.Contains(err.Error(), "saved by 3 ranks; the run now has 1") ||
		!strings.Contains(fault.HintOf(err), "3 ranks") {
		t.Errorf("it begins from an older one rather than to refuse: %v", err)
	}
	ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", Rank: 4, WorldSize: 5, CanReshard: true})
	if err != nil || ref.GetCheckpointId() != "ck" || len(ref.RankDirectories) != 3 {
		t.Fatalf("reshard: %v, %v", ref, err)
	}
	for rank, dir := range ref.RankDirectories {
		want := map[string]string{"weights.bin": fmt.Sprintf("ck of rank %d", rank)}
		if diff := cmp.Diff(want, readFiles(t, dir)); diff != "" {
			t.Errorf("rank %d (-want +got):\n%s", rank, diff)
		}
	}
}

// asked is what a rank was told.
type asked struct {
	id     string
	passed []*trainerv1.PassedOver
	err    error
}

// askAll has every rank ask, each at its own agent, at the same time.
func askAll(t *testing.T, agents []*bench, attempt uint32, launch string) []asked {
	t.Helper()
	answers := make([]asked, len(agents))
	var wait sync.WaitGroup
	for rank, b := range agents {
		wait.Go(func() {
			ref, passed, err := b.Resolve(t.Context(), vault.ResolveRequest{
				RunID: "run", Attempt: attempt, Rank: uint32(rank), WorldSize: uint32(len(agents)), Process: launch,
			})
			answers[rank] = asked{ref.GetCheckpointId(), passed, err}
		})
	}
	wait.Wait()
	return answers
}

// damage changes a byte of a file in the vault.
func damage(t testing.TB, b *bench, id string, rank uint32) {
	t.Helper()
	path := filepath.Join(b.dir, "vault/run", id, fmt.Sprintf("rank-%05d/files/weights.bin", rank))
	data, err := os.ReadFile(path)
	if err == nil {
		data[0] ^= 1
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Only rank 2's file of the newest is damaged: all ranks go on from the one
// before, whoever asks first, and again at the next launch.
func TestRanksAgree(t *testing.T) {
	dir := t.TempDir()
	agents := make([]*bench, 3)
	for rank := range agents {
		agents[rank] = open(t, dir, durable.OS{}, func(c *vault.Config) { c.StagingDir = filepath.Join(dir, fmt.Sprint("staging", rank)) })
		agents[rank].run()
	}
	for _, p := range append(ofRanks("old", 1, 3), ofRanks("new", 2, 3)...) {
		agents[p.rank].mustSave(p)
		agents[p.rank].wait(p.id, "VERIFIED")
	}
	check := func(launch string, attempt uint32, want string, reason string) {
		t.Helper()
		for rank, a := range askAll(t, agents, attempt, launch) {
			told := fmt.Sprint(a.passed)
			if a.err != nil || a.id != want || !strings.Contains(told, reason) {
				t.Errorf("%s: rank %d goes on from %q, %v, %v; want %s because %q", launch, rank, a.id, a.err, told, want, reason)
			}
		}
	}
	check("first", 1, "new", "")
	check("first", 1, "new", "") // the same processes ask again
	damage(t, agents[0], "new", 2)
	check("second", 2, "old", "rank 2")
	check("third", 3, "old", "rank 2")
	damage(t, agents[0], "old", 0)
	check("fourth", 4, "", "rank 0")
}

// A rank that nobody else joins does not go on alone.
func TestRankThatIsAlone(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{}, func(c *vault.Config) { c.AgreeWait = 50 * time.Millisecond })
	b.run()
	b.mustSave(ofRanks("ck", 1, 2)...)
	b.wait("ck", "VERIFIED")
	_, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", Rank: 1, WorldSize: 2, Process: "p"})
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "1 of 2 ranks") || !strings.Contains(err.Error(), "ranks 0") {
		t.Errorf("alone: %v", err)
	}
	// A run of which nothing was ever saved begins at once.
	ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "fresh", Rank: 1, WorldSize: 2, Process: "p"})
	if ref != nil || err != nil {
		t.Errorf("fresh run: %v, %v", ref, err)
	}
}

// A rank that died after it had joined comes back: those who wait start over
// with it.
func TestRankThatComesBack(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{}, func(c *vault.Config) { c.AgreeWait = time.Hour })
	b.run()
	b.mustSave(ofRanks("ck", 1, 2)...)
	ask := func(ctx context.Context, rank uint32, process string) chan asked {
		told := make(chan asked, 1)
		go func() {
			ref, passed, err := b.Resolve(ctx, vault.ResolveRequest{RunID: "run", Rank: rank, WorldSize: 2, Process: process})
			told <- asked{ref.GetCheckpointId(), passed, err}
		}()
		return told
	}
	ctx, die := context.WithCancel(t.Context())
	died := ask(ctx, 0, "first")
	testkit.Eventually(t, "rank 0 to join", func() bool {
		joined, err := filepath.Glob(filepath.Join(b.dir, "vault/run/.resume/*/joined-*"))
		return err == nil && len(joined) == 1
	})
	die()
	if a := <-died; a.err == nil {
		t.Errorf("the one that died was told %+v", a)
	}
	back, other := ask(t.Context(), 0, "second"), ask(t.Context(), 1, "other")
	for name, told := range map[string]chan asked{"rank 0": back, "rank 1": other} {
		if a := <-told; a.err != nil || a.id != "ck" {
			t.Errorf("%s: %+v", name, a)
		}
	}
}
