package vault_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/agent/vault/retain"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func keeping(policy retain.Policy) func(*vault.Config) {
	return func(c *vault.Config) { c.Retain = policy }
}

// listed gives the ids of the run's checkpoints, the newest first.
func (b *bench) listed() string {
	b.t.Helper()
	list, err := b.List("run")
	if err != nil {
		b.t.Fatal(err)
	}
	var ids []string
	for _, c := range list {
		ids = append(ids, c.ID)
	}
	return strings.Join(ids, " ")
}

// After each checkpoint the policy is applied; what goes is gone from the disk
// and told with its reason, and the last healthy one stays whatever comes after.
func TestRetention(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{}, keeping(retain.Policy{KeepLast: 2}))
	b.run()
	poisoned := healthy("e", 5)
	poisoned.nonfinite = proto.Int64(1)
	for _, p := range []part{healthy("a", 1), healthy("b", 2), healthy("c", 3)} {
		b.mustSave(p)
		b.wait(p.id, "VERIFIED")
	}
	testkit.Eventually(t, "the first to be removed", func() bool { return b.listed() == "c b" })
	if err := b.Judge(t.Context(), &commonv1.CheckpointJudgement{RunId: "run", JudgementId: "j", FromStep: 3, Reason: "diverged"}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []part{healthy("d", 4), poisoned, healthy("f", 6)} {
		b.mustSave(p)
		b.wait(p.id, "VERIFIED")
	}
	// b is the last healthy one: d and f are suspect.
	testkit.Eventually(t, "the rest to be removed", func() bool {
		return b.listed() == "f d b" && len(b.changes(commonv1.CheckpointChange_CHECKPOINT_CHANGE_REMOVED)) == 3
	})
	want := []string{
		"a: no rule keeps it", "c: no rule keeps it", "e: poisoned: nobody will resume from it",
	}
	told := b.changes(commonv1.CheckpointChange_CHECKPOINT_CHANGE_REMOVED)
	slices.Sort(told)
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if kept := b.changes(commonv1.CheckpointChange_CHECKPOINT_CHANGE_KEPT); !slices.Contains(kept, "b: the last verified healthy one") {
		t.Errorf("kept %q", kept)
	}
	testkit.Eventually(t, "their files to be gone", func() bool {
		left, err := filepath.Glob(filepath.Join(b.dir, "vault/run/*.removed"))
		return err == nil && len(left) == 0
	})
	if id, _ := b.resolve(0, 1); id != "b" {
		t.Errorf("resolved %q", id)
	}
}

// What training goes on from, and what another rank is still saving, stays.
func TestRetentionSparesWhatIsInUse(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{}, keeping(retain.Policy{KeepLast: 1, MinAge: time.Hour}))
	b.run()
	half := healthy("half", 1)
	half.world = 2
	b.mustSave(half)
	b.wait("half", "VERIFIED")
	b.mustSave(healthy("a", 2))
	b.wait("a", "VERIFIED")
	if got := b.listed(); got != "a half" {
		t.Errorf("young ones: %q", got)
	}
	old := open(t, t.TempDir(), durable.OS{}, keeping(retain.Policy{KeepLast: 1}))
	old.run()
	old.mustSave(healthy("a", 9))
	old.wait("a", "VERIFIED")
	if id, _ := old.resolve(0, 1); id != "a" {
		t.Fatalf("resolved %q", id)
	}
	// A later attempt that began anew from an earlier step saves: a is still read.
	behind := healthy("b", 3)
	behind.nonfinite = nil
	old.mustSave(behind)
	old.wait("b", "VERIFIED")
	if got := old.listed(); !strings.Contains(got, "a") {
		t.Errorf("in use: %q", got)
	}
}

// An agent that dies while it removes leaves nothing that anybody would take for
// a checkpoint, and the next one finishes.
func TestRemovalThatWasCutShort(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, durable.OS{}, keeping(retain.Policy{KeepLast: 1}))
	stop := b.run()
	b.mustSave(healthy("a", 1))
	b.wait("a", "VERIFIED")
	stop()
	run := filepath.Join(dir, "vault/run")
	if err := os.CopyFS(filepath.Join(run, "z.removed"), os.DirFS(filepath.Join(run, "a"))); err != nil {
		t.Fatal(err)
	}
	b = open(t, dir, durable.OS{}, keeping(retain.Policy{KeepLast: 1}))
	b.run()
	if got := b.listed(); got != "a" {
		t.Errorf("listed %q", got)
	}
	b.mustSave(healthy("b", 2))
	testkit.Eventually(t, "the rest to be removed", func() bool {
		left, err := filepath.Glob(filepath.Join(run, "*.removed"))
		return err == nil && len(left) == 0 && b.listed() == "b"
	})
}
