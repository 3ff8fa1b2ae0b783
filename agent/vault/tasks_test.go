package vault_test

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/agent/vault/retain"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// do does an action and gives what came of it and how far it was at its end.
func (b *bench) do(id string, action commonv1.CheckpointAction) (detail string, done, total int64, err error) {
	b.t.Helper()
	task := &commonv1.CheckpointTask{RunId: "run", CheckpointId: id, Action: action}
	detail, err = b.Do(b.t.Context(), task, func(d, t int64) { done, total = d, t })
	return detail, done, total, err
}

func TestTasksReadEverything(t *testing.T) {
	for name, change := range map[string]func(*vault.Config){
		"in the clear": func(*vault.Config) {},
		"encrypted":    encrypted(t),
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, t.TempDir(), durable.OS{}, change)
			b.run()
			b.mustSave(ofRanks("ck", 1, 2)...)
			b.wait("ck", "VERIFIED")
			testkit.Eventually(t, "both ranks", func() bool { return b.Saved("run", "ck") && strings.Count(b.states("ck"), "VERIFIED") == 2 })
			detail, done, total, err := b.do("ck", commonv1.CheckpointAction_CHECKPOINT_ACTION_VERIFY)
			if err != nil || done != total || total == 0 || detail != "every byte of 2 files of 2 ranks agrees with its digest" {
				t.Errorf("verify: %q, %d of %d, %v", detail, done, total, err)
			}
			want := map[string]string{"rank-00000/weights.bin": "ck of rank 0", "rank-00001/weights.bin": "ck of rank 1"}
			for range 2 { // again takes the place of the first
				dir, _, _, err := b.do("ck", commonv1.CheckpointAction_CHECKPOINT_ACTION_RESTORE)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, readFiles(t, dir)); diff != "" {
					t.Errorf("restored (-want +got):\n%s", diff)
				}
			}
			path, _, _, err := b.do("ck", commonv1.CheckpointAction_CHECKPOINT_ACTION_EXPORT)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, readTar(t, path)); diff != "" {
				t.Errorf("exported (-want +got):\n%s", diff)
			}
			damage(t, b, "ck", 1)
			for _, action := range []commonv1.CheckpointAction{
				commonv1.CheckpointAction_CHECKPOINT_ACTION_EXPORT, commonv1.CheckpointAction_CHECKPOINT_ACTION_RESTORE,
				commonv1.CheckpointAction_CHECKPOINT_ACTION_VERIFY,
			} {
				if _, _, _, err := b.do("ck", action); !fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), "rank 1") && !strings.Contains(err.Error(), "weights.bin") {
					t.Errorf("%s of a damaged one: %v", action, err)
				}
			}
			if b.Saved("run", "ck") {
				t.Error("a checkpoint that was found damaged counts as verified")
			}
			left, err := filepath.Glob(filepath.Join(b.dir, "vault/.exports/run/*.partial"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func readTar(t testing.TB, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	files := map[string]string{}
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = string(data)
	}
}

func TestPinAndRemove(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{}, keeping(retain.Policy{KeepLast: 2}))
	b.run()
	remove, pin, unpin := commonv1.CheckpointAction_CHECKPOINT_ACTION_REMOVE,
		commonv1.CheckpointAction_CHECKPOINT_ACTION_PIN, commonv1.CheckpointAction_CHECKPOINT_ACTION_UNPIN
	save := func(id string, step int64) {
		b.mustSave(healthy(id, step))
		b.wait(id, "VERIFIED")
	}
	save("a", 1)
	if _, _, _, err := b.do("a", pin); err != nil {
		t.Fatal(err)
	}
	for i, id := range []string{"b", "c", "d"} {
		save(id, int64(i+2))
	}
	testkit.Eventually(t, "b to be removed", func() bool { return b.listed() == "d c a" })
	for id, says := range map[string]string{"a": "pinned", "d": "last verified healthy"} {
		if _, _, _, err := b.do(id, remove); !fault.Is(err, fault.Precondition) || !strings.Contains(err.Error(), says) {
			t.Errorf("remove %s: %v", id, err)
		}
	}
	if detail, _, _, err := b.do("c", remove); err != nil || !strings.Contains(detail, "bytes are free again") || b.listed() != "d a" {
		t.Errorf("remove c: %q, %v; left %s", detail, err, b.listed())
	}
	save("e", 5)
	if _, _, _, err := b.do("a", unpin); err != nil || b.listed() != "e d" {
		t.Errorf("unpin: %v; left %s", err, b.listed())
	}
	if _, _, _, err := b.do("a", pin); !fault.Is(err, fault.NotFound) {
		t.Errorf("pin what is gone: %v", err)
	}
	if _, _, _, err := b.do("e", 99); !fault.Is(err, fault.Unsupported) {
		t.Errorf("unknown action: %v", err)
	}
	told := fmt.Sprint(b.changes(commonv1.CheckpointChange_CHECKPOINT_CHANGE_REMOVED))
	for _, want := range []string{"b: no rule keeps it", "c: removed by hand", "a: no rule keeps it"} {
		if !strings.Contains(told, want) {
			t.Errorf("told %s, without %q", told, want)
		}
	}
}
