package vault_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func TestCommitRefusesWhatIsNoFile(t *testing.T) {
	for name, plant := range map[string]func(dir string) error{
		"link":             func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "planted")) },
		"link to a folder": func(dir string) error { return os.Symlink("/etc", filepath.Join(dir, "planted")) },
		"hanging link":     func(dir string) error { return os.Symlink("nowhere", filepath.Join(dir, "planted")) },
		"pipe":             func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "planted"), 0o600) },
		"deep link": func(dir string) error {
			return errors.Join(os.MkdirAll(filepath.Join(dir, "a/b"), 0o700), os.Symlink("/etc/passwd", filepath.Join(dir, "a/b/planted")))
		},
		"socket": func(dir string) error {
			t.Chdir(dir) // a socket's path must be short
			l, err := net.Listen("unix", "planted")
			if err == nil {
				l.(*net.UnixListener).SetUnlinkOnClose(false)
				err = l.Close()
			}
			return err
		},
		"link in the place of the directory": func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.Symlink("/etc", dir))
		},
		"nothing":           func(dir string) error { return os.Remove(filepath.Join(dir, "good")) },
		"control character": func(dir string) error { return os.WriteFile(filepath.Join(dir, "a\nb"), nil, 0o600) },
		"not UTF-8":         func(dir string) error { return os.WriteFile(filepath.Join(dir, "a\xffb"), nil, 0o600) },
		"too deep": func(dir string) error {
			deep := filepath.Join(dir, strings.Repeat("d/", 20))
			return errors.Join(os.MkdirAll(deep, 0o700), os.WriteFile(filepath.Join(deep, "f"), nil, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, t.TempDir(), durable.OS{})
			_, dir, err := b.Begin(t.Context(), vault.BeginRequest{RunID: "run", CheckpointID: "ck"})
			if err != nil {
				t.Fatal(err)
			}
			writeFiles(t, dir, map[string]string{"good": "content"})
			if err := plant(dir); err != nil {
				t.Skipf("cannot plant it here: %v", err)
			}
			err = b.Commit(t.Context(), vault.CommitRequest{RunID: "run", CheckpointID: "ck", Metadata: healthy("ck", 1).metadata()})
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("commit = %v; want it refused", err)
			}
			if got := b.states("ck"); got != "" {
				t.Errorf("states: %s", got)
			}
		})
	}
}

// What is planted after the commit is refused by sealing, told, and cannot be
// tried again.
func TestSealRefusesWhatWasPlantedLater(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, durable.OS{}, func(c *vault.Config) { c.Retries = 5 })
	b.mustSave(healthy("ck", 1))
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "staging/run/ck/rank-00000/files/planted")); err != nil {
		t.Fatal(err)
	}
	b.run()
	b.wait("ck", "FAILED")
	if text := b.last("ck").GetCheckpoint().Error; !strings.Contains(text, `"planted" is no regular file`) {
		t.Errorf("reason: %q", text)
	}
	b.resolve(0, 1)
	if _, err := os.Stat(filepath.Join(dir, "staging/run")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the staging directory is still there: %v", err)
	}
}

func TestNamesThatAreRefused(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{})
	long := strings.Repeat("x", 129)
	for _, id := range []string{"..", ".", "../x", "a/b", `a\b`, "a b", ".hidden", "a\x00", "é", long, "latest", "a.partial-0", "-a"} {
		if _, dir, err := b.Begin(t.Context(), vault.BeginRequest{RunID: "run", CheckpointID: id}); !fault.Is(err, fault.Invalid) {
			t.Errorf("checkpoint id %q: %s, %v", id, dir, err)
		}
		if err := b.Commit(t.Context(), vault.CommitRequest{RunID: "run", CheckpointID: id}); err == nil {
			t.Errorf("commit of checkpoint id %q was taken", id)
		}
	}
	for _, id := range []string{"", "..", ".", "../x", "a/b", "a b", ".staging", "a\n", long} {
		if _, dir, err := b.Begin(t.Context(), vault.BeginRequest{RunID: id}); !fault.Is(err, fault.Invalid) {
			t.Errorf("run id %q: %s, %v", id, dir, err)
		}
	}
	for _, id := range []string{"a", "run.1", "A_b-C.9", strings.Repeat("x", 128), "a..b"} {
		if _, _, err := b.Begin(t.Context(), vault.BeginRequest{RunID: id}); err != nil {
			t.Errorf("run id %q: %v", id, err)
		}
	}
	if _, _, err := b.Begin(t.Context(), vault.BeginRequest{RunID: "run", SizeBytes: -1}); !fault.Is(err, fault.Invalid) {
		t.Errorf("negative size: %v", err)
	}
}

func TestMetadataThatIsRefused(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{})
	_, dir, err := b.Begin(t.Context(), vault.BeginRequest{RunID: "run", CheckpointID: "ck"})
	if err != nil {
		t.Fatal(err)
	}
	writeFiles(t, dir, map[string]string{"f": "x"})
	good := healthy("ck", 1).metadata()
	changed := func(change func(*commonv1.CheckpointMetadata)) *commonv1.CheckpointMetadata {
		m := proto.CloneOf(good)
		change(m)
		return m
	}
	for name, m := range map[string]*commonv1.CheckpointMetadata{
		"metadata is missing":   nil,
		"world_size":            changed(func(m *commonv1.CheckpointMetadata) { m.WorldSize = 0 }),
		"rank is 1":             changed(func(m *commonv1.CheckpointMetadata) { m.Rank, m.WorldSize = 1, 2 }),
		"step":                  changed(func(m *commonv1.CheckpointMetadata) { m.Step = -1 }),
		"data_position":         changed(func(m *commonv1.CheckpointMetadata) { m.DataPosition = -1 }),
		"nonfinite_parameters":  changed(func(m *commonv1.CheckpointMetadata) { m.NonfiniteParameters = proto.Int64(-1) }),
		"format has 1000 bytes": changed(func(m *commonv1.CheckpointMetadata) { m.Format = strings.Repeat("x", 1000) }),
	} {
		err := b.Commit(t.Context(), vault.CommitRequest{RunID: "run", CheckpointID: "ck", Metadata: m})
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := b.Commit(t.Context(), vault.CommitRequest{RunID: "run", CheckpointID: "ck", Metadata: good}); err != nil {
		t.Errorf("good metadata after all the bad: %v", err)
	}
}

func FuzzDecodeManifest(f *testing.F) {
	const digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	f.Add([]byte(`{"format":"vigil-checkpoint","version":2,"run_id":"r","checkpoint_id":"c","world_size":1,"health":"unknown",` +
		`"files":[{"name":"a","size_bytes":0,"stored_bytes":0,"blake3":"` + digest + `"}]}`))
	f.Add([]byte(`{"format":"vigil-checkpoint","version":2,"run_id":"r","checkpoint_id":"c","world_size":1,"health":"unknown",` +
		`"files":[{"name":"../a","size_bytes":0,"stored_bytes":0,"blake3":"` + digest + `"}]}`))
	f.Add([]byte(`{"format":"vigil-checkpoint","version":2,"run_id":"r","checkpoint_id":"c","world_size":1,"health":"healthy","nonfinite_parameters":0,` +
		`"size_bytes":-1,"files":[{"name":"a","size_bytes":9223372036854775807,"stored_bytes":0,"blake3":"` + digest + `"},{"name":"b","size_bytes":9223372036854775807,"sha256":"` + digest + `"}]}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := vault.DecodeManifest(data)
		if err != nil {
			if !fault.Is(err, fault.Corrupt) && !fault.Is(err, fault.Unsupported) {
				t.Errorf("error of kind %s: %v", fault.KindOf(err), err)
			}
			return
		}
		if m.Rank >= m.WorldSize || m.SizeBytes < 0 || len(m.Files) == 0 {
			t.Errorf("accepted %+v", m)
		}
		for _, file := range m.Files {
			if joined := filepath.Join("/base", file.Name); !strings.HasPrefix(joined, "/base/") || joined == "/base/" {
				t.Errorf("accepted file name %q", file.Name)
			}
		}
	})
}
