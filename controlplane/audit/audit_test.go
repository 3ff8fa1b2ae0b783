package audit

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a log on a store of its own.
type bench struct {
	*testing.T
	dir   string
	store *store.Store
	log   *Log
	now   time.Time
}

func open(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, dir: t.TempDir(), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	var err error
	if b.store, err = store.Open(t.Context(), storeAt(b.db()), store.Deps{Log: testkit.Logger(t)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.store.Close() })
	b.reopen()
	return b
}

func (b *bench) db() string { return filepath.Join(b.dir, "vigil.db") }

func (b *bench) reopen() {
	b.Helper()
	config := Defaults(filepath.Join(b.dir, "audit"))
	config.Copies = []string{filepath.Join(b.dir, "copy")}
	var err error
	b.log, err = Open(b.Context(), config, Deps{
		Store: b.store, Log: testkit.Logger(b), Metrics: prometheus.NewRegistry(), Clock: func() time.Time { return b.now },
	})
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) write(n int) {
	b.Helper()
	for i := range n {
		if err := b.log.Write(b.Context(), act(fmt.Sprint("u", i%2), fmt.Sprint("inc-", i))); err != nil {
			b.Fatal(err)
		}
	}
}

func act(user, incident string) trail.Record {
	return trail.Record{
		Class: trail.Act, Actor: trail.Actor{Kind: "user", ID: user}, Action: "IncidentService/ResolveIncident",
		Object: map[string]string{"incident_id": incident}, Outcome: "ok",
	}
}

// verify exports the log and checks it.
func (b *bench) verify(options trail.Options) trail.Report {
	b.Helper()
	var out bytes.Buffer
	err := b.log.Export(b.Context(), func(text []byte) error { _, err := out.Write(text); return err })
	if err != nil {
		b.Fatal(err)
	}
	options.Key = b.log.PublicKey()
	report, err := trail.Verify(&out, options)
	if err != nil {
		b.Fatal(err)
	}
	return report
}

// sql runs a statement behind the store's back.
func (b *bench) sql(statement string, args ...any) {
	b.Helper()
	driver, at := "sqlite", b.db()
	if url := os.Getenv(storeURL); url != "" {
		driver, at = "pgx", url
		statement = inPostgres(statement)
	}
	db, err := sql.Open(driver, at)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.Exec(statement, args...); err != nil {
		b.Fatal(err)
	}
}

func TestTheLogIsGood(t *testing.T) {
	b := open(t)
	b.write(33)
	report := b.verify(trail.Options{})
	if report.Bad != nil || report.Records != 33 {
		t.Errorf("report %+v", report)
	}
	head, signature, err := b.log.Head(t.Context())
	if err != nil || head.Note(signature) != report.Checkpoint {
		t.Errorf("head %+v, %v; the copy ends with\n%s", head, err, report.Checkpoint)
	}
	b.reopen()
	b.write(3)
	if report := b.verify(trail.Options{Checkpoints: []string{report.Checkpoint}}); report.Bad != nil || report.Records != 36 {
		t.Errorf("after opening it again: %+v", report)
	}
	if info, err := os.Stat(filepath.Join(b.dir, "audit/signing.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}
}

func TestManyWriteAtOnce(t *testing.T) {
	b := open(t)
	group := life.NewGroup(t.Context())
	for w := range 8 {
		group.Go("write", func(ctx context.Context) error {
			for i := range 10 {
				if err := b.log.Write(ctx, act(fmt.Sprint("w", w), fmt.Sprint(i))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if report := b.verify(trail.Options{}); report.Bad != nil || report.Records != 80 {
		t.Errorf("report %+v", report)
	}
}

// A change and its record are there together, or neither is.
func TestRecordsRideWithChanges(t *testing.T) {
	b := open(t)
	put := func(ctx context.Context, name string, fail error) error {
		return b.store.Update(ctx, func(tx *store.Tx) error {
			return errors.Join(tx.PutNode(&controlv1.Node{Name: name}), fail)
		})
	}
	has := func(name string) bool {
		return b.store.View(t.Context(), func(tx *store.Tx) error { _, err := tx.Node(name); return err }) == nil
	}
	size := func() uint64 { head, _, _ := b.log.Head(t.Context()); return head.Size }

	ctx, written := b.log.Ride(t.Context(), act("u", "i"))
	if err := put(ctx, "fails", errors.New("no")); err == nil || written() || has("fails") || size() != 0 {
		t.Errorf("a change that failed: %v, written %v, size %d", err, written(), size())
	}
	if err := errors.Join(put(ctx, "a", nil), put(ctx, "b", nil)); err != nil || !written() || size() != 1 {
		t.Errorf("two changes of one call: %v, written %v, size %d; want one record", err, written(), size())
	}

	// Where the record cannot be written there is no change.
	b.sql("DROP TABLE audit_head")
	ctx, written = b.log.Ride(t.Context(), act("u", "i"))
	if err := put(ctx, "c", nil); err == nil || written() || has("c") {
		t.Errorf("a change without a record: %v, written %v, there %v", err, written(), has("c"))
	}
	if got := testutil.ToFloat64(b.log.refused); got != 1 {
		t.Errorf("%v refusals were counted, want 1", got)
	}
	if err := put(t.Context(), "d", nil); err != nil || !has("d") {
		t.Errorf("a change that nobody need record: %v", err)
	}
}

// Whoever changes the store is found, by the first record that is wrong.
func TestAStoreThatWasChangedIsFound(t *testing.T) { testChangesAreFound(t, func(*testing.T) {}) }

// testChangesAreFound changes a new store each time.
func testChangesAreFound(t *testing.T, fresh func(*testing.T)) {
	for name, tc := range map[string]struct {
		statement string
		bad       uint64
	}{
		"changed":      {`UPDATE audit_records SET body = replace(body, 'inc-7', 'inc-8') WHERE seq = 7`, 7},
		"signature":    {`UPDATE audit_records SET signature = (SELECT signature FROM audit_records WHERE seq = 1) WHERE seq = 5`, 5},
		"deleted":      {`DELETE FROM audit_records WHERE seq = 4`, 4},
		"emptied":      {`UPDATE audit_records SET body = x'' WHERE seq = 3`, 3},
		"moved":        {`UPDATE audit_records SET seq = 100 - seq WHERE seq = 2`, 2},
		"changed leaf": {`UPDATE audit_records SET body = replace(body, 'u0', 'u9') WHERE seq = 6`, 6},
	} {
		t.Run(name, func(t *testing.T) {
			fresh(t)
			b := open(t)
			b.write(12)
			b.sql(tc.statement)
			if report := b.verify(trail.Options{}); report.Bad == nil || report.Bad.Index != tc.bad {
				t.Errorf("found %v, want record %d", report.Bad, tc.bad)
			}
		})
	}
	t.Run("another key", func(t *testing.T) {
		fresh(t)
		b := open(t)
		b.write(3)
		if err := os.Remove(filepath.Join(b.dir, "audit/signing.key")); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), b.log.config, Deps{Store: b.store, Log: testkit.Logger(t), Metrics: prometheus.NewRegistry(), Clock: time.Now})
		if !fault.Is(err, fault.Corrupt) {
			t.Errorf("a log whose key is gone was opened: %v", err)
		}
	})
}

// run runs the log until the copy satisfies a condition.
func (b *bench) run(what string, holds func(copied []byte) bool) {
	b.Helper()
	group := life.NewGroup(b.Context())
	group.Go("audit", b.log.Run)
	testkit.Eventually(b, what, func() bool {
		text, err := os.ReadFile(filepath.Join(b.dir, "copy", copyName))
		return err == nil && holds(text)
	})
	group.Stop()
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
}

func TestCopiesFollow(t *testing.T) {
	b := open(t)
	b.write(5)
	lines := func(n int) func([]byte) bool {
		return func(text []byte) bool { return bytes.Count(text, []byte("\n")) == n+1 }
	}
	b.run("a copy of 5 records", lines(5))
	// The machine stopped while a line was written.
	path, note, err := CopyFiles(filepath.Join(b.dir, "copy"))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(path)
	if err := os.WriteFile(path, append(text, `{"record":{"act`...), 0o600); err != nil {
		t.Fatal(err)
	}
	b.write(4)
	b.run("a copy of 9 records", lines(9))
	text, _ = os.ReadFile(path)
	report, err := trail.Verify(bytes.NewReader(text), trail.Options{Key: b.log.PublicKey(), Checkpoints: []string{note}})
	if err != nil || report.Bad != nil || report.Records != 9 {
		t.Errorf("the copy: %+v, %v", report, err)
	}
	_, note, _ = CopyFiles(filepath.Join(b.dir, "copy"))
	if note != report.Checkpoint {
		t.Errorf("checkpoint beside the copy\n%s\nwant\n%s", note, report.Checkpoint)
	}

	// The store's end is cut off, and the log goes on from there: the copy knows.
	b.sql("DELETE FROM audit_records WHERE seq >= 6")
	b.sql("DELETE FROM audit_hashes WHERE position >= 10")
	b.sql("UPDATE audit_head SET size = 6")
	b.reopen()
	b.write(6)
	group := life.NewGroup(t.Context())
	group.Go("audit", b.log.Run)
	testkit.Eventually(t, "the copy to say that the log was changed", func() bool {
		return testutil.ToFloat64(b.log.astray.WithLabelValues(filepath.Join(b.dir, "copy"))) == 1
	})
	group.Stop()
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if report := b.verify(trail.Options{Checkpoints: []string{note}}); report.Bad == nil {
		t.Error("the log that was cut off is good against the copy's checkpoint")
	}
	if report := b.verify(trail.Options{Copy: bytes.NewReader(text)}); report.Bad == nil || report.Bad.Index != 6 {
		t.Errorf("against the copy: %v, want record 6", report.Bad)
	}
}

func TestRetention(t *testing.T) {
	b := open(t)
	b.write(2) // act: SOX, seven years
	read := trail.Record{Class: trail.Read, Actor: trail.Actor{Kind: "user", ID: "u"}, Action: "ListRuns", Outcome: "ok"}
	for range 3 {
		if err := b.log.Write(t.Context(), read); err != nil {
			t.Fatal(err)
		}
	}
	b.write(1)
	b.now = b.now.Add(91 * day)
	if err := b.log.LetGo(t.Context()); err != nil {
		t.Fatal(err)
	}
	report := b.verify(trail.Options{})
	if report.Bad != nil || report.LetGo != 3 || report.Records != 7 {
		t.Errorf("after 91 days: %+v", report)
	}
	found, err := b.log.Search(t.Context(), store.AuditQuery{Class: string(trail.Log)})
	if err != nil || len(found) != 1 || found[0].Detail["ranges"] != "2-4" {
		t.Errorf("the log says of itself: %+v, %v", found, err)
	}
	b.now = b.now.Add(8 * 366 * day)
	if err := b.log.LetGo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if report = b.verify(trail.Options{}); report.Bad != nil || report.LetGo != 6 {
		t.Errorf("after years: %+v", report)
	}
	if err := b.log.LetGo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if head, _, _ := b.log.Head(t.Context()); head.Size != 8 {
		t.Errorf("what is gone was let go of again: %d records", head.Size)
	}
}

func TestSearchAndActivity(t *testing.T) {
	b := open(t)
	b.write(6)
	denied := act("u1", "inc-1")
	denied.Class, denied.Outcome = trail.Denied, "denied"
	if err := b.log.Write(t.Context(), denied); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		query store.AuditQuery
		want  []uint64
	}{
		"actor":   {store.AuditQuery{Actor: "user/u0"}, []uint64{0, 2, 4}},
		"object":  {store.AuditQuery{Object: "inc-1"}, []uint64{1, 6}},
		"outcome": {store.AuditQuery{Outcome: "denied"}, []uint64{6}},
		"action":  {store.AuditQuery{Action: "ResolveIncident", Newest: true, Limit: 2}, []uint64{6, 5}},
		"wild":    {store.AuditQuery{Action: "%"}, nil},
		"places":  {store.AuditQuery{From: 2, Before: 4}, []uint64{2, 3}},
		"later":   {store.AuditQuery{Since: b.now.Add(time.Second)}, nil},
	} {
		found, err := b.log.Search(t.Context(), tc.query)
		var got []uint64
		for _, r := range found {
			got = append(got, r.Seq)
		}
		if err != nil || fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("%s: %v, %v; want %v", name, got, err, tc.want)
		}
	}
	counts, err := b.log.Activity(t.Context(), "user/u1", b.now, b.now.Add(time.Hour))
	if err != nil || len(counts) != 2 || counts[0].Count != 3 || counts[1].Outcome != "denied" {
		t.Errorf("activity %+v, %v", counts, err)
	}
}

func TestProofsOfTheLog(t *testing.T) {
	b := open(t)
	b.write(9)
	older, signature, _ := b.log.Head(t.Context())
	b.write(8)
	for seq := range uint64(17) {
		p, err := b.log.Prove(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		head, err := trail.OpenCheckpoint(b.log.key, p.Checkpoint)
		if err != nil {
			t.Fatal(err)
		}
		if err := trail.CheckInclusion(head, seq, p.Entry.Leaf, p.Hashes); err != nil {
			t.Errorf("record %d: %v", seq, err)
		}
	}
	if _, err := b.log.Prove(t.Context(), 17); !fault.Is(err, fault.NotFound) {
		t.Errorf("a record that there is not: %v", err)
	}
	checkpoint, hashes, err := b.log.ProveGrowth(t.Context(), older.Size)
	if err != nil {
		t.Fatal(err)
	}
	newer, err := trail.OpenCheckpoint(b.log.key, checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	if err := trail.CheckConsistency(older, newer, hashes); err != nil || signature == "" {
		t.Errorf("growth from %d to %d: %v", older.Size, newer.Size, err)
	}
	if _, _, err := b.log.ProveGrowth(t.Context(), 18); !fault.Is(err, fault.Precondition) {
		t.Errorf("growth from a size that never was: %v", err)
	}
}

func TestConfig(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Config)
		says   string
	}{
		"good":      {func(*Config) {}, ""},
		"no key":    {func(c *Config) { c.KeyFile = "" }, "key_file"},
		"class":     {func(c *Config) { c.Flags["gossip"] = nil }, "gossip"},
		"flag":      {func(c *Config) { c.Flags["act"] = []string{"BASEL"} }, "BASEL"},
		"unflagged": {func(c *Config) { delete(c.Retention, Unflagged) }, Unflagged},
	} {
		c := Defaults("x")
		tc.change(&c)
		var said []string
		c.Check(func(key, format string, args ...any) { said = append(said, key+": "+fmt.Sprintf(format, args...)) })
		if got := strings.Join(said, "\n"); (tc.says == "") != (got == "") || !strings.Contains(got, tc.says) {
			t.Errorf("%s: said %q, want %q", name, got, tc.says)
		}
	}
}

func BenchmarkAudit(b *testing.B) {
	s, err := store.Open(b.Context(), storeAt(filepath.Join(b.TempDir(), "vigil.db")), store.Deps{Log: testkit.Logger(b)})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	l, err := Open(b.Context(), Defaults(b.TempDir()), Deps{Store: s, Log: testkit.Logger(b), Metrics: prometheus.NewRegistry(), Clock: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	put := func(ctx context.Context) error {
		return s.Update(ctx, func(tx *store.Tx) error { return tx.PutNode(&controlv1.Node{Name: "n"}) })
	}
	var once sync.Once
	for name, call := range map[string]func() error{
		"change": func() error { return put(b.Context()) },
		"change with record": func() error {
			ctx, _ := l.Ride(b.Context(), act("u", "i"))
			return put(ctx)
		},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := call(); err != nil {
					once.Do(func() { b.Error(err) })
				}
			}
		})
	}
}
