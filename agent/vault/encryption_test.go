package vault_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/faultfs"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// encrypted configures a vault with a key of the test's own.
func encrypted(t testing.TB) func(*vault.Config) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(envelope.Generate()), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(c *vault.Config) { c.Encryption.KeyFile, c.Compress = path, true }
}

// sealedIn gives everything that lies in a vault's directory, by path.
func sealedIn(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		found[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestEncryptedRoundTrip(t *testing.T) {
	with := encrypted(t)
	b := open(t, t.TempDir(), durable.OS{}, with)
	b.run()
	first, second := healthy("first", 1), healthy("second", 2)
	b.mustSave(first)
	b.wait("first", "VERIFIED")
	for path, content := range sealedIn(t, filepath.Join(b.dir, "vault")) {
		for name, plain := range first.files {
			if strings.Contains(content, plain) || strings.Contains(content, "wwwwwwwwww") {
				t.Errorf("%s can be read in %s", name, path)
			}
		}
	}
	ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", Rank: 0, WorldSize: 1})
	if err != nil || ref.GetCheckpointId() != "first" {
		t.Fatalf("resolved %v, %v", ref, err)
	}
	if diff := cmp.Diff(first.files, readFiles(t, ref.Directory)); diff != "" {
		t.Error(diff)
	}
	if strings.HasPrefix(ref.Directory, filepath.Join(b.dir, "vault")) {
		t.Errorf("restored into the vault itself, at %s", ref.Directory)
	}
	b.mustSave(second)
	testkit.Eventually(t, "restored files to go once the rank has saved again", func() bool {
		_, err := os.Lstat(filepath.Dir(filepath.Dir(ref.Directory)))
		return os.IsNotExist(err)
	})
}

// TestEncryptedMatchesItsManifest reads what the page about the format promises.
func TestEncryptedMatchesItsManifest(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{}, encrypted(t))
	b.run()
	b.mustSave(healthy("c", 1))
	b.wait("c", "VERIFIED")
	rankDir := filepath.Join(b.dir, "vault", "run", "c", "rank-00000")
	data, err := os.ReadFile(filepath.Join(rankDir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := vault.DecodeManifest(data)
	if err != nil {
		t.Fatal(err)
	}
	var keyring struct {
		Format string `json:"format"`
		Keyset struct {
			KeysetInfo struct {
				PrimaryKeyID uint32 `json:"primaryKeyId"`
			} `json:"keysetInfo"`
		} `json:"keyset"`
	}
	text, err := os.ReadFile(filepath.Join(b.dir, "vault", ".keyring.json"))
	if err != nil || json.Unmarshal(text, &keyring) != nil || keyring.Format != "vigil-keyring" {
		t.Fatalf("keyring %s, %v", text, err)
	}
	if m.KeyID == "" || m.KeyID != strconv.FormatUint(uint64(keyring.Keyset.KeysetInfo.PrimaryKeyID), 16) {
		t.Errorf("key id %q, the keyring's first key is %x", m.KeyID, keyring.Keyset.KeysetInfo.PrimaryKeyID)
	}
	for _, f := range m.Files {
		info, err := os.Stat(filepath.Join(rankDir, "files", f.Name))
		if err != nil || info.Size() != f.StoredBytes || f.StoredBytes == f.SizeBytes {
			t.Errorf("%+v lies there with %v, %v", f, info, err)
		}
		if small := f.Name == "weights.bin"; (f.Compression == "zstd") != small {
			t.Errorf("%s has compression %q", f.Name, f.Compression)
		}
	}
}

func TestEncryptedIsPassedOver(t *testing.T) {
	with := encrypted(t)
	dir := t.TempDir()
	before := open(t, dir, durable.OS{})
	stop := before.run()
	before.mustSave(healthy("clear", 1))
	before.wait("clear", "VERIFIED")
	stop()
	sealing := open(t, dir, durable.OS{}, with)
	stop = sealing.run()
	sealing.mustSave(healthy("old", 2), healthy("new", 3))
	sealing.wait("new", "VERIFIED")
	stop()

	withoutKey := open(t, dir, durable.OS{})
	withoutKey.run()
	if id, passed := withoutKey.resolve(0, 1); id != "clear" || len(passed) != 2 || !strings.Contains(passed[0], "encrypted with key") {
		t.Errorf("without the key: %q, passed over %v", id, passed)
	}
	// A file of another checkpoint, with its manifest's entry: the encryption tells.
	for _, name := range []string{"manifest.json", "files/weights.bin", "files/optimizer/state", "verified.json"} {
		data, err := os.ReadFile(filepath.Join(dir, "vault", "run", "old", "rank-00000", name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "manifest.json" {
			data = bytes.ReplaceAll(data, []byte(`"checkpoint_id": "old"`), []byte(`"checkpoint_id": "new"`))
			data = bytes.ReplaceAll(data, []byte(`"step": 2`), []byte(`"step": 3`))
		}
		edit(t, filepath.Join(dir, "vault", "run", "new", "rank-00000", name), func([]byte) []byte { return data })
	}
	remark(t, filepath.Join(dir, "vault", "run", "new", "rank-00000"))
	withKey := open(t, dir, durable.OS{}, with)
	withKey.run()
	id, passed := withKey.resolve(0, 1)
	if id != "old" || len(passed) != 1 || !strings.Contains(passed[0], "new: file") {
		t.Errorf("a checkpoint put together from another: resolved %q, passed over %v", id, passed)
	}
}

// depsFor is what a vault needs that nobody listens to.
func depsFor(t testing.TB) vault.Deps {
	return vault.Deps{
		Log: testkit.Logger(t), Metrics: prometheus.NewRegistry(), FS: durable.OS{}, Clock: time.Now, Node: "n1",
		Tracer: noop.NewTracerProvider().Tracer(""),
		Events: func(context.Context, string, ...*commonv1.Event) error { return nil },
	}
}

// remark writes the mark of a manifest that was changed, as a forger would.
func remark(t *testing.T, rankDir string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(rankDir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	edit(t, filepath.Join(rankDir, "verified.json"), func([]byte) []byte {
		return []byte(`{"manifest_sha256":"` + hex.EncodeToString(sum[:]) + `","verified":"2026-01-01T00:00:00Z"}`)
	})
}

func TestKeyMistakesStopTheStart(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, durable.OS{}, encrypted(t))
	config := vault.Defaults(filepath.Join(dir, "vault"))
	config.StagingDir = filepath.Join(dir, "staging")
	encrypted(t)(&config)
	_, err := vault.New(config, depsFor(t))
	if err == nil || !strings.Contains(err.Error(), ".keyring.json was encrypted with key") {
		t.Errorf("with another key: %v", err)
	}
	config.Encryption.KeyFile += ".gone"
	if _, err := vault.New(config, depsFor(t)); err == nil || !strings.Contains(err.Error(), config.Encryption.KeyFile) {
		t.Errorf("without the key file: %v", err)
	}
}

// TestRestoreFails has the restore meet a full disk: nothing half is handed out,
// and the next try succeeds.
func TestRestoreFails(t *testing.T) {
	fsys := faultfs.New()
	b := open(t, t.TempDir(), fsys, encrypted(t))
	b.run()
	c := healthy("c", 1)
	b.mustSave(c)
	b.wait("c", "VERIFIED")
	testkit.Eventually(t, "queue to be empty", func() bool { return b.Saved("run", "c") })
	full := true
	fsys.FailWith(func(op faultfs.Op, path string) error {
		if full && strings.Contains(path, ".restore") && op == faultfs.Write {
			return syscall.ENOSPC
		}
		return nil
	})
	if id, passed := b.resolve(0, 1); id != "" || len(passed) != 1 || !strings.Contains(passed[0], "no space") {
		t.Errorf("with a full disk: %q, %v", id, passed)
	}
	if left, _ := filepath.Glob(filepath.Join(b.dir, "staging", ".restore", "run", "rank-00000", "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	full = false
	ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", Rank: 0, WorldSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c.files, readFiles(t, ref.Directory)); diff != "" {
		t.Error(diff)
	}
	// The run ends there: a later start sweeps what it resumed from.
	old := time.Now().Add(-24 * time.Hour)
	if err := os.Chtimes(ref.Directory, old, old); err != nil {
		t.Fatal(err)
	}
	open(t, b.dir, durable.OS{})
	if _, err := os.Lstat(ref.Directory); !os.IsNotExist(err) {
		t.Errorf("restored files of a run that is over stay: %v", err)
	}
}
