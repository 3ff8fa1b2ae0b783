package vault

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/vigil-ml/vigil/internal/scratch"
)

// TestSparesAreTakenFromWithin: whatever a name leads to since it was looked at,
// nothing from elsewhere is moved, and no file that is not its owner's is kept.
func TestSparesAreTakenFromWithin(t *testing.T) {
	content := bytes.Repeat([]byte("x"), scratch.SpareLeast)
	for name, change := range map[string]func(s *staging, elsewhere string) error{
		"nothing changes": func(*staging, string) error { return nil },
		"a link in the place of a directory": func(s *staging, elsewhere string) error {
			_ = os.Rename(filepath.Join(s.filesDir(), "d"), filepath.Join(s.filesDir(), "e"))
			return os.Symlink(elsewhere, filepath.Join(s.filesDir(), "d"))
		},
		"a link that climbs": func(s *staging, elsewhere string) error {
			_ = os.Rename(filepath.Join(s.filesDir(), "d"), filepath.Join(s.filesDir(), "e"))
			return os.Symlink("../../elsewhere", filepath.Join(s.filesDir(), "d"))
		},
		"a link in the place of the file": func(s *staging, elsewhere string) error {
			_ = os.Remove(filepath.Join(s.filesDir(), "d/w"))
			return os.Symlink(filepath.Join(elsewhere, "w"), filepath.Join(s.filesDir(), "d/w"))
		},
		"another's file in its place": func(s *staging, elsewhere string) error {
			_ = os.Remove(filepath.Join(s.filesDir(), "d/w"))
			return os.Link(filepath.Join(elsewhere, "w"), filepath.Join(s.filesDir(), "d/w"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			owner := os.Getuid()
			s := &staging{dir: filepath.Join(home, "rank"), ticket: ticket{Owner: &owner}}
			elsewhere := filepath.Join(home, "elsewhere")
			for _, dir := range []string{filepath.Join(s.filesDir(), "d"), filepath.Join(s.dir, takenName), elsewhere} {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for _, file := range []string{filepath.Join(s.filesDir(), "d/w"), filepath.Join(elsewhere, "w")} {
				if err := os.WriteFile(file, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			files, _, err := s.list()
			if err != nil || len(files) != 1 {
				t.Fatalf("%v, %v", files, err)
			}
			if err := change(s, elsewhere); err != nil {
				t.Fatal(err)
			}
			got := s.takeSpares(files)
			left, err := os.ReadDir(filepath.Join(s.dir, takenName))
			if err != nil {
				t.Fatal(err)
			}
			if untouched := name == "nothing changes"; untouched != (got == scratch.SpareLeast) || untouched != (len(left) == 1) {
				t.Errorf("%d bytes in %d files were taken", got, len(left))
			}
			if now, err := os.ReadFile(filepath.Join(elsewhere, "w")); err != nil || !bytes.Equal(now, content) {
				t.Errorf("what lies elsewhere is not there any more: %v", err)
			}
		})
	}
	t.Run("a file of another user", func(t *testing.T) {
		owner := os.Getuid() + 1
		s := &staging{dir: t.TempDir(), ticket: ticket{Owner: &owner}}
		if err := os.MkdirAll(s.filesDir(), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.filesDir(), "w"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if files, _, err := s.list(); err == nil {
			t.Errorf("it is taken: %v", files)
		}
	})
}
