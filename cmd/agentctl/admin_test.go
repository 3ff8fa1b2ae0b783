package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/envelope"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// TestAdminBackup backs the records of a configuration up and restores them
// where another one has them.
func TestAdminBackup(t *testing.T) {
	dir := t.TempDir()
	config := func(name string) (file string, where store.Config) {
		file, state := filepath.Join(dir, name+".yaml"), filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte("state_dir: "+state+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file, store.Config{Path: filepath.Join(state, "vigil.db")}
	}
	agentctl := func(args ...string) (string, int) {
		var out bytes.Buffer
		code := run(t.Context(), append([]string{"admin"}, args...), &out, &out)
		return out.String(), code
	}
	from, records := config("from")
	to, restored := config("to")
	file := filepath.Join(dir, "records.vigil")
	if out, code := agentctl("backup", "--config", from, file); code == 0 {
		t.Errorf("a control plane without records was backed up: %s", out)
	}
	s, err := store.Open(t.Context(), records, store.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() // the backup is made while it is open
	if err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.PutNode(&controlv1.Node{Name: "n1"}) }); err != nil {
		t.Fatal(err)
	}
	if out, code := agentctl("backup", "--config", from, file); code != 0 || !strings.Contains(out, "records are in "+file) {
		t.Fatalf("backup: %d: %s", code, out)
	}
	if out, code := agentctl("restore", "--config", to, "--new-bus", file); code != 0 || !strings.Contains(out, "records are restored") {
		t.Fatalf("restore: %d: %s", code, out)
	}
	if out, code := agentctl("restore", "--config", to, file); code == 0 || !strings.Contains(out, "there are records already") {
		t.Errorf("restored over records: %d: %s", code, out)
	}
	again, err := store.Open(t.Context(), restored, store.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.View(t.Context(), func(tx *store.Tx) error { _, err := tx.Node("n1"); return err }); err != nil {
		t.Error(err)
	}
}

// TestEncryptedBackups: where an outer key is configured a backup opens with that
// key alone, and its key can be encrypted with another.
func TestEncryptedBackups(t *testing.T) {
	dir := t.TempDir()
	key := func(name string) string {
		path := filepath.Join(dir, name+".key")
		if err := os.WriteFile(path, []byte(envelope.Generate()), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first, second := key("first"), key("second")
	config := func(name, state, protection string) string {
		path := filepath.Join(dir, name+".yaml")
		if err := os.WriteFile(path, []byte("state_dir: "+filepath.Join(dir, state)+"\n"+protection+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	s, err := store.Open(t.Context(), store.Config{Path: filepath.Join(dir, "from", "vigil.db")}, store.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.PutNode(&controlv1.Node{Name: "n1"}) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "records.vigil")
	for _, tc := range []struct {
		what string
		args []string
		want string // what it says; "!" before it: and fails
	}{
		{"backup", []string{"backup", "--config", config("from", "from", "protection: {key_file: "+first+"}"), file}, "records are in"},
		{"restore without a key", []string{"restore", "--config", config("none", "to0", ""), file}, "!names no outer key"},
		{"restore with another", []string{"restore", "--config", config("other", "to1", "protection: {key_file: "+second+"}"), file}, "!was encrypted with key"},
		{"restore", []string{"restore", "--config", config("same", "to2", "protection: {key_file: "+first+"}"), file}, "records are restored"},
		{"rewrap", []string{"rewrap", "--config", config("new", "to3", "protection: {key_file: "+second+", previous: [{key_file: "+first+"}]}"), file}, "1 of 1"},
		{"restore with the key before", []string{"restore", "--config", config("late", "to4", "protection: {key_file: "+first+"}"), file}, "!was encrypted with key"},
		{"restore with the key after", []string{"restore", "--config", config("last", "to5", "protection: {key_file: "+second+"}"), file}, "records are restored"},
	} {
		var out bytes.Buffer
		code := run(t.Context(), append([]string{"admin"}, tc.args...), &out, &out)
		want, fails := strings.CutPrefix(tc.want, "!")
		if (code != 0) != fails || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %d: %s", tc.what, code, out.String())
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(data)
	changed[len(data)-9] ^= 1
	for what, bad := range map[string][]byte{"changed": changed, "cut short": data[:len(data)-9]} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if code := run(t.Context(), []string{"admin", "restore", "--config", config(what, "to "+what, "protection: {key_file: "+second+"}"), file}, &out, &out); code == 0 {
			t.Errorf("a backup that was %s was restored", what)
		}
	}
}
