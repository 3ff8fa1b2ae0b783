package people

import (
	"context"
	"encoding/json"
	"regexp"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Find gives the subjects that a text means: an e-mail address, kind/id, or the
// id of a user. It fails with [fault.NotFound] when there are none.
func (b *Book) Find(tx *store.Tx, person string) (found []store.Subject, err error) {
	switch {
	case strings.Contains(person, "@"):
		found, err = tx.SubjectsOfEmail(b.emailDigest(person))
	default:
		if !strings.Contains(person, "/") {
			person = "user/" + person
		}
		var s store.Subject
		s, err = tx.Subject(person)
		found = []store.Subject{s}
	}
	if err == nil && len(found) == 0 || fault.Is(err, fault.NotFound) {
		return nil, fault.WithHint(fault.New(fault.NotFound, "nobody is known by that"),
			"give an e-mail address, or kind/id as agentctl audit search shows it; who was erased is not found by the address")
	}
	return found, err
}

// Show gives who a subject is.
func (b *Book) Show(s store.Subject) (*controlv1.Person, error) {
	p, err := b.profile(s)
	if err != nil {
		return nil, err
	}
	out := &controlv1.Person{
		Subject: s.Subject, Name: p.Name, Email: p.Email, Login: p.Login,
		Created: timestamppb.New(s.Created), Changed: timestamppb.New(s.Changed),
	}
	if !s.Erased.IsZero() {
		out.Erased = timestamppb.New(s.Erased)
	}
	return out, nil
}

func (b *Book) profile(s store.Subject) (p Profile, err error) {
	if len(s.Key) == 0 || len(s.Profile) == 0 {
		return p, nil
	}
	key, err := b.open(s)
	if err != nil {
		return p, err
	}
	text, err := key.Decrypt(s.Profile, profileOf(s))
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return p, fault.New(fault.Corrupt, "open who %s is: %w", s.Subject, err)
	}
	return p, nil
}

// Erase destroys a subject's key. One that was erased stays so.
func (b *Book) Erase(tx *store.Tx, s store.Subject) error {
	if len(s.Key) == 0 {
		return nil
	}
	s.Key, s.Profile, s.Email = nil, nil, ""
	s.Erased = b.deps.Clock()
	return tx.PutSubject(s)
}

// Erased has what was erased leave memory and, as far as the database can, the
// disk; it is called after the transaction.
func (b *Book) Erased(ctx context.Context, subjects int) {
	b.erased.Add(float64(subjects))
	b.forget()
	if err := b.deps.Store.Scrub(ctx); err != nil {
		b.deps.Log.Warn("what was overwritten may still be on the disk of the store for a while", "error", err)
	}
}

// pseudonyms matches how records name people.
func pseudonyms() *regexp.Regexp { return regexp.MustCompile(`user/u-[a-z2-7]{16}`) }

// Name puts names in the place of the pseudonyms in a text, where they are known.
func (b *Book) Name(ctx context.Context, text string) string {
	if !strings.Contains(text, "user/u-") {
		return text
	}
	return b.form.ReplaceAllStringFunc(text, func(subject string) string {
		if name := b.nameOf(ctx, subject); name != "" {
			return name
		}
		return subject
	})
}

// nameOf gives a subject's name; "" where none is known, or cannot be told now.
func (b *Book) nameOf(ctx context.Context, subject string) string {
	b.mu.Lock()
	name, ok := b.names[subject]
	b.mu.Unlock()
	if ok {
		return name
	}
	err := b.deps.Store.View(ctx, func(tx *store.Tx) error {
		s, err := tx.Subject(subject)
		if err != nil {
			return err
		}
		p, err := b.profile(s)
		name = p.Name
		return err
	})
	if err != nil && !fault.Is(err, fault.NotFound) {
		return ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.names) >= keptMost {
		clear(b.names)
	}
	b.names[subject] = name
	return name
}
