package seal

import (
	"bytes"
	"encoding/base64"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func testKEK(t testing.TB, n byte) KEK {
	t.Helper()
	kek, err := NewKEK(bytes.Repeat([]byte{n}, kekBytes), "test")
	if err != nil {
		t.Fatal(err)
	}
	return kek
}

func TestKeyringIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyring")
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			ring, err := OpenKeyring(durable.OS{}, path, testKEK(t, 1), now.Add(time.Duration(i)))
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = ring.ID()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("nodes that begin together have the keys %v", ids)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the keyring's mode is %v, %v", info.Mode(), err)
	}
}

func TestRotateAndRewrap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyring")
	ring, err := OpenKeyring(durable.OS{}, path, testKEK(t, 1), now)
	if err != nil {
		t.Fatal(err)
	}
	old, oldEncoded := encode(t, Codec{Keys: ring}, weights(1000), "n")
	rotated, err := Rotate(durable.OS{}, path, testKEK(t, 1), now)
	if err != nil {
		t.Fatal(err)
	}
	if rotated.ID() == ring.ID() || rotated.Size() != 2 || !rotated.Has(ring.ID()) {
		t.Fatalf("after a rotation: key %s of %d, before %s", rotated.ID(), rotated.Size(), ring.ID())
	}
	if err := Rewrap(durable.OS{}, path, testKEK(t, 1), testKEK(t, 2), now); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeyring(durable.OS{}, path, testKEK(t, 1), now); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), testKEK(t, 2).ID) {
		t.Errorf("the old KEK still opens it, or is not told which one does: %v", err)
	}
	again, err := OpenKeyring(durable.OS{}, path, testKEK(t, 2), now)
	if err != nil {
		t.Fatal(err)
	}
	fresh, freshEncoded := encode(t, Codec{Keys: again}, weights(1000), "n")
	if freshEncoded.KeyID != rotated.ID() {
		t.Errorf("new files have key %s, want %s", freshEncoded.KeyID, rotated.ID())
	}
	for _, f := range []struct {
		data []byte
		e    Encoded
	}{{old, oldEncoded}, {fresh, freshEncoded}} {
		if err := (Codec{Keys: again}).Decode(t.Context(), io.Discard, bytes.NewReader(f.data), f.e, "n"); err != nil {
			t.Errorf("a file of key %s: %v", f.e.KeyID, err)
		}
	}
}

func TestDamagedKeyring(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyring")
	if _, err := OpenKeyring(durable.OS{}, path, testKEK(t, 1), now); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
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
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenKeyring(durable.OS{}, path, testKEK(t, 1), now); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an error that names the file", what, err)
		}
	}
}

func TestKEKs(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	generated := GenerateKEK()
	kek, err := KEKOfFile(write("good", generated, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	ofEnv, err := KEKOfEnv("K", func(string) string { return strings.TrimSpace(generated) })
	if err != nil || ofEnv.ID != kek.ID {
		t.Errorf("one key has the ids %s and %s, %v", kek.ID, ofEnv.ID, err)
	}
	secret := "c2VjcmV0c2VjcmV0"
	for what, c := range map[string]struct {
		path string
		kind fault.Kind
	}{
		"readable by others": {write("open", generated, 0o644), fault.Denied},
		"too short":          {write("short", secret, 0o600), fault.Invalid},
		"not base64":         {write("text", secret+"!", 0o600), fault.Invalid},
	} {
		_, err := KEKOfFile(c.path)
		if !fault.Is(err, c.kind) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := KEKOfEnv("K", func(string) string { return "" }); !fault.Is(err, fault.NotFound) {
		t.Errorf("no variable: %v", err)
	}
	if _, err := KEKOfFile(filepath.Join(dir, "none")); err == nil {
		t.Error("a key file that is not there is taken")
	}
	if raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(generated)); err != nil || len(raw) != kekBytes || GenerateKEK() == generated {
		t.Errorf("generated %q", generated)
	}
}
