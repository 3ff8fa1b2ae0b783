package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func openAt(t *testing.T, path string) (*Store, error) {
	t.Helper()
	return Open(t.Context(), Config{Path: path}, Deps{Log: testkit.Logger(t)})
}

// made gives the path of a store with one run, closed again.
func made(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a dir", "it's 100%?.db")
	s, err := openAt(t, path)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Update(t.Context(), func(tx *Tx) error { return tx.PutRun(&controlv1.Run{RunId: "r"}, 1) })
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReopen(t *testing.T) {
	path := made(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, want 0600", info.Mode())
	}
	s, err := openAt(t, path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.View(t.Context(), func(tx *Tx) error { _, err := tx.Run("r"); return err }); err != nil {
		t.Errorf("after reopening: %v", err)
	}
	if err := s.View(t.Context(), func(tx *Tx) error { return tx.SetCursor("c", 1) }); err == nil {
		t.Error("a View could write")
	}
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		if err := s.writer.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", pragma, got, err, want)
		}
	}
}

// edit runs a statement on a store's file behind its back.
func edit(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(path, "immediate", "synchronous(FULL)"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	steps, err := migrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	newest := len(steps)
	write := func(content string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name  string
		spoil func(t *testing.T, path string)
		kind  fault.Kind
		text  string
	}{
		{"newer version", func(t *testing.T, path string) {
			edit(t, path, "INSERT INTO schema_version VALUES (77, 'future', 0)")
		}, fault.Precondition, fmt.Sprintf("version 77 and this program knows versions up to %d", newest)},
		{"another program's database", func(t *testing.T, path string) {
			edit(t, path, "PRAGMA application_id = 1")
		}, fault.Corrupt, "another program's"},
		{"not a database", write(strings.Repeat("these are not the records that you look for. ", 400)), fault.Corrupt, "not a database"},
		{"torn", func(t *testing.T, path string) {
			if err := os.Truncate(path, 9000); err != nil {
				t.Fatal(err)
			}
		}, fault.Corrupt, ""},
		{"scribbled over", func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for i := 4096; i < len(data); i++ {
				data[i] = 0x5a
			}
			write(string(data))(t, path)
		}, fault.Corrupt, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := made(t)
			test.spoil(t, path)
			before, _ := os.ReadFile(path)
			s, err := openAt(t, path)
			if err == nil {
				_ = s.Close()
				t.Fatal("it opened")
			}
			if fault.KindOf(err) != test.kind || !strings.Contains(err.Error(), test.text) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %q of kind %v, want kind %v and %q", err, fault.KindOf(err), test.kind, test.text)
			}
			if fault.HintOf(err) == "" {
				t.Errorf("%q has no hint", err)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("the file was changed")
			}
		})
	}
}

func TestMigrateSteps(t *testing.T) {
	path := made(t)
	db, err := sql.Open("sqlite", dsn(path, "immediate", "synchronous(FULL)"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	steps, err := migrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	now := int64(len(steps))
	bad := append(steps, migration{now + 1, "bad", "CREATE TABLE half (a TEXT); SELECT nothing FROM nowhere;"})
	if _, _, err := migrateWith(context.Background(), db, sqliteEngine{path}, bad); err == nil {
		t.Fatal("a bad step was applied")
	}
	good := append(steps, migration{now + 1, "good", "CREATE TABLE half (a TEXT);"}) // not there from the bad one
	for _, want := range []int64{now, now + 1} {
		from, to, err := migrateWith(context.Background(), db, sqliteEngine{path}, good)
		if err != nil || from != want || to != now+1 {
			t.Fatalf("from %d to %d (%v), want from %d to %d", from, to, err, want, now+1)
		}
	}
}

// TestNarrowRows: what was in the tables that a migration makes anew is there
// afterwards.
func TestNarrowRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vigil.db")
	db, err := sql.Open("sqlite", dsn(path, "immediate", "synchronous(FULL)"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	steps, err := migrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := migrateWith(t.Context(), db, sqliteEngine{path}, steps[:13]); err != nil {
		t.Fatal(err)
	}
	edit(t, path, `INSERT INTO timeline (incident_id, position, body) VALUES ('i', 1, x'12016f'), ('i', 2, x'120174');
		INSERT INTO alert_groups (group_id, route, receiver, labels, due, looked, told) VALUES ('g', '{}', 'a', '{}', 1, 2, 3);
		INSERT INTO alert_members (group_id, incident_id, told, told_severity) VALUES ('g', 'i', 1, 2), ('g', 'j', 0, 0);
		INSERT INTO incidents (incident_id, run_id, attempt, onset_step, finding_count, state, opened, resolved, body)
		VALUES ('i', 'r', 0, 0, 1, 1, 5, 0, x''), ('j', 'r', 0, 0, 1, 3, 5, 9, x'')`)
	s, err := openAt(t, path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.View(t.Context(), func(tx *Tx) error {
		i, err := tx.Incident("i")
		if len(i.GetTimeline()) != 2 || i.GetTimeline()[1].GetAction() != "t" {
			t.Errorf("the timeline is %v", i.GetTimeline())
		}
		members, errMembers := tx.AlertMembers("g")
		if want := []AlertMember{{"i", 1, 2}, {"j", 0, 0}}; !slices.Equal(members, want) {
			t.Errorf("the members are %v, want %v", members, want)
		}
		groups, errGroups := tx.GroupsOf("j")
		open, errOpen := tx.AllOpen(0)
		if len(groups) != 1 || len(open) != 1 {
			t.Errorf("there are %d groups and %d open incidents, want one each", len(groups), len(open))
		}
		return errors.Join(err, errMembers, errGroups, errOpen)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestMigrationNumbers(t *testing.T) {
	for _, names := range [][]string{{"0002_a.sql"}, {"0001_a.sql", "0003_b.sql"}, {"0001_a.sql", "0001_b.sql"}, {"first.sql"}} {
		files := fstest.MapFS{}
		for _, name := range names {
			files["migrations/"+name] = &fstest.MapFile{}
		}
		if _, err := migrations(files); err == nil {
			t.Errorf("%v: no error", names)
		}
	}
}
