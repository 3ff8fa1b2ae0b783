package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Sealer stands for encryption: what is sealed is the text backwards behind the
// key's prefix and what it is of. It is for one goroutine to change.
type Sealer struct{ Key byte }

// Prefix begins what is sealed now.
func (s *Sealer) Prefix() []byte { return []byte{1, s.Key} }

// Encrypt seals.
func (s *Sealer) Encrypt(plain, of []byte) ([]byte, error) {
	text := append(slices.Clone(plain), of...)
	slices.Reverse(text)
	return append(s.Prefix(), text...), nil
}

// Decrypt opens what any key sealed.
func (s *Sealer) Decrypt(sealed, of []byte) ([]byte, error) {
	if len(sealed) < 2 || sealed[0] != 1 {
		return nil, errors.New("it is not sealed")
	}
	text := slices.Clone(sealed[2:])
	slices.Reverse(text)
	plain, ok := bytes.CutSuffix(text, of)
	if !ok {
		return nil, errors.New("it is of something else")
	}
	return plain, nil
}

func testPeople(t *testing.T, b *bench) {
	at := time.Unix(0, 5000).UTC()
	ada := store.Subject{Subject: "user/ada", KeyID: "k1", Key: []byte{1, 1, 9}, Profile: []byte("p"), Email: "e", Created: at, Changed: at}
	bob := store.Subject{Subject: "user/bob", KeyID: "k2", Key: []byte{1, 2, 9}, Profile: []byte("q"), Created: at, Changed: at}
	b.update(func(tx *store.Tx) error { return errors.Join(tx.PutSubject(ada), tx.PutSubject(bob)) })
	b.view(func(tx *store.Tx) error {
		got, err := tx.Subject("user/ada")
		b.must(err)
		b.same("subject", got, ada)
		of, err := tx.SubjectsOfEmail("e")
		b.must(err)
		b.same("by address", of, []store.Subject{ada})
		none, err := tx.SubjectsOfEmail("")
		b.must(err)
		b.same("by no address", len(none), 0)
		behind, err := tx.SubjectsBehind([]byte{1, 1}, 10)
		b.must(err)
		b.same("behind", behind, []store.Subject{bob})
		all, with, err := tx.CountSubjects([]byte{1, 1})
		b.must(err)
		b.same("counts", []int64{all, with}, []int64{2, 1})
		if _, err := tx.Subject("user/eve"); !fault.Is(err, fault.NotFound) {
			t.Errorf("who there is not: %v", err)
		}
		return nil
	})
	b.update(func(tx *store.Tx) error {
		erased := ada
		erased.Key, erased.Profile, erased.Email, erased.Erased = nil, nil, "", at
		return tx.PutSubject(erased)
	})
	b.view(func(tx *store.Tx) error {
		all, with, err := tx.CountSubjects([]byte{1, 1})
		b.must(err)
		b.same("counts without who was erased", []int64{all, with}, []int64{1, 0})
		return nil
	})
	b.must(b.store.Scrub(t.Context()))
}

func testRecordKeys(t *testing.T, b *bench) {
	b.view(func(tx *store.Tx) error {
		if _, _, err := tx.RecordKeys(); !fault.Is(err, fault.NotFound) {
			t.Errorf("keys that there are not: %v", err)
		}
		if _, err := tx.LocalAdmin(); !fault.Is(err, fault.NotFound) {
			t.Errorf("an administrator that there is not: %v", err)
		}
		return nil
	})
	for n, tc := range []struct {
		body   string
		before int64
		taken  bool
	}{{"a", 0, true}, {"b", 0, false}, {"c", 1, true}, {"d", 1, false}, {"e", 2, true}} {
		err := b.store.Update(t.Context(), func(tx *store.Tx) error { return tx.PutRecordKeys([]byte(tc.body), tc.before) })
		if (err == nil) != tc.taken || (err != nil && !fault.Is(err, fault.Precondition)) {
			t.Errorf("write %d: %v", n, err)
		}
	}
	b.update(func(tx *store.Tx) error {
		return errors.Join(tx.PutLocalAdmin([]byte("h1")), tx.PutLocalAdmin([]byte("h2")))
	})
	b.view(func(tx *store.Tx) error {
		body, version, err := tx.RecordKeys()
		b.must(err)
		b.same("keys", fmt.Sprint(string(body), version), "e3")
		hash, err := tx.LocalAdmin()
		b.must(err)
		b.same("administrator", string(hash), "h2")
		return nil
	})
}

// testReseal: what was written in the clear, or with another key, is written with
// the present one, step by step, and reads as before.
func testReseal(t *testing.T, b *bench) {
	incident := &controlv1.Incident{IncidentId: "i1", AcknowledgedBy: "ada", State: controlv1.IncidentState_INCIDENT_STATE_FIRING, Opened: timestamppb.New(time.Unix(9, 0))}
	silence := &controlv1.Silence{SilenceId: "s1", Author: "ada", Comment: "why", Ends: timestamppb.New(time.Unix(9, 0))}
	write := func(n int) {
		b.update(func(tx *store.Tx) error {
			return errors.Join(tx.PutIncident(store.IncidentRecord{Incident: incident}), tx.PutSilence(silence),
				tx.AddTimeline("i1", &controlv1.TimelineEntry{Text: fmt.Sprint("ada took it ", n), Author: "ada"}),
				tx.PutTask(&controlv1.CheckpointTask{TaskId: "t1", Reason: "ada wants it"}))
		})
	}
	write(1)
	sealer := &Sealer{Key: 1}
	b.store.Protect(sealer)
	write(2)
	for _, key := range []byte{1, 2} {
		sealer.Key = key
		for done := 1; done > 0; {
			b.update(func(tx *store.Tx) (err error) { done, err = tx.Reseal(sealer.Prefix(), 2); return err })
			if done > 2 {
				t.Fatalf("a step took %d", done)
			}
		}
		b.view(func(tx *store.Tx) error {
			all, still, err := tx.Behind(sealer.Prefix())
			b.must(err)
			// An incident, a silence, two entries, a task, and what exporters get.
			b.same("left", []int64{all, still}, []int64{6, 0})
			got, err := tx.Incident("i1")
			b.must(err)
			b.same("acknowledged by", got.GetAcknowledgedBy(), "ada")
			b.same("timeline", []string{got.Timeline[0].Text, got.Timeline[1].Text}, []string{"ada took it 1", "ada took it 2"})
			s, err := tx.Silence("s1")
			b.must(err)
			b.same("silence", s, silence)
			exported, err := tx.ExportRecords(0, 10)
			b.must(err)
			b.same("exported", len(exported), 1) // the second write changed nothing
			return nil
		})
	}
}
