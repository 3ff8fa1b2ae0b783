package vault_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// onNode stages in a directory of the node's own, below a vault that is shared.
func onNode(name string) func(*vault.Config) {
	return func(c *vault.Config) { c.StagingDir = filepath.Join(filepath.Dir(c.Dir), name) }
}

// Two nodes with one shared directory; the agent of the second is killed, at one
// operation after another, while it seals its rank of the newest checkpoint,
// which the first node has sealed. The half checkpoint is never gone on from:
// not while the node is replaced by one that knows nothing of it. When the agent
// comes back instead, it finishes, and both ranks go on from it.
func TestAgentKilledBetweenTwoRanks(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	old, fresh := ofRanks("old", 1, 2), ofRanks("new", 2, 2)
	for at := 1; ; at += 3 {
		dir := t.TempDir()
		one, two := open(t, dir, durable.OS{}, onNode("one")), open(t, dir, durable.OS{})
		one.run()
		stop := two.run()
		one.mustSave(old[0], fresh[0])
		two.mustSave(old[1])
		one.wait("new", "VERIFIED")
		two.wait("old", "VERIFIED")
		testkit.Eventually(t, "the old one to be whole", func() bool { return two.Saved("run", "old") })
		stop()
		two.mustSave(fresh[1]) // committed, and nobody seals it yet

		child := exec.Command(self)
		child.Env = append(os.Environ(), killDirEnv+"="+dir, killAtEnv+"="+strconv.Itoa(at))
		exit, died := errors.AsType[*exec.ExitError](child.Run())
		if died && exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("child: %v", exit)
		}
		_, err := os.Stat(filepath.Join(dir, "vault/run/new/rank-00001/verified.json"))
		want := old
		if err == nil {
			want = fresh
		}
		replaced := open(t, dir, durable.OS{}, onNode("replaced"))
		replaced.run()
		for rank, a := range askAll(t, []*bench{one, replaced}, 1, "first") {
			if a.err != nil || a.id != want[0].id {
				t.Errorf("killed at operation %d: rank %d goes on from %q, %v; want %s", at, rank, a.id, a.err, want[0].id)
			}
		}
		checkResolved(t, one, want[0])
		checkResolved(t, replaced, want[1])

		back := open(t, dir, durable.OS{})
		back.run()
		for rank, a := range askAll(t, []*bench{one, back}, 2, "second") {
			if a.err != nil || a.id != "new" {
				t.Errorf("killed at operation %d and back: rank %d goes on from %q, %v", at, rank, a.id, a.err)
			}
		}
		if !died {
			if at < 12 {
				t.Errorf("sealing took only %d operations: the test does not see them", at)
			}
			return
		}
	}
}

// The golden vault was written by an earlier Vigil. What it holds must be read
// for ever: this test may be added to, its files never change.
func TestGoldenVault(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "vault"), os.DirFS("testdata/golden/vault")); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile("testdata/golden/key")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "key"), key, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, dir, durable.OS{}, func(c *vault.Config) { c.Encryption.KeyFile = filepath.Join(dir, "key") })
	for run, want := range map[string][]map[string]string{
		"clear":     {{"weights.bin": "golden weights of rank 0", "optimizer/state": "moments"}, {"weights.bin": "golden weights of rank 1", "optimizer/state": "moments"}},
		"encrypted": {{"weights.bin": goldenWeights(), "notes.txt": goldenNotes()}},
	} {
		for rank, files := range want {
			ref, passed, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: run, Rank: uint32(rank), WorldSize: uint32(len(want))})
			if err != nil || ref == nil || len(passed) > 0 {
				t.Fatalf("%s: rank %d: %v, passed over %v, %v", run, rank, ref, passed, err)
			}
			if diff := cmp.Diff(files, readFiles(t, ref.Directory)); diff != "" {
				t.Errorf("%s: rank %d (-want +got):\n%s", run, rank, diff)
			}
		}
	}
}

// goldenWeights is what does not shrink; goldenNotes does.
func goldenWeights() string {
	b, x := make([]byte, 3000), uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return string(b)
}

func goldenNotes() string {
	text := ""
	for i := range 200 {
		text += "line " + strconv.Itoa(i%7) + "\n"
	}
	return text
}
