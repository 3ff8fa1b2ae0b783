package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/store"
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
