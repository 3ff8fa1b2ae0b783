package api

import (
	"context"

	"google.golang.org/grpc"

	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/people"
	"github.com/vigil-ml/vigil/controlplane/store"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// People keeps who people are; people has a book of them.
type People interface {
	// Find gives the subjects that a text means.
	Find(tx *store.Tx, person string) ([]store.Subject, error)
	// Show gives who a subject is.
	Show(s store.Subject) (*controlv1.Person, error)
	// Erase destroys a subject's key.
	Erase(tx *store.Tx, s store.Subject) error
	// Erased is told after the transaction, with how many were erased.
	Erased(ctx context.Context, subjects int)
}

const hintPerson = "an e-mail address, or kind/id as agentctl audit search shows it"

// persons is the PeopleService.
type persons struct {
	controlv1.UnimplementedPeopleServiceServer
	store  *store.Store
	people People
	log    *audit.Log
}

// find gives who a text means.
func (s *persons) find(ctx context.Context, person string) (subjects []store.Subject, err error) {
	if err := required("person", person, hintPerson); err != nil {
		return nil, err
	}
	err = s.store.View(ctx, func(tx *store.Tx) (err error) {
		subjects, err = s.people.Find(tx, person)
		return err
	})
	return subjects, err
}

// LookupPerson tells who somebody is.
func (s *persons) LookupPerson(ctx context.Context, in *controlv1.LookupPersonRequest) (*controlv1.LookupPersonResponse, error) {
	found, err := s.find(ctx, in.Person)
	if err != nil {
		return nil, err
	}
	out := &controlv1.LookupPersonResponse{}
	for _, subject := range found {
		person, err := s.people.Show(subject)
		if err != nil {
			return nil, err
		}
		out.People = append(out.People, person)
	}
	return out, nil
}

// exportRecords is how many audit records one message of an export has.
const exportRecords = 500

// ExportPerson streams all that is kept of a person.
func (s *persons) ExportPerson(in *controlv1.ExportPersonRequest, out grpc.ServerStreamingServer[controlv1.ExportPersonResponse]) error {
	found, err := s.find(out.Context(), in.Person)
	if err != nil {
		return err
	}
	for _, subject := range found {
		person, err := s.people.Show(subject)
		if err != nil {
			return err
		}
		if err := out.Send(&controlv1.ExportPersonResponse{Person: person}); err != nil {
			return err
		}
		query := store.AuditQuery{Actor: subject.Subject, Newest: true, Limit: exportRecords}
		for {
			records, err := s.log.SearchPersonal(out.Context(), query)
			if err != nil {
				return err
			}
			if len(records) == 0 {
				break
			}
			part := &controlv1.ExportPersonResponse{}
			for _, r := range records {
				part.Records = append(part.Records, shownRecord(r))
			}
			if err := out.Send(part); err != nil {
				return err
			}
			last := records[len(records)-1].Seq
			if query.Before = last; last == 0 {
				break
			}
		}
	}
	return nil
}

// ErasePerson destroys a person's keys.
func (s *persons) ErasePerson(ctx context.Context, in *controlv1.ErasePersonRequest) (*controlv1.ErasePersonResponse, error) {
	if err := required("person", in.Person, hintPerson); err != nil {
		return nil, err
	}
	out := &controlv1.ErasePersonResponse{}
	do := func(tx *store.Tx) error {
		out.Reset()
		found, err := s.people.Find(tx, in.Person)
		if err != nil {
			return err
		}
		for _, subject := range found {
			records, err := tx.CountAudit(subject.Subject)
			if err == nil && !in.DryRun {
				err = s.people.Erase(tx, subject)
			}
			if err != nil {
				return err
			}
			out.Subjects, out.Records = append(out.Subjects, subject.Subject), out.Records+records
		}
		return nil
	}
	if in.DryRun {
		return out, s.store.View(ctx, do)
	}
	if err := s.store.Update(ctx, do); err != nil {
		return nil, err
	}
	s.people.Erased(context.WithoutCancel(ctx), len(out.Subjects))
	return out, nil
}

// RecordKeys are the keys of the control plane's records; people has them.
type RecordKeys interface {
	// Rotate replaces the outer key and, where fresh, adds one for new data.
	Rotate(ctx context.Context, fresh bool) error
	// State tells which there are.
	State() people.State
}

// recordKeys is the KeyService.
type recordKeys struct {
	controlv1.UnimplementedKeyServiceServer
	keys     RecordKeys
	progress func(ctx context.Context) (total, done int64, err error)
}

// GetRecordKeys tells which keys there are, and how far re-encryption is.
func (s *recordKeys) GetRecordKeys(ctx context.Context, _ *controlv1.GetRecordKeysRequest) (*controlv1.GetRecordKeysResponse, error) {
	keys, err := s.show(ctx)
	if err != nil {
		return nil, err
	}
	return &controlv1.GetRecordKeysResponse{Keys: keys}, nil
}

// RotateRecordKeys replaces the outer key and, where it is asked to, adds a key.
func (s *recordKeys) RotateRecordKeys(ctx context.Context, in *controlv1.RotateRecordKeysRequest) (*controlv1.RotateRecordKeysResponse, error) {
	if err := s.keys.Rotate(ctx, in.NewDataKey); err != nil {
		return nil, err
	}
	keys, err := s.show(ctx)
	if err != nil {
		return nil, err
	}
	return &controlv1.RotateRecordKeysResponse{Keys: keys}, nil
}

func (s *recordKeys) show(ctx context.Context) (*controlv1.RecordKeys, error) {
	state := s.keys.State()
	total, done, err := s.progress(ctx)
	if err != nil {
		return nil, err
	}
	return &controlv1.RecordKeys{
		KekId: state.KEK, ConfiguredKekId: state.ConfiguredKEK, PrimaryKeyId: state.Primary, Keys: int32(state.Keys), Total: total, Done: done,
	}, nil
}
