package people_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/people"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	ada = "user/u-abcdefghijklmnop"
	bob = "user/u-qrstuvwxyz234567"
)

// site is an installation's records, audit log and book of people.
type site struct {
	*testing.T
	dir   string
	store *store.Store
	log   *audit.Log
	book  *people.Book
}

func open(t *testing.T) *site {
	t.Helper()
	s := &site{T: t, dir: t.TempDir()}
	var err error
	if s.store, err = store.Open(t.Context(), store.Config{Path: s.db()}, store.Deps{Log: testkit.Logger(t)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.store.Close() })
	if err := s.start(envelope.Settings{}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) db() string { return filepath.Join(s.dir, "vigil.db") }

// start opens the log and the book, as a control plane does.
func (s *site) start(config envelope.Settings) (err error) {
	s.Helper()
	s.log, err = audit.Open(s.Context(), audit.Defaults(filepath.Join(s.dir, "audit")), audit.Deps{
		Store: s.store, Log: testkit.Logger(s), Metrics: prometheus.NewRegistry(), Clock: time.Now,
	})
	if err != nil {
		s.Fatal(err)
	}
	s.book, err = people.Open(s.Context(), config, people.Deps{Store: s.store, Audit: s.log, Log: testkit.Logger(s), Metrics: prometheus.NewRegistry(), Clock: time.Now})
	return err
}

func (s *site) know(subject string, p people.Profile) {
	s.Helper()
	if err := s.book.Know(s.Context(), subject, p); err != nil {
		s.Fatal(err)
	}
}

// act has somebody do something, which is recorded.
func (s *site) act(subject, address string) {
	s.Helper()
	kind, id, _ := strings.Cut(subject, "/")
	err := s.log.Write(s.Context(), trail.Record{
		Class: trail.Act, Actor: trail.Actor{Kind: kind, ID: id}, Action: "x", Outcome: "ok", Personal: map[string]string{"address": address},
	})
	if err != nil {
		s.Fatal(err)
	}
}

func (s *site) find(person string) (found []store.Subject, err error) {
	err = s.store.View(s.Context(), func(tx *store.Tx) (err error) { found, err = s.book.Find(tx, person); return err })
	return found, err
}

func (s *site) erase(person string) {
	s.Helper()
	err := s.store.Update(s.Context(), func(tx *store.Tx) error {
		found, err := s.book.Find(tx, person)
		for _, subject := range found {
			if err := s.book.Erase(tx, subject); err != nil {
				return err
			}
		}
		return err
	})
	if err != nil {
		s.Fatal(err)
	}
	s.book.Erased(s.Context(), 1)
}

// addresses gives what somebody's records say of where they came from.
func (s *site) addresses(subject string) (all []string) {
	s.Helper()
	records, err := s.log.SearchPersonal(s.Context(), store.AuditQuery{Actor: subject})
	if err != nil {
		s.Fatal(err)
	}
	for _, r := range records {
		address := r.Personal["address"]
		if r.Erased {
			address = "erased"
		}
		all = append(all, address)
	}
	return all
}

// export is a copy of the log, which is checked.
func (s *site) export() []byte {
	s.Helper()
	var out bytes.Buffer
	if err := s.log.Export(s.Context(), func(text []byte) error { _, err := out.Write(text); return err }); err != nil {
		s.Fatal(err)
	}
	report, err := trail.Verify(bytes.NewReader(out.Bytes()), trail.Options{Key: s.log.PublicKey()})
	if err != nil || report.Bad != nil {
		s.Errorf("the log: %v, %v", report.Bad, err)
	}
	return out.Bytes()
}

// onDisk tells whether a text lies in the database's files.
func (s *site) onDisk(text []byte) bool {
	s.Helper()
	files, err := filepath.Glob(s.db() + "*")
	if err != nil {
		s.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			s.Fatal(err)
		}
		if bytes.Contains(data, text) {
			return true
		}
	}
	return false
}

// TestWhoIsErasedCannotBeRead: with the key gone nobody can tell any more what
// records said, the log is as it was, and others are as they were.
func TestWhoIsErasedCannotBeRead(t *testing.T) {
	s := open(t)
	s.know(ada, people.Profile{Name: "Ada Lovelace", Email: "Ada@example.org", Login: "ada"})
	s.know(bob, people.Profile{Name: "Bob", Email: "bob@example.org"})
	for _, subject := range []string{ada, bob, ada} {
		s.act(subject, "192.0.2.7")
	}
	found, err := s.find("ada@EXAMPLE.org")
	if err != nil || len(found) != 1 || found[0].Subject != ada {
		t.Fatalf("found %+v, %v", found, err)
	}
	if p, err := s.book.Show(found[0]); err != nil || p.GetName() != "Ada Lovelace" || p.GetLogin() != "ada" {
		t.Errorf("shown as %v, %v", p, err)
	}
	if got := s.book.Name(t.Context(), ada+" took it, then "+bob); got != "Ada Lovelace took it, then Bob" {
		t.Errorf("named: %q", got)
	}
	before := s.export()
	if bytes.Contains(before, []byte("192.0.2.7")) || s.onDisk([]byte("Lovelace")) || s.onDisk([]byte("192.0.2.7")) {
		t.Error("what is said of people lies in the clear")
	}
	if key := found[0].Key; !s.onDisk(key) {
		t.Fatal("the key is not on the disk to begin with")
	}

	s.erase(ada)
	if got := s.addresses(ada); !cmp.Equal(got, []string{"erased", "erased"}) {
		t.Errorf("records of who was erased say %q", got)
	}
	if got := s.addresses(bob); !cmp.Equal(got, []string{"192.0.2.7"}) {
		t.Errorf("records of another say %q", got)
	}
	if s.onDisk(found[0].Key) || s.onDisk(found[0].Profile) {
		t.Error("the key, or who it was, is still in the database's files")
	}
	if _, err := s.find("ada@example.org"); !fault.Is(err, fault.NotFound) {
		t.Errorf("found by the address: %v", err)
	}
	if got := s.book.Name(t.Context(), ada+" took it"); got != ada+" took it" {
		t.Errorf("named: %q", got)
	}
	if after := s.export(); !bytes.Equal(before, after[:len(before)]) {
		t.Error("the log was changed")
	}

	// Who comes again is somebody new: what was before stays closed.
	s.know(ada, people.Profile{Name: "Ada"})
	s.act(ada, "192.0.2.8")
	if got := s.addresses(ada); !cmp.Equal(got, []string{"erased", "erased", "192.0.2.8"}) {
		t.Errorf("after coming again: %q", got)
	}
}

// keyFile makes an outer key.
func keyFile(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(envelope.Generate()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestKeysAreReplaced: the outer key at once, the records' keys little by little,
// while others go on writing; what is written in the clear is encrypted then.
func TestKeysAreReplaced(t *testing.T) {
	s := open(t)
	s.know(ada, people.Profile{Name: "Ada"})
	s.act(ada, "192.0.2.7")
	silence := func(id string) *controlv1.Silence {
		return &controlv1.Silence{SilenceId: id, Author: "Grace Hopper", Comment: "c", Starts: timestamppb.Now(), Ends: timestamppb.New(time.Now().Add(time.Hour))}
	}
	put := func(id string) {
		t.Helper()
		if err := s.store.Update(t.Context(), func(tx *store.Tx) error { return tx.PutSilence(silence(id)) }); err != nil {
			t.Fatal(err)
		}
	}
	put("s1")
	if s.onDisk([]byte("Grace Hopper")) {
		t.Error("a silence's author lies in the clear")
	}
	before := s.book.Keys().State()
	first := keyFile(t, s.dir, "first")
	if err := s.start(envelope.Settings{KeyFile: first}); err != nil {
		t.Fatal(err)
	}
	if at := s.book.Keys().State(); at.KEK != before.KEK || at.ConfiguredKEK == before.KEK {
		t.Errorf("with another outer key: %+v, before %+v", at, before)
	}
	group := life.NewGroup(t.Context())
	group.Go("sweep", s.book.Sweep)
	group.Go("watch", s.book.Watch)
	group.Go("write", func(ctx context.Context) error {
		for ctx.Err() == nil {
			if err := s.store.Update(ctx, func(tx *store.Tx) error { return tx.PutSilence(silence("busy")) }); err != nil && ctx.Err() == nil {
				return err
			}
		}
		return nil
	})
	for _, fresh := range []bool{false, true} {
		if err := s.book.Keys().Rotate(t.Context(), fresh); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "everything to be encrypted with the new key", func() bool {
		total, done, err := s.book.Progress(t.Context())
		return err == nil && total == done && total >= 3
	})
	group.Stop()
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	at := s.book.Keys().State()
	if at.KEK != at.ConfiguredKEK || at.Primary == before.Primary || at.Keys != 2 {
		t.Errorf("after the change: %+v, before %+v", at, before)
	}
	if got := s.addresses(ada); !cmp.Equal(got, []string{"192.0.2.7"}) {
		t.Errorf("records say %q", got)
	}
	if err := s.start(envelope.Settings{KeyFile: keyFile(t, s.dir, "second")}); !fault.Is(err, fault.Denied) {
		t.Errorf("with an outer key that it was not encrypted with: %v", err)
	}
	if err := s.start(envelope.Settings{KeyFile: first}); err != nil {
		t.Errorf("with the one that it was: %v", err)
	}
	records, err := s.log.Search(t.Context(), store.AuditQuery{Class: string(trail.Key)})
	var actions []string
	for _, r := range records {
		actions = append(actions, r.Action)
	}
	if want := []string{"record keys/make", "record keys/open", "record keys/rewrap", "record keys/add", "record keys/open"}; err != nil || !cmp.Equal(actions, want) {
		t.Errorf("recorded %q, %v; want %q", actions, err, want)
	}
}
