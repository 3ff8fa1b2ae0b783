package vault_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// saved seals parts and gives the vault.
func saved(t *testing.T, parts ...part) *bench {
	t.Helper()
	b := open(t, t.TempDir(), durable.OS{})
	b.run()
	b.mustSave(parts...)
	for _, p := range parts {
		b.wait(p.id, "VERIFIED")
	}
	// Waits for the last of them; some tests save what it does not like.
	_, _, _ = b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", WorldSize: 1})
	return b
}

func edit(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err := errors.Join(err, os.WriteFile(path, change(data), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func TestResolvePassesOver(t *testing.T) {
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	replace := func(name, from, to string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, name), func(data []byte) []byte {
				if !strings.Contains(string(data), from) {
					t.Fatalf("%s does not hold %q:\n%s", name, from, data)
				}
				return []byte(strings.Replace(string(data), from, to, 1))
			})
		}
	}
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, rankDir string)
		says   string
	}{
		{"flipped bit", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "files/optimizer/state"), func(d []byte) []byte { d[1] ^= 4; return d })
		}, `file "optimizer/state": its BLAKE3`},
		{"cut file", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "files/weights.bin"), func(d []byte) []byte { return d[:10] })
		}, `file "weights.bin": has 10 bytes`},
		{"missing file", remove("files/weights.bin"), `file "weights.bin" is missing`},
		{"missing files", remove("files"), `"files" is missing`},
		{"missing manifest", remove("manifest.json"), "rank 0: read manifest"},
		{"missing rank", remove(""), "no rank's manifest"},
		{"not verified", remove("verified.json"), "rank 0 was not read back"},
		{"mark of another manifest", replace("verified.json", `sha256":"`, `sha256":"0`), "rank 0 was not read back"},
		{"changed manifest", replace("manifest.json", `"attempt": 0`, `"attempt": 1`), "rank 0 was not read back"},
		{"cut manifest", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "manifest.json"), func(d []byte) []byte { return d[:40] })
		}, "decode manifest"},
		{"manifest of another", replace("manifest.json", `"checkpoint_id": "new"`, `"checkpoint_id": "old"`), "checkpoint old"},
		{"traversal", replace("manifest.json", `"optimizer/state"`, `"../../../../etc/passwd"`), "not a clean relative path"},
		{"future version", replace("manifest.json", `"version": 2`, `"version": 3`), "version is 3"},
		{"link in the place of a file", func(t *testing.T, dir string) {
			path := filepath.Join(dir, "files/weights.bin")
			if err := errors.Join(os.Rename(path, dir+"/moved"), os.Symlink(dir+"/moved", path)); err != nil {
				t.Fatal(err)
			}
		}, "weights.bin"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := saved(t, healthy("old", 5), healthy("new", 6))
			tc.damage(t, filepath.Join(b.dir, "vault/run/new/rank-00000"))
			id, passed := b.resolve(0, 1)
			if id != "old" {
				t.Errorf("resolved %q; want old", id)
			}
			if len(passed) != 1 || !strings.HasPrefix(passed[0], "new: ") || !strings.Contains(passed[0], tc.says) {
				t.Errorf("passed over %q; want new because %q", passed, tc.says)
			}
		})
	}
}

func TestResolveChooses(t *testing.T) {
	poisoned, unknown := healthy("poisoned", 9), healthy("unknown", 8)
	poisoned.nonfinite, unknown.nonfinite = proto.Int64(3), nil
	two := healthy("two", 7)
	two.world = 2
	older := unknown
	older.id, older.step = "older", 2
	for _, tc := range []struct {
		name   string
		parts  []part
		want   string
		passed []string
	}{
		{"nothing", nil, "", nil},
		{"by step", []part{healthy("late", 2), healthy("early", 1)}, "late", nil},
		{"by creation", []part{healthy("first", 2), healthy("second", 2)}, "second", nil},
		{"never poisoned", []part{poisoned}, "", []string{"poisoned: rank 0 holds 3 non-finite parameters"}},
		{"missing rank", []part{healthy("one", 1), two}, "one", []string{"two: rank 1 of 2 is missing"}},
		{"healthy before unknown", []part{healthy("good", 1), unknown, poisoned}, "good", []string{
			"poisoned: rank 0 holds 3 non-finite parameters",
			"unknown: its health is unknown (nobody counted non-finite parameters) and a healthy one exists",
		}},
		{"older unknown is not mentioned", []part{healthy("good", 3), older}, "good", nil},
		{"unknown where nothing is better", []part{older, unknown, poisoned}, "unknown", []string{
			"poisoned: rank 0 holds 3 non-finite parameters",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := saved(t, tc.parts...)
			id, passed := b.resolve(0, 1)
			if diff := cmp.Diff(tc.passed, passed); id != tc.want || diff != "" {
				t.Errorf("resolved %q, want %q; passed over (-want +got):\n%s", id, tc.want, diff)
			}
		})
	}
}

func TestResolveNeedsEveryRank(t *testing.T) {
	part := func(id string, rank uint32, step int64, nonfinite *int64) part {
		p := healthy(id, step)
		p.rank, p.world, p.nonfinite = rank, 2, nonfinite
		return p
	}
	b := saved(t,
		part("whole", 0, 1, proto.Int64(0)), part("whole", 1, 1, proto.Int64(0)),
		part("torn", 0, 2, proto.Int64(0)), part("torn", 1, 3, proto.Int64(0)),
		part("sick", 0, 4, proto.Int64(0)), part("sick", 1, 4, proto.Int64(1)),
		part("half", 0, 5, proto.Int64(0)),
	)
	want := []string{
		"half: rank 1 of 2 is missing",
		"sick: rank 1 holds 1 non-finite parameters",
		"torn: rank 0 saved step 2 of 2 ranks, rank 1 step 3 of 2 ranks",
	}
	for rank := range uint32(2) {
		id, passed := b.resolve(rank, 2)
		if diff := cmp.Diff(want, passed); id != "whole" || diff != "" {
			t.Errorf("rank %d resolved %q; passed over (-want +got):\n%s", rank, id, diff)
		}
	}
	_, passed, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", WorldSize: 1})
	if !fault.Is(err, fault.Precondition) || len(passed) != 3 {
		t.Errorf("another world size: %v, passed over %q", err, passed)
	}
	if latest, err := os.ReadFile(filepath.Join(b.dir, "vault/run/latest")); err != nil || string(latest) != "whole\n" {
		t.Errorf("latest = %q, %v; want the only whole and healthy one", latest, err)
	}
	list, err := b.List("run")
	if err != nil || len(list) != 4 || list[0].ID != "half" || list[3].Problem != "" || len(list[3].Ranks) != 2 {
		t.Errorf("list = %+v, %v", list, err)
	}
}

func TestLatestDoesNotGoBack(t *testing.T) {
	b := saved(t, healthy("b", 2), healthy("a", 1))
	if latest, err := os.ReadFile(filepath.Join(b.dir, "vault/run/latest")); err != nil || string(latest) != "b\n" {
		t.Errorf("latest = %q, %v", latest, err)
	}
}

func TestResolveRefuses(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{})
	for _, tc := range []struct {
		run         string
		rank, world uint32
	}{{"run", 0, 0}, {"run", 1, 1}, {"../run", 0, 1}, {"", 0, 1}, {".staging", 0, 1}} {
		if ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: tc.run, Rank: tc.rank, WorldSize: tc.world}); err == nil {
			t.Errorf("%+v resolved to %v", tc, ref)
		}
	}
}

func TestResolveEndsWithItsCaller(t *testing.T) {
	b := saved(t, healthy("ck", 1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if ref, _, err := b.Resolve(ctx, vault.ResolveRequest{RunID: "run", Rank: 0, WorldSize: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("resolve = %v, %v", ref, err)
	}
}

func TestParentIsKept(t *testing.T) {
	b := saved(t, healthy("first", 1))
	_, dir, err := b.Begin(t.Context(), vault.BeginRequest{RunID: "run", CheckpointID: "second", Attempt: 1,
		Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_PERIODIC})
	if err != nil {
		t.Fatal(err)
	}
	writeFiles(t, dir, map[string]string{"f": ""})
	err = b.Commit(t.Context(), vault.CommitRequest{RunID: "run", CheckpointID: "second", Parent: "first", Metadata: healthy("second", 2).metadata()})
	if err != nil {
		t.Fatal(err)
	}
	b.wait("second", "VERIFIED")
	list, err := b.List("run")
	if err != nil || list[0].Ranks[0].Parent != "first" || list[0].Ranks[0].Reason != "periodic" || list[0].Ranks[0].Attempt != 1 {
		t.Errorf("list = %+v, %v", list, err)
	}
}
