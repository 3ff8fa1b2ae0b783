package scratch_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/scratch"
)

// place is a staging directory with spare files of these sizes beside it.
func place(t *testing.T, sizes map[string]int) (dir, spare string) {
	t.Helper()
	root := t.TempDir()
	dir, spare = filepath.Join(root, "files"), filepath.Join(root, scratch.SpareName)
	for _, d := range []string{dir, spare} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, size := range sizes {
		if err := os.WriteFile(filepath.Join(spare, name), bytes.Repeat([]byte("old "), size/4), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, spare
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, entry := range entries {
		all = append(all, entry.Name())
	}
	return strings.Join(all, " ")
}

func writer(t *testing.T) *scratch.Writer {
	t.Helper()
	w := scratch.NewWriter()
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func TestSpareIsTaken(t *testing.T) {
	const mib = 1 << 20
	for what, c := range map[string]struct {
		spares map[string]int
		size   int
		left   string
	}{
		"none":                  {nil, 2 * mib, ""},
		"smallest with room":    {map[string]int{"a": 8 * mib, "b": 3 * mib, "c": mib}, 2 * mib, "a c"},
		"largest without room":  {map[string]int{"a": 2 * mib, "b": mib}, 4 * mib, "b"},
		"small files take none": {map[string]int{"a": 2 * mib}, 1000, "a"},
		"the same size":         {map[string]int{"a": 2 * mib, "b": 4 * mib}, 4 * mib, "a"},
	} {
		t.Run(what, func(t *testing.T) {
			dir, spare := place(t, c.spares)
			data := bytes.Repeat([]byte("new weights"), c.size/11+1)[:c.size]
			if err := writer(t).WriteFile(dir, "w", data); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(dir, "w"))
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes were written and %d are there, %v", len(data), len(got), err)
			}
			if diff := cmp.Diff(c.left, names(t, spare)); diff != "" {
				t.Errorf("spare files (-want +got): %s", diff)
			}
		})
	}
}

// A writer writes one checkpoint after another into the same memory, whatever
// their sizes, and each time exactly what was to be written is there.
func TestManyCheckpoints(t *testing.T) {
	const mib = 1 << 20
	w := writer(t)
	dir, _ := place(t, nil)
	for i, size := range []int{3 * mib, 3 * mib, 2*mib + 7, 3 * mib, 4 * mib, mib, 5*mib + 1, 100, 5 * mib} {
		data := bytes.Repeat([]byte{byte('a' + i)}, size)
		for _, name := range []string{"one", "two"} {
			if err := w.WriteFile(dir, name, data); err != nil {
				t.Fatal(err)
			}
		}
		next := filepath.Join(t.TempDir(), "files")
		if err := os.Mkdir(next, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"one", "two"} {
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, data) {
				t.Errorf("checkpoint %d, %s: %d bytes are there, want %d of %c; %v", i, name, len(got), size, 'a'+i, err)
			}
		}
		// It is sealed: its files may be written over by the next one.
		if err := os.Rename(dir, filepath.Join(filepath.Dir(next), scratch.SpareName)); err != nil {
			t.Fatal(err)
		}
		dir = next
	}
}

// What was not sealed yet is never written over, and neither is what somebody
// cut meanwhile met by the process's death.
func TestOnlySparesAreWrittenOver(t *testing.T) {
	w := writer(t)
	first, _ := place(t, nil)
	old, fresh := bytes.Repeat([]byte("old"), 1<<20), bytes.Repeat([]byte("new"), 1<<20)
	if err := w.WriteFile(first, "w", old); err != nil {
		t.Fatal(err)
	}
	second, _ := place(t, nil)
	if err := w.WriteFile(second, "w", fresh); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(first, "w")); err != nil || !bytes.Equal(got, old) {
		t.Errorf("a checkpoint that is being sealed was written over: %v", err)
	}
	third, spare := place(t, nil)
	if err := os.Rename(filepath.Join(second, "w"), filepath.Join(spare, "w")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(spare, "w"), 4096); err != nil {
		t.Fatal(err)
	}
	if err := w.WriteFile(third, "w", fresh); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(third, "w")); err != nil || !bytes.Equal(got, fresh) {
		t.Errorf("after the spare file was cut: %d bytes, %v", len(got), err)
	}
}

func TestWriteFileOver(t *testing.T) {
	dir, _ := place(t, nil)
	w := writer(t)
	for _, text := range []string{strings.Repeat("long", 1<<19), "short"} {
		if err := w.WriteFile(dir, "w", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "w")); err != nil || string(got) != text {
			t.Errorf("%d bytes are there, want %d; %v", len(got), len(text), err)
		}
	}
	if err := w.WriteFile(filepath.Join(dir, "none"), "w", nil); err == nil {
		t.Error("a directory that is not there is written into")
	}
}

// A spare file whose memory is another's too, as after a link, or that is no
// file at all, is left alone or does no harm.
func TestStrangeSpares(t *testing.T) {
	dir, spare := place(t, nil)
	if err := os.Symlink("/etc/passwd", filepath.Join(spare, "link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(spare, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writer(t).WriteFile(dir, "w", bytes.Repeat([]byte("w"), 2<<20)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(filepath.Join(dir, "w")); err != nil || !info.Mode().IsRegular() || info.Size() != 2<<20 {
		t.Errorf("it is %v, %v", info, err)
	}
	if left := names(t, spare); left != "link pipe" {
		t.Errorf("spare files: %s", left)
	}
}

// TestWhatHasAnotherNameIsNotWrittenOver: it is somebody's.
func TestWhatHasAnotherNameIsNotWrittenOver(t *testing.T) {
	dir, spare := place(t, map[string]int{"a": 2 << 20})
	other := filepath.Join(filepath.Dir(dir), "somebody's")
	if err := os.Link(filepath.Join(spare, "a"), other); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := writer(t).WriteFile(dir, "w", bytes.Repeat([]byte("new "), 1<<19)); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(other); err != nil || !bytes.Equal(before, after) {
		t.Errorf("it was written over: %v", err)
	}
	if got := names(t, spare); got != "a" {
		t.Errorf("it was taken: %q is left", got)
	}
}
