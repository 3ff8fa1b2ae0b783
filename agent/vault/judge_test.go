package vault_test

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/faultfs"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// tensors is a safetensors file with one tensor of values.
func tensors(values ...float32) string {
	header := `{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,` + string(rune('0'+4*len(values))) + `]}}`
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	b = append(b, header...)
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return string(b)
}

// What the files hold counts, whatever the trainer says or leaves out.
func TestHealthFromTheFiles(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for name, c := range map[string]struct {
		count  *int64
		file   string
		want   commonv1.CheckpointHealth
		reason string
	}{
		"finite and not counted":     {nil, tensors(1, 2), commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY, ""},
		"NaN and not counted":        {nil, tensors(1, nan), commonv1.CheckpointHealth_CHECKPOINT_HEALTH_POISONED, "rank 0 holds 1 NaN and 0 infinite values, the first in model.safetensors: w"},
		"NaN that the trainer hides": {proto.Int64(0), tensors(nan, 1), commonv1.CheckpointHealth_CHECKPOINT_HEALTH_POISONED, "rank 0 holds 1 NaN and 0 infinite values, the first in model.safetensors: w"},
		"Inf and not counted":        {nil, tensors(1, inf), commonv1.CheckpointHealth_CHECKPOINT_HEALTH_POISONED, "rank 0 holds 0 NaN and 1 infinite values, the first in model.safetensors: w"},
		"a mask":                     {proto.Int64(0), tensors(1, -inf), commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY, ""},
		"counted":                    {proto.Int64(5), tensors(1), commonv1.CheckpointHealth_CHECKPOINT_HEALTH_POISONED, "rank 0 holds 5 non-finite parameters"},
		"of no known format":         {nil, "weights", commonv1.CheckpointHealth_CHECKPOINT_HEALTH_UNSPECIFIED, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := healthy("ck", 1)
			p.nonfinite, p.files = c.count, map[string]string{"model.safetensors": c.file}
			b := saved(t, p)
			progress := b.last("ck").GetCheckpoint()
			if progress.GetHealth() != c.want || progress.GetHealthReason() != c.reason {
				t.Errorf("told %s, %q", progress.GetHealth(), progress.GetHealthReason())
			}
			id, passed := b.resolve(0, 1)
			if good := c.want != commonv1.CheckpointHealth_CHECKPOINT_HEALTH_POISONED; (id == "ck") != good {
				t.Errorf("resolved %q, passed over %v", id, passed)
			}
		})
	}
}

// changes gives what was told of checkpoints as "id CHANGE reasons".
func (b *bench) changes(of commonv1.CheckpointChange) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, e := range b.events {
		if c := e.GetCheckpointChanged(); c != nil && c.Change == of {
			out = append(out, c.CheckpointId+": "+strings.Join(c.Reasons, "; "))
		}
	}
	return out
}

// A finding's onset makes what was saved from it on suspect: also what is saved
// later in the same attempt, not what a later attempt saves.
func TestJudgement(t *testing.T) {
	b := saved(t, healthy("before", 10), healthy("after", 20))
	judged := &commonv1.CheckpointJudgement{
		RunId: "run", JudgementId: "finding-1", Attempt: 0, FromStep: 15, Reason: "divergence began at step 15",
	}
	for range 2 { // a command may be done twice
		if err := b.Judge(t.Context(), judged); err != nil {
			t.Fatal(err)
		}
	}
	told := b.changes(commonv1.CheckpointChange_CHECKPOINT_CHANGE_JUDGED)
	if diff := cmp.Diff([]string{"after: divergence began at step 15"}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	later := healthy("later", 30)
	b.mustSave(later)
	b.wait("later", "VERIFIED")
	if p := b.last("later").GetCheckpoint(); p.GetHealth() != commonv1.CheckpointHealth_CHECKPOINT_HEALTH_SUSPECT || p.GetHealthReason() != judged.Reason {
		t.Errorf("later is %s, %q", p.GetHealth(), p.GetHealthReason())
	}
	id, passed := b.resolve(0, 1)
	want := []string{
		"later: it is suspect, and one that is not exists: divergence began at step 15",
		"after: it is suspect, and one that is not exists: divergence began at step 15",
	}
	if diff := cmp.Diff(want, passed); id != "before" || diff != "" {
		t.Errorf("resolved %q; passed over (-want +got):\n%s", id, diff)
	}
	again := healthy("again", 25)
	again.attempt = 1
	b.mustSave(again)
	b.wait("again", "VERIFIED")
	if id, _ := b.resolve(0, 1); id != "again" {
		t.Errorf("resolved %q", id)
	}
	// The problem ended at step 28: what was saved behind it is good.
	judged.ToStep = 28
	if err := b.Judge(t.Context(), judged); err != nil {
		t.Fatal(err)
	}
	if id, _ := b.resolve(0, 1); id != "later" {
		t.Errorf("after the problem's end resolved %q", id)
	}
	for _, bad := range []*commonv1.CheckpointJudgement{{RunId: "../x", JudgementId: "a"}, {RunId: "run", JudgementId: "../a"}} {
		if err := b.Judge(t.Context(), bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// A suspect one is better than none.
func TestOnlySuspectOnes(t *testing.T) {
	b := saved(t, healthy("only", 10))
	if err := b.Judge(t.Context(), &commonv1.CheckpointJudgement{RunId: "run", JudgementId: "j", Reason: "r"}); err != nil {
		t.Fatal(err)
	}
	ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", WorldSize: 1})
	if err != nil || ref.GetCheckpointId() != "only" || ref.GetHealth() != commonv1.CheckpointHealth_CHECKPOINT_HEALTH_SUSPECT || ref.GetHealthReason() != "r" {
		t.Errorf("resolved %v, %v", ref, err)
	}
}

// A file that torch.save wrote is looked into while it is sealed.
func TestTorchFileWithNaNIsPoisoned(t *testing.T) {
	file, err := os.ReadFile("testdata/nan.pt")
	if err != nil {
		t.Fatal(err)
	}
	bad := healthy("bad", 2)
	bad.nonfinite, bad.files = nil, map[string]string{"state.pt": string(file)}
	b := saved(t, healthy("good", 1), bad)
	list, err := b.List("run")
	if err != nil || len(list) != 2 || list[0].Health != commonv1.CheckpointHealth_CHECKPOINT_HEALTH_POISONED || !strings.Contains(list[0].HealthReason, "state.pt: model.w") {
		t.Errorf("%+v, %v", list, err)
	}
	if id, _ := b.resolve(0, 1); id != "good" {
		t.Errorf("training goes on from %q", id)
	}
}

// A probation outlives the agent: what was gone on from is blamed for what the
// next agent hears, unless it had proved good.
func TestProbationSurvivesARestart(t *testing.T) {
	for name, c := range map[string]struct {
		before []int64 // steps that the first agent heard of
		next   string
	}{
		"not proved good": {[]int64{101, 110}, "old"},
		"nothing heard":   {nil, "old"},
		"proved good":     {[]int64{110, 121}, "new"},
		"just not proved": {[]int64{120}, "old"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			first := open(t, dir, durable.OS{})
			stop := first.run()
			first.mustSave(healthy("old", 50), healthy("new", 100))
			first.wait("new", "VERIFIED")
			resolve := func(b *bench, attempt uint32) string {
				ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", Attempt: attempt, WorldSize: 1})
				if err != nil {
					t.Fatal(err)
				}
				return ref.GetCheckpointId()
			}
			if id := resolve(first, 1); id != "new" {
				t.Fatalf("resolved %q", id)
			}
			for _, step := range c.before {
				first.Observe(&commonv1.Event{RunId: "run", Attempt: 1, Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: step}}})
			}
			if c.next == "new" {
				testkit.Eventually(t, "the mark", func() bool {
					_, err := os.Lstat(filepath.Join(dir, "vault", "run", "new", "proved.json"))
					return err == nil
				})
			}
			stop()
			second := open(t, dir, durable.OS{})
			second.run()
			second.Observe(&commonv1.Event{RunId: "run", Attempt: 1, Body: &commonv1.Event_NonFinite{NonFinite: &commonv1.NonFinite{Step: 103}}})
			if id := resolve(second, 2); id != c.next {
				t.Errorf("the next attempt goes on from %q, want %q", id, c.next)
			}
		})
	}
}

func TestProbation(t *testing.T) {
	nonFinite := func(step int64) *commonv1.Event {
		return &commonv1.Event{Body: &commonv1.Event_NonFinite{NonFinite: &commonv1.NonFinite{Step: step}}}
	}
	ended := func(kind commonv1.FailureKind) *commonv1.Event {
		return &commonv1.Event{Body: &commonv1.Event_AttemptEnded{AttemptEnded: &commonv1.AttemptEnded{Failure: kind}}}
	}
	step := func(step int64) *commonv1.Event {
		return &commonv1.Event{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: step}}}
	}
	for name, c := range map[string]struct {
		events []*commonv1.Event
		next   string
	}{
		"NaN three steps later":      {[]*commonv1.Event{step(101), nonFinite(103)}, "old"},
		"diverges at once":           {[]*commonv1.Event{ended(commonv1.FailureKind_FAILURE_KIND_DIVERGENCE)}, "old"},
		"does not load":              {[]*commonv1.Event{ended(commonv1.FailureKind_FAILURE_KIND_CHECKPOINT_CORRUPT)}, "old"},
		"a GPU fails":                {[]*commonv1.Event{step(101), ended(commonv1.FailureKind_FAILURE_KIND_GPU_FAULT)}, "new"},
		"NaN much later":             {[]*commonv1.Event{step(121), nonFinite(122)}, "new"},
		"NaN at the probation's end": {[]*commonv1.Event{step(120), nonFinite(121)}, "old"},
	} {
		t.Run(name, func(t *testing.T) {
			b := saved(t, healthy("old", 50), healthy("new", 100))
			resolve := func(attempt uint32) string {
				ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", Attempt: attempt, WorldSize: 1})
				if err != nil {
					t.Fatal(err)
				}
				return ref.GetCheckpointId()
			}
			if id := resolve(1); id != "new" {
				t.Fatalf("resolved %q", id)
			}
			for _, e := range c.events {
				e.RunId, e.Attempt = "run", 1
				b.Observe(e)
			}
			// What the failing attempt saves on its way out is no better.
			emergency := healthy("emergency", 102)
			emergency.attempt = 1
			b.mustSave(emergency)
			b.wait("emergency", "VERIFIED")
			want := c.next
			if want == "new" {
				want = "emergency"
			}
			if id := resolve(2); id != want {
				t.Errorf("the next attempt goes on from %q, want %q", id, want)
			}
			told := b.changes(commonv1.CheckpointChange_CHECKPOINT_CHANGE_JUDGED)
			if judged := slices.ContainsFunc(told, func(s string) bool { return strings.HasPrefix(s, "new: attempt 1 went on from step 100 and ") }); judged != (want == "old") {
				t.Errorf("told %q", told)
			}
		})
	}
}

// A judgement that cannot be written is told, and nothing is judged.
func TestJudgementFails(t *testing.T) {
	fsys := faultfs.New()
	b := open(t, t.TempDir(), fsys)
	b.run()
	b.mustSave(healthy("a", 10), healthy("b", 20))
	b.wait("b", "VERIFIED")
	fsys.FailWith(func(op faultfs.Op, _ string) error {
		if op == faultfs.Rename {
			return syscall.EIO
		}
		return nil
	})
	err := b.Judge(t.Context(), &commonv1.CheckpointJudgement{RunId: "run", JudgementId: "j", FromStep: 15, Reason: "r"})
	fsys.FailWith(nil)
	if err == nil {
		t.Fatal("nothing failed")
	}
	if id, _ := b.resolve(0, 1); id != "b" {
		t.Errorf("resolved %q", id)
	}
}
