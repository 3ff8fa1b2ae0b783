package envelope_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tink-crypto/tink-go/v2/aead"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit/faultfs"
)

// keysIn is a file of keys in a directory, opened with the keys of these numbers:
// the first encrypts.
func keysIn(t testing.TB, dir string, numbers ...byte) envelope.File {
	t.Helper()
	f := envelope.File{
		FS: durable.OS{}, Path: filepath.Join(dir, "keyring"), Template: aead.AES256GCMKeyTemplate(), Clock: time.Now,
		Keys: envelope.Keys{Current: local(t, numbers[0])},
	}
	for _, n := range numbers[1:] {
		f.Keys.Previous = append(f.Keys.Previous, local(t, n))
	}
	return f
}

func opened(t testing.TB, f envelope.File) *envelope.Set {
	t.Helper()
	set, err := f.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func sealed(t testing.TB, set *envelope.Set, text string) []byte {
	t.Helper()
	primitive, err := aead.New(set.Handle)
	if err != nil {
		t.Fatal(err)
	}
	out, err := primitive.Encrypt([]byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func opens(t testing.TB, set *envelope.Set, what []byte) bool {
	t.Helper()
	primitive, err := aead.New(set.Handle)
	if err != nil {
		t.Fatal(err)
	}
	_, err = primitive.Decrypt(what, nil)
	return err == nil
}

func TestFileIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			f := keysIn(t, dir, 1)
			f.Clock = func() time.Time { return time.Unix(1, int64(i)) }
			set, err := f.Open(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = set.Primary()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("programs that begin together have the keys %v", ids)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "keyring")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v", info.Mode(), err)
	}
}

func TestAddAndRewrap(t *testing.T) {
	dir := t.TempDir()
	first := opened(t, keysIn(t, dir, 1))
	old := sealed(t, first, "old")
	added, err := keysIn(t, dir, 1).Add(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if added.Primary() == first.Primary() || added.Handle.Len() != 2 || !opens(t, added, old) {
		t.Fatalf("after a new key: key %s of %d, before %s", added.Primary(), added.Handle.Len(), first.Primary())
	}
	// The new KEK with the old one beside it opens, and is taken up when asked.
	both := keysIn(t, dir, 2, 1)
	if set := opened(t, both); set.KEK != local(t, 1).ID {
		t.Errorf("it was encrypted with %s before anybody asked", set.KEK)
	}
	for _, want := range []bool{true, false} {
		set, changed, err := both.Rewrap(t.Context())
		if err != nil || changed != want || set.KEK != local(t, 2).ID || set.Primary() != added.Primary() {
			t.Fatalf("rewrapped %v, want %v: %+v, %v", changed, want, set, err)
		}
	}
	if _, err := keysIn(t, dir, 1).Open(t.Context()); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), local(t, 2).ID) {
		t.Errorf("the old KEK still opens it, or is not told which one does: %v", err)
	}
	if set := opened(t, keysIn(t, dir, 2)); !opens(t, set, old) {
		t.Error("what was encrypted before does not open any more")
	}
}

// Many add keys and replace the KEK at once: none of the keys is lost.
func TestNoKeyIsLost(t *testing.T) {
	dir := t.TempDir()
	opened(t, keysIn(t, dir, 1))
	var mu sync.Mutex
	var all [][]byte
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			f := keysIn(t, dir, 2, 1)
			set, err := f.Add(t.Context())
			if err == nil && i%2 == 0 {
				_, _, err = f.Rewrap(t.Context())
			}
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, sealed(t, set, "x"))
		})
	}
	wg.Wait()
	set := opened(t, keysIn(t, dir, 2))
	for i, one := range all {
		if !opens(t, set, one) {
			t.Errorf("key %d of %d is lost", i, len(all))
		}
	}
	if set.Handle.Len() != 7 {
		t.Errorf("%d keys, want 7", set.Handle.Len())
	}
}

// A write that fails at any point leaves the old keys or the new.
func TestRewrapThatBreaksOff(t *testing.T) {
	for _, op := range []faultfs.Op{faultfs.Open, faultfs.Write, faultfs.Sync, faultfs.Rename} {
		dir := t.TempDir()
		before := opened(t, keysIn(t, dir, 1))
		f := keysIn(t, dir, 2, 1)
		broken := faultfs.New()
		broken.FailWith(func(at faultfs.Op, _ string) error {
			if at == op {
				return context.DeadlineExceeded
			}
			return nil
		})
		f.FS = broken
		if _, _, err := f.Rewrap(t.Context()); err == nil {
			t.Errorf("%v fails and nobody is told", op)
		}
		f.FS = durable.OS{}
		if set := opened(t, f); set.KEK != local(t, 1).ID || set.Primary() != before.Primary() {
			t.Errorf("%v fails: %+v", op, set)
		}
		if _, changed, err := f.Rewrap(t.Context()); err != nil || !changed {
			t.Errorf("%v failed, and the next try: %v, %v", op, changed, err)
		}
	}
}

func TestMerge(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	opened(t, keysIn(t, one, 1))
	read := func(dir string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, "keyring"))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if err := os.WriteFile(filepath.Join(two, "keyring"), read(one), 0o600); err != nil {
		t.Fatal(err)
	}
	merge := func(into, from string, lacking bool) *envelope.Set {
		t.Helper()
		set, got, err := keysIn(t, into, 1).Merge(t.Context(), read(from))
		if err != nil || got != lacking {
			t.Fatalf("the other copy lacks something: %v, want %v; %v", got, lacking, err)
		}
		return set
	}
	merge(one, two, false)
	added, err := keysIn(t, one, 1).Add(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The copy that is behind is told of, and does not take the new key's place.
	if set := merge(one, two, true); set.Primary() != added.Primary() {
		t.Errorf("new data gets key %s, want %s", set.Primary(), added.Primary())
	}
	other, err := keysIn(t, two, 1).Add(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ofBoth := [][]byte{sealed(t, added, "a"), sealed(t, other, "b")}
	merge(one, two, true)
	merge(two, one, false)
	a, b := opened(t, keysIn(t, one, 1)), opened(t, keysIn(t, two, 1))
	for _, set := range []*envelope.Set{a, b} {
		if set.Handle.Len() != 3 || !opens(t, set, ofBoth[0]) || !opens(t, set, ofBoth[1]) {
			t.Errorf("after both took the other's key in: %d keys", set.Handle.Len())
		}
	}
	if a.Primary() != b.Primary() || a.Primary() != other.Primary() {
		t.Errorf("new data gets %s here and %s there, want %s", a.Primary(), b.Primary(), other.Primary())
	}
}

func TestDamagedFile(t *testing.T) {
	dir := t.TempDir()
	f := keysIn(t, dir, 1)
	opened(t, f)
	good, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(string) string{
		"cut short":      func(s string) string { return s[:len(s)/2] },
		"another format": func(s string) string { return strings.Replace(s, "vigil-keyring", "vigil-teapot", 1) },
		"a changed keyset": func(s string) string {
			return strings.Replace(s, `"encryptedKeyset": "`, `"encryptedKeyset": "AAAA`, 1)
		},
		"a later version":   func(s string) string { return strings.Replace(s, `"version": 1`, `"version": 2`, 1) },
		"nothing, in a way": func(string) string { return "{}" },
	} {
		bad := change(string(good))
		if bad == string(good) {
			t.Fatalf("%s changes nothing: %s", what, good)
		}
		if err := os.WriteFile(f.Path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Open(t.Context()); err == nil || !strings.Contains(err.Error(), f.Path) {
			t.Errorf("%s: %v, want an error that names the file", what, err)
		}
	}
}

func TestUsesAreTold(t *testing.T) {
	f := keysIn(t, t.TempDir(), 2, 1)
	var told []string
	f.Used = func(_ context.Context, u envelope.Use) {
		if u.KEK == "" || u.Key == "" || u.Path != f.Path {
			t.Errorf("%+v", u)
		}
		told = append(told, u.What)
	}
	opened(t, f)
	if _, err := f.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"make", "open", "open", "add"}, told); diff != "" {
		t.Error(diff)
	}
}
