package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/scratch"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// inMemory opens a vault whose trainers write into memory, and runs it.
func inMemory(t *testing.T) *bench {
	t.Helper()
	b := open(t, t.TempDir(), durable.OS{}, func(c *vault.Config) { c.StagingDir = "" })
	b.run()
	return b
}

// saveWith saves a checkpoint of some MiB with write, waits until it is sealed,
// and gives how many spare files lay beside the directory at the beginning.
func (b *bench) saveWith(i int, write func(dir, name string, data []byte) error) int {
	b.t.Helper()
	id := fmt.Sprint("ck", i)
	data := bytes.Repeat([]byte(fmt.Sprintf("%07d\n", i)), 3<<17)
	_, dir, err := b.Begin(b.t.Context(), vault.BeginRequest{RunID: "run", CheckpointID: id, SizeBytes: int64(len(data))})
	if err != nil {
		b.t.Fatal(err)
	}
	if !strings.HasPrefix(dir, "/dev/shm/") {
		b.t.Skipf("staging is not in memory here: %s", dir)
	}
	spares, _ := os.ReadDir(filepath.Join(filepath.Dir(dir), scratch.SpareName))
	if err := errors.Join(write(dir, "weights.bin", data), write(dir, "small", data[:100])); err != nil {
		b.t.Fatal(err)
	}
	err = b.Commit(b.t.Context(), vault.CommitRequest{RunID: "run", CheckpointID: id, Metadata: &commonv1.CheckpointMetadata{
		Step: int64(i), WorldSize: 1, NonfiniteParameters: proto.Int64(0)}})
	if err != nil {
		b.t.Fatal(err)
	}
	testkit.Eventually(b.t, id+" to be sealed", func() bool { return b.Saved("run", id) })
	got, err := os.ReadFile(filepath.Join(b.dir, "vault", "run", id, "rank-00000", "files", "weights.bin"))
	if err != nil || !bytes.Equal(got, data) {
		b.t.Errorf("%s: %d bytes are sealed, want %d of %.8s; %v", id, len(got), len(data), data, err)
	}
	return len(spares)
}

// plainly writes as trainers do that know nothing of spare files.
func plainly(dir, name string, data []byte) error {
	return os.WriteFile(filepath.Join(dir, name), data, 0o600)
}

func TestSealedFilesAreWrittenOver(t *testing.T) {
	b := inMemory(t)
	w := scratch.NewWriter()
	defer func() { _ = w.Close() }()
	for i := range 4 {
		if got, want := b.saveWith(i, w.WriteFile), min(i, 1); got != want {
			t.Errorf("checkpoint %d: %d spare files, want %d", i, got, want)
		}
	}
	files, err := filepath.Glob(filepath.Join(b.dir, "vault", "run", "*", "rank-00000", "files", "*"))
	if err != nil || len(files) != 4*2 {
		t.Errorf("spare files became part of a checkpoint: %v, %v", files, err)
	}
}

// TestWhatATrainerKeepsIsNotSpare: a file of which it has another name is its own.
func TestWhatATrainerKeepsIsNotSpare(t *testing.T) {
	b := inMemory(t)
	var kept []string
	keeping := func(dir, name string, data []byte) error {
		if err := plainly(dir, name, data); err != nil {
			return err
		}
		kept = append(kept, filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(filepath.Dir(dir)))), "kept-"+name))
		return os.Link(filepath.Join(dir, name), kept[len(kept)-1])
	}
	t.Cleanup(func() {
		for _, path := range kept {
			_ = os.Remove(path)
		}
	})
	b.saveWith(0, keeping)
	if got := b.saveWith(1, plainly); got != 0 {
		t.Errorf("%d spare files, want none", got)
	}
}

// Memory is not held for a trainer that does not take it, nor for a run that is
// over.
func TestSparesAreGivenBack(t *testing.T) {
	t.Run("nobody takes them", func(t *testing.T) {
		b := inMemory(t)
		for i, want := range []int{0, 1, 0, 0} {
			if got := b.saveWith(i, plainly); got != want {
				t.Errorf("checkpoint %d: %d spare files, want %d", i, got, want)
			}
		}
	})
	t.Run("the attempt ends", func(t *testing.T) {
		b := inMemory(t)
		w := scratch.NewWriter()
		defer func() { _ = w.Close() }()
		b.saveWith(0, w.WriteFile)
		b.Observe(&commonv1.Event{RunId: "another", Body: &commonv1.Event_AttemptEnded{AttemptEnded: &commonv1.AttemptEnded{}}})
		if got := b.saveWith(1, w.WriteFile); got != 1 {
			t.Errorf("the end of another run took the spare files: %d are left", got)
		}
		b.Observe(&commonv1.Event{RunId: "run", Body: &commonv1.Event_AttemptEnded{AttemptEnded: &commonv1.AttemptEnded{}}})
		if got := b.saveWith(2, w.WriteFile); got != 0 {
			t.Errorf("%d spare files are kept of an attempt that ended", got)
		}
	})
	t.Run("the agent ends", func(t *testing.T) {
		b := open(t, t.TempDir(), durable.OS{}, func(c *vault.Config) { c.StagingDir = "" })
		stop := b.run()
		b.saveWith(0, plainly)
		_, dir, err := b.Begin(t.Context(), vault.BeginRequest{RunID: "other", CheckpointID: "c", SizeBytes: 100})
		if err != nil {
			t.Fatal(err)
		}
		stop()
		root := filepath.Dir(filepath.Dir(filepath.Dir(filepath.Dir(dir))))
		if _, err := os.Lstat(filepath.Join(root, ".spare")); !os.IsNotExist(err) {
			t.Errorf("memory is held without an agent: %v", err)
		}
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
		_ = os.Remove(root + ".vault")
	})
}
