package vault_test

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/agent/vault/retain"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/faultfs"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// What users of other systems complain about and what cannot happen here: one
// test for each complaint that is about the store.

// "A bad checkpoint is fatal": a corrupt replica, or one that gives NaN at
// load+3, and dozens of identical restarts from it (Megatron-LM 5281 and 4378,
// transformers 35525, scr 174). Here the damaged, the poisoned and the one that
// leads to NaN are each left behind after one look or one attempt.
func TestComplaintABadCheckpointIsFatal(t *testing.T) {
	poisoned := healthy("poisoned", 40)
	poisoned.nonfinite, poisoned.files = nil, map[string]string{"model.safetensors": tensors(1, float32(math.NaN()))}
	b := saved(t, healthy("good", 10), healthy("leads-to-NaN", 20), healthy("damaged", 30), poisoned)
	damage(t, b, "damaged", 0)
	var from []string
	for attempt := uint32(1); attempt <= 44; attempt++ {
		ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", Attempt: attempt, WorldSize: 1})
		if err != nil {
			t.Fatal(err)
		}
		from = append(from, ref.GetCheckpointId())
		if ref.GetCheckpointId() == "good" {
			break
		}
		b.Observe(&commonv1.Event{RunId: "run", Attempt: attempt, Body: &commonv1.Event_NonFinite{
			NonFinite: &commonv1.NonFinite{Step: ref.GetMetadata().GetStep() + 3},
		}})
	}
	if diff := cmp.Diff([]string{"leads-to-NaN", "good"}, from); diff != "" {
		t.Errorf("attempts went on from (-want +got):\n%s", diff)
	}
}

// "A failing save kills training" (Megatron 1435): a disk that fails gives a
// FAILED event, and the trainer that goes on saves again when the disk is well.
func TestComplaintAFailingSaveKillsTraining(t *testing.T) {
	fsys := faultfs.New()
	b := open(t, t.TempDir(), fsys)
	b.run()
	for i, op := range []faultfs.Op{faultfs.Open, faultfs.Write, faultfs.Sync, faultfs.Rename, faultfs.Mkdir} {
		fsys.FailWith(func(is faultfs.Op, path string) error {
			if is == op && !strings.Contains(path, "staging") {
				return syscall.ENOSPC
			}
			return nil
		})
		bad := healthy(fmt.Sprint("bad", i), int64(2*i+1))
		b.mustSave(bad) // the training thread has no part in it any more
		b.wait(bad.id, "FAILED")
		fsys.FailWith(nil)
		good := healthy(fmt.Sprint("good", i), int64(2*i+2))
		b.mustSave(good)
		b.wait(good.id, "VERIFIED")
		if id, _ := b.resolve(0, 1); id != good.id {
			t.Errorf("%s failed: resolved %q", op, id)
		}
	}
}

// "latest moved before the data is durable, then the old one purged" (KempnerForge
// 102, torchtitan 930, NVRx 359 and 364). Every file, the manifest and the mark
// that it was read back are synced before latest is renamed; only behind that is
// anything removed.
func TestComplaintLatestMovesBeforeTheDataIsDurable(t *testing.T) {
	fsys := faultfs.New()
	b := open(t, t.TempDir(), fsys, keeping(retain.Policy{KeepLast: 1}))
	b.run()
	b.mustSave(healthy("a", 1))
	b.wait("a", "VERIFIED")
	b.mustSave(healthy("b", 2))
	testkit.Eventually(t, "a to be removed", func() bool { return b.listed() == "b" && strings.Contains(fmt.Sprint(fsys.Log()), "a.removed") })
	last := func(parts ...string) int {
		at := -1
		for i, op := range fsys.Log() {
			if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(op, part) }) {
				at = i
			}
		}
		if at < 0 {
			t.Fatalf("no operation has all of %q", parts)
		}
		return at
	}
	order := map[string]int{
		"1 weights synced":  last("sync ", "b.partial-0/files/weights.bin"),
		"2 state synced":    last("sync ", "b.partial-0/files/optimizer/state"),
		"3 manifest synced": last("sync ", "b.partial-0/manifest.json"),
		"4 moved in place":  last("rename ", "b.partial-0"),
		"5 verified synced": last("sync ", "b/rank-00000/verified.json"),
		"6 latest moved":    last("rename ", ".latest-rank-00000"),
		"7 old one goes":    last("rename ", filepath.Join("run", "a")),
	}
	names := slices.Collect(func(yield func(string) bool) {
		for name := range order {
			if !yield(name) {
				return
			}
		}
	})
	slices.SortFunc(names, func(x, y string) int { return order[x] - order[y] })
	for i, name := range names {
		if want := fmt.Sprint(i + 1); !strings.HasPrefix(name, want) && !(i < 2 && strings.HasPrefix(name, fmt.Sprint(2-i))) {
			t.Errorf("order of operations: %q", names)
			break
		}
	}
}

// "Inexact resume" (accelerate 4195 and 4238, transformers 31441 and 26289,
// Lightning 17543): every byte that the trainer wrote comes back, with step and
// data position, through compression and encryption; a run that asks for exact
// resume is refused rather than given less. That training then ends bit for bit
// as if it had never stopped is shown by the reference trainer's tests.
func TestComplaintInexactResume(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{}, encrypted(t))
	b.run()
	p := healthy("ck", 812)
	p.exact = true
	p.files = map[string]string{"weights.bin": goldenWeights(), "rng": "\x00\x01\xff", "sampler/state.json": goldenNotes(), "empty": ""}
	b.mustSave(p)
	b.wait("ck", "VERIFIED")
	exact := vault.ResolveRequest{RunID: "run", WorldSize: 1, Mode: commonv1.RecoveryMode_RECOVERY_MODE_EXACT}
	ref, _, err := b.Resolve(t.Context(), exact)
	if err != nil || !proto.Equal(ref.GetMetadata(), p.metadata()) {
		t.Fatalf("resolved %v, %v", ref, err)
	}
	if diff := cmp.Diff(p.files, readFiles(t, ref.GetDirectory())); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	other := saved(t, healthy("weights-only", 5))
	if ref, _, err := other.Resolve(t.Context(), exact); !fault.Is(err, fault.Precondition) {
		t.Errorf("an inexact one was given to a run that wants to go on exactly: %v, %v", ref, err)
	}
}
